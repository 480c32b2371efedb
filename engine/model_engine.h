// The real Engine: a model directory loaded onto a backend.
//
// See engine.h for what it promises. This header adds how one is made, and what the
// model is.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/create_backend.h"
#include "engine/engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"

namespace goldfinch {

// The most of a device's memory that cache_share can be. The rest is left to what its
// driver takes later: code of kernels, and their stacks.
inline constexpr double kMaxCacheShare = 0.95;

struct ModelEngineOptions {
  std::string model_dir;  // holds config.json and model.safetensors
  BackendOptions backend;
  // On a device a step is queued while the one before it runs, which takes a second state
  // for each sequence; no bit depends on it.
  bool run_ahead = true;
  // Unset: bf16 when the weights are stored in bf16, else f32.
  std::optional<ComputeType> compute_type;
  StorageType weight_storage = StorageType::kCompute;  // of the large matrices
  StorageType cache_storage = StorageType::kCompute;   // of compressed keys
  // V * D * 4 bytes that make rebuilding keys cheaper; no bit depends on it.
  bool vocab_table = false;
  std::int64_t cache_bytes = 1 << 30;  // pool of compressed pages
  // Instead of cache_bytes, where above 0: a share, at most kMaxCacheShare, of the memory
  // that is left when all else is there: the device's or, on the CPU, of host_bytes,
  // which the caller says the engine may take.
  double cache_share = 0.0;
  std::int64_t host_bytes = 0;
  std::int64_t expanded_bytes = 1 << 30;  // arena of expanded keys and values
  std::int32_t max_sequences = 64;        // state slots
  // Rows in one Forward; 0: what suits the backend, 512 on the CPU and 4096 on CUDA.
  std::int32_t max_step_tokens = 0;
  std::int32_t page_tokens = 64;
};

class ModelEngine : public Engine {
 public:
  // Loads and checks everything. An error is one line that names the file, the value
  // and the limit. Takes all memory the engine will ever use.
  static absl::StatusOr<std::unique_ptr<ModelEngine>> Create(
      const ModelEngineOptions& options);
  // The same for a checkpoint already in memory; options.model_dir is ignored.
  static absl::StatusOr<std::unique_ptr<ModelEngine>> Create(
      const ModelEngineOptions& options, const Checkpoint& checkpoint);
  // The same on a backend that is there already; options.backend is ignored.
  static absl::StatusOr<std::unique_ptr<ModelEngine>> Create(
      const ModelEngineOptions& options, const Checkpoint& checkpoint,
      std::unique_ptr<Backend> backend);

  // Whether the device has failed: nothing runs on it any more. Step thread.
  virtual bool lost() const = 0;

  // Whether what it takes (EngineInfo::device_bytes) is memory of this host.
  virtual bool takes_host_memory() const = 0;

  virtual const ModelConfig& config() const = 0;
  virtual std::int64_t num_parameters() const = 0;
  virtual std::int64_t cache_bytes_per_token() const = 0;
  virtual std::int64_t state_bytes_per_sequence() const = 0;
};

}  // namespace goldfinch
