#include "engine/model/checkpoint.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <utility>
#include <vector>

// Inlined, so that the server needs no further shared library.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/bf16.h"
#include "engine/check.h"
#include "engine/model/safetensors_header.h"
#include "engine/model/tensor_layout.h"

namespace goldfinch {
namespace {

// Bytes scanned and hashed together: they are read from memory once and from a cache
// the second time. A multiple of every element's size.
constexpr std::size_t kBlockBytes = 256 * 1024;

absl::Status Refuse(const SafetensorsFile& file, std::string_view tensor,
                    const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat(file.name(), ": tensor ", PrintableName(tensor), " ", why));
}

// "[128, 5*width]" where a width is free.
std::string Asked(const ExpectedTensor& expected) {
  std::string text;
  for (std::size_t axis = 0; axis < expected.shape.size(); ++axis) {
    absl::StrAppend(&text, axis == 0 ? "[" : ", ");
    if (static_cast<std::int32_t>(axis) != expected.width_axis) {
      absl::StrAppend(&text, expected.shape[axis]);
    } else if (expected.width_factor == 1) {
      absl::StrAppend(&text, "width");
    } else {
      absl::StrAppend(&text, expected.width_factor, "*width");
    }
  }
  return absl::StrCat(text, "]");
}

// What is in the file of what the config asks for, in the right shapes and types.
absl::Status CheckExpected(const SafetensorsFile& file,
                           std::span<const ExpectedTensor> expected) {
  std::int64_t pair_width = 0;  // of the w1 before a w2; 0: there was none
  for (const ExpectedTensor& one : expected) {
    const bool second_of_pair = one.name.ends_with("_w2");
    const std::int64_t first_width = second_of_pair ? std::exchange(pair_width, 0) : 0;
    const StoredTensor* stored = file.Find(one.name);
    if (stored == nullptr) {
      if (!one.required) continue;
      return Refuse(
          file, one.name,
          absl::StrCat("is missing; config.json asks for it in shape ", Asked(one)));
    }
    std::int64_t width = 0;
    if (!ShapeMatches(one, stored->shape, &width)) {
      return Refuse(file, one.name,
                    absl::StrCat("has shape ", ShapeToString(stored->shape),
                                 "; config.json asks for ", Asked(one)));
    }
    if (first_width != 0 && width != first_width) {
      return Refuse(
          file, one.name,
          absl::StrCat("has inner width ", width, "; its w1 has ", first_width));
    }
    if (!second_of_pair) pair_width = width;
    if (stored->type == StoredType::kI32) {
      return Refuse(file, one.name, "is of type I32; weights are BF16, F16 or F32");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNoExtra(const SafetensorsFile& file,
                          std::span<const ExpectedTensor> expected) {
  std::set<std::string_view> names;
  for (const ExpectedTensor& one : expected) names.insert(one.name);
  for (const auto& [name, tensor] : file.tensors()) {
    if (!names.contains(name)) {
      return Refuse(file, name, "belongs to no part of the model in config.json");
    }
  }
  return absl::OkStatus();
}

// What of the config decides an output, in a form that never changes: fields that this
// model does not read are left out, and so is ctx_len.
std::string CanonicalConfig(const ModelConfig& config) {
  const bool c2 = config.tmix == TimeMix::kFinchC2;
  std::string text = absl::StrFormat(
      "%s;layers=%d;embd=%d;vocab=%d;att=%d;ffn=%d;head=%d", c2 ? "x060c2" : "x060",
      config.n_layer, config.n_embd, config.vocab_size, config.dim_att, config.dim_ffn,
      config.head_size);
  if (c2) {
    absl::StrAppendFormat(&text, ";one_minus_w=%d;v2=%d", config.use_one_minus_w,
                          config.use_v2);
  } else {
    absl::StrAppendFormat(&text, ";divisor=%.17g", config.head_size_divisor);
  }
  if (config.gold) {
    absl::StrAppendFormat(&text, ";recurrent=%d;compressed=%d", config.num_recurrent(),
                          config.compressed_dim());
  }
  if (config.gold && config.rope.has_value()) {
    absl::StrAppendFormat(&text, ";rope=%.17g,%.17g,%.17g", config.rope->base,
                          config.rope->rescale, config.rope->rebase);
  }
  return text;
}

// A 64-bit hash over a sequence of fields; lengths keep neighbours apart.
class Fingerprint {
 public:
  Fingerprint() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
  ~Fingerprint() { XXH3_freeState(state_); }
  Fingerprint(const Fingerprint&) = delete;
  Fingerprint& operator=(const Fingerprint&) = delete;

  void AddText(std::string_view text) {
    AddNumber(static_cast<std::int64_t>(text.size()));
    XXH3_64bits_update(state_, text.data(), text.size());
  }
  void AddNumber(std::int64_t number) { AddBytes(std::as_bytes(std::span(&number, 1))); }
  void AddBytes(std::span<const std::byte> bytes) {
    XXH3_64bits_update(state_, bytes.data(), bytes.size());
  }
  std::string Digits() const {
    return absl::StrFormat("%016x", XXH3_64bits_digest(state_));
  }

 private:
  XXH3_state_t* const state_;
};

// Hashes a tensor's bytes and returns the index of its first NaN or infinity, or -1.
std::int64_t ScanAndHash(const StoredTensor& tensor, Fingerprint& fingerprint) {
  StoredTensor block{.type = tensor.type};
  for (std::size_t begin = 0; begin < tensor.size; begin += kBlockBytes) {
    block.data = tensor.data + begin;
    block.size = std::min(kBlockBytes, tensor.size - begin);
    fingerprint.AddBytes(std::span(block.data, block.size));
    const std::int64_t found = FirstNonFinite(block);
    if (found < 0) continue;
    return static_cast<std::int64_t>(begin / StoredTypeBytes(tensor.type)) + found;
  }
  return -1;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Load(const std::string& model_dir) {
  const std::filesystem::path dir(model_dir);
  std::error_code ignored;
  if (!std::filesystem::is_directory(dir, ignored)) {
    return absl::NotFoundError(
        absl::StrCat("the model directory ", model_dir, " is not a directory"));
  }
  const absl::StatusOr<ModelConfig> config =
      LoadModelConfig((dir / "config.json").string());
  if (!config.ok()) return config.status();
  auto file = SafetensorsFile::Open((dir / "model.safetensors").string());
  if (!file.ok()) return file.status();

  Checkpoint checkpoint;
  checkpoint.config_ = *config;
  checkpoint.file_ = *std::move(file);
  const std::vector<ExpectedTensor> expected = ExpectedTensors(checkpoint.config_);
  absl::Status status = CheckExpected(*checkpoint.file_, expected);
  if (status.ok()) status = CheckNoExtra(*checkpoint.file_, expected);
  if (status.ok()) status = checkpoint.ReadTensors();
  if (!status.ok()) return status;
  return checkpoint;
}

absl::Status Checkpoint::ReadTensors() {
  Fingerprint fingerprint;
  fingerprint.AddText(CanonicalConfig(config_));
  for (const auto& [name, tensor] : tensors()) {
    fingerprint.AddText(name);
    fingerprint.AddText(StoredTypeName(tensor.type));
    fingerprint.AddText(ShapeToString(tensor.shape));
    const std::int64_t bad = ScanAndHash(tensor, fingerprint);
    if (bad >= 0) {
      return Refuse(*file_, name,
                    absl::StrCat("holds a NaN or an infinity, first at element ", bad));
    }
    stored_bf16_ = stored_bf16_ && tensor.type == StoredType::kBf16;
    num_parameters_ += tensor.num_elements();
  }
  fingerprint_ = fingerprint.Digits();
  return absl::OkStatus();
}

Checkpoint Checkpoint::Random(const ModelConfig& config, std::uint64_t seed) {
  Checkpoint checkpoint;
  checkpoint.config_ = config;
  const std::vector<ExpectedTensor> expected = ExpectedTensors(config);
  const auto elements = [](const ExpectedTensor& tensor) {
    return std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1},
                           std::multiplies<>());
  };
  std::int64_t largest = 0;
  for (const ExpectedTensor& tensor : expected)
    largest = std::max(largest, elements(tensor));
  // Small enough that activations of any width stay near one after each norm.
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-0.05f, 0.05f);
  checkpoint.values_.resize(static_cast<std::size_t>(largest));
  for (std::uint16_t& value : checkpoint.values_) value = RoundToBf16(uniform(random));
  for (const ExpectedTensor& tensor : expected) {
    checkpoint.made_[tensor.name] = {
        .type = StoredType::kBf16,
        .shape = tensor.shape,
        .data = std::as_bytes(std::span(checkpoint.values_)).data(),
        .size = static_cast<std::size_t>(elements(tensor)) * sizeof(std::uint16_t)};
    checkpoint.num_parameters_ += elements(tensor);
  }
  checkpoint.fingerprint_ = absl::StrFormat("%016x", seed);
  return checkpoint;
}

const StoredTensor& Checkpoint::Get(std::string_view name) const {
  const StoredTensor* tensor = Find(name);
  GOLDFINCH_CHECK(tensor != nullptr);
  return *tensor;
}

const StoredTensor& Checkpoint::Layer(std::int32_t layer, std::string_view suffix) const {
  return Get(LayerTensorName(layer, std::string(suffix)));
}

}  // namespace goldfinch
