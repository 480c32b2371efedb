// A model directory: config.json and model.safetensors, found to agree.
//
// Invariant of a loaded checkpoint: every tensor the config asks for is there in the
// shape tensor_layout.h gives it, none is unknown, each is BF16, F16 or F32, both of a
// low-rank pair have the same inner width, and no element is NaN or infinite. Tensors
// stay in the mapped file: copy what you need, then drop the checkpoint.
//
// Threads: everything is constant after Load.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/safetensors.h"

namespace goldfinch {

class Checkpoint {
 public:
  // Reads every byte of the weights once. The error is one line that names the file,
  // the tensor or field, and what was asked for.
  static absl::StatusOr<Checkpoint> Load(const std::string& model_dir);

  // A model of random bf16 weights, made in memory: for benchmarks of shapes nobody has
  // trained. All tensors of one kind share one block of values.
  static Checkpoint Random(const ModelConfig& config, std::uint64_t seed);

  const ModelConfig& config() const { return config_; }
  const SafetensorsFile::TensorMap& tensors() const {
    return file_ != nullptr ? file_->tensors() : made_;
  }

  // A tensor the config asks for (CHECK: any other name is our bug).
  const StoredTensor& Get(std::string_view name) const;
  // Get("blocks.<layer>.<suffix>"), as in Layer(3, "att.key.weight").
  const StoredTensor& Layer(std::int32_t layer, std::string_view suffix) const;
  // For tensors a checkpoint may leave out (`time_faaaa` under use_v2); else null.
  const StoredTensor* Find(std::string_view name) const {
    const auto found = tensors().find(name);
    return found == tensors().end() ? nullptr : &found->second;
  }

  // Whether every tensor is stored in bf16, so that computing in it rounds no weight.
  bool stored_bf16() const { return stored_bf16_; }
  // Elements of all tensors in the file.
  std::int64_t num_parameters() const { return num_parameters_; }
  // 16 hexadecimal digits over everything that decides an output: the config, and the
  // names, types, shapes and bytes of all tensors. The order and the metadata of the
  // file do not count, nor does ctx_len.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  Checkpoint() = default;

  // One pass over all bytes: values, counts and the fingerprint.
  absl::Status ReadTensors();

  ModelConfig config_;
  std::unique_ptr<SafetensorsFile> file_;  // null: Random
  SafetensorsFile::TensorMap made_;        // Random only, views of `values_`
  std::vector<std::uint16_t> values_;
  bool stored_bf16_ = true;
  std::int64_t num_parameters_ = 0;
  std::string fingerprint_;
};

// Inner width of a low-rank pair, from its w2: [width, out] or [groups, width, out].
inline std::int64_t LowRankWidth(const StoredTensor& w2) {
  return w2.shape[w2.shape.size() - 2];
}

}  // namespace goldfinch
