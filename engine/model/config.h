// config.json: the shape of a model, in the authors' field names (arXiv 2407.12077).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/op_args.h"

namespace goldfinch {

// What weights (but for StorageType), matrix inputs, cache and expanded keys and values
// are stored in. The residual stream, norms, matrix outputs, softmax, logits and
// recurrent state are float32 in both.
enum class ComputeType { kF32, kBf16 };

// What the large matrices, or the compressed keys, are kept in: the compute type, or
// int8 with a scale an output, or a row; matrices also in fp8 (e4m3) with a scale an
// output. docs/quantization.md has what it costs.
enum class StorageType { kCompute, kInt8, kFp8 };

// How the recurrent layers mix time.
enum class TimeMix { kFinch, kFinchC2 };  // "x060", "x060c2"

struct Rope {
  double base = 10000.0;
  double rescale = 1.0;
  double rebase = 1.0;
};

struct ModelConfig {
  TimeMix tmix = TimeMix::kFinchC2;
  bool gold = true;  // tmix2 = "gold"; false: "", every layer is recurrent, no cache
  std::int32_t n_layer = 0;
  std::int32_t n_embd = 0;  // D, a multiple of head_size
  std::int32_t vocab_size = 0;
  std::int32_t dim_att = 0;  // A, a multiple of head_size; = D with GOLD layers
  std::int32_t dim_ffn = 0;  // F; a config's 0 is already resolved
  std::int32_t head_size = kHeadSize;
  double head_size_divisor = 8;
  std::int32_t inv_other_layer_ratio = 3;
  std::int32_t kv_cache_compression_ratio = 16;
  std::int32_t ctx_len = 0;  // training length, not a limit
  bool use_one_minus_w = true;
  bool use_v2 = true;
  std::optional<Rope> rope;

  std::int32_t num_heads() const { return dim_att / head_size; }
  // Layers below the first GOLD layer: S = int(L (r-1) / r).
  std::int32_t num_recurrent() const;
  std::int32_t num_gold() const { return n_layer - num_recurrent(); }
  // Elements of one compressed key: D / R.
  std::int32_t compressed_dim() const { return n_embd / kv_cache_compression_ratio; }
};

// Reads and checks a config.json. Every field above is required, and cmix, cmix2 (which
// must be "x060"); rope alone may be absent, which is null. Fields with other names are
// ignored: the authors' configs carry training settings. The error is one line that
// names the field, its value and its bounds.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path);
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json);

}  // namespace goldfinch
