#include "engine/model_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/backend/op_args.h"
#include "engine/model/dtype_names.h"
#include "engine/model/gold_cache.h"

namespace goldfinch {
namespace {

DType StoredAs(StorageType storage, DType compute) {
  switch (storage) {
    case StorageType::kInt8:
      return DType::kI8;
    case StorageType::kFp8:
      return DType::kFp8;
    case StorageType::kCompute:
      break;
  }
  return compute;
}

}  // namespace

absl::Status CheckOptions(const ModelEngineOptions& options) {
  const auto bounded = [](const char* name, std::int64_t value, std::int64_t low,
                          std::int64_t high) -> absl::Status {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", value, "; it must be in [", low, ", ", high, "]"));
  };
  for (absl::Status status :
       {bounded("device", options.backend.device, 0, 1024),
        bounded("threads", options.backend.num_threads, 0, 1024),
        bounded("max_sequences", options.max_sequences, 1, 1 << 20),
        bounded("step_tokens", options.max_step_tokens, 0, 1 << 20),
        bounded("page_tokens", options.page_tokens, 1, kMaxPageTokens),
        bounded("cache_bytes", options.cache_bytes, 1, std::int64_t{1} << 50),
        bounded("expanded_bytes", options.expanded_bytes, 0, std::int64_t{1} << 50)}) {
    if (!status.ok()) return status;
  }
  if (options.cache_storage == StorageType::kFp8)
    return absl::InvalidArgumentError(
        absl::StrCat("cache_storage is ", DtypeName(options.cache_storage),
                     "; it must be the compute type or int8"));
  if (!(options.cache_share >= 0.0 && options.cache_share <= kMaxCacheShare))
    return absl::InvalidArgumentError(absl::StrCat("cache_share is ", options.cache_share,
                                                   "; it must be in [0, ", kMaxCacheShare,
                                                   "]"));
  return absl::OkStatus();
}

absl::StatusOr<ModelLimits> LimitsOf(const ModelEngineOptions& options,
                                     const ModelConfig& config, DType type) {
  ModelLimits limits{.max_rows = std::max(options.max_step_tokens, options.max_sequences),
                     .num_slots = options.max_sequences,
                     .page_tokens = options.page_tokens,
                     .max_logit_rows = kMinLogitRows,
                     .weight_storage = StoredAs(options.weight_storage, type),
                     .cache_storage = StoredAs(options.cache_storage, type),
                     .vocab_table = options.vocab_table};
  if (config.num_gold() == 0) return limits;
  const std::int64_t page_bytes =
      options.page_tokens * GoldCache::RowBytes(config, limits.cache_storage);
  const KvTiles layer = {
      .type = type, .heads = config.num_heads(), .page_tokens = options.page_tokens};
  const std::int64_t arena_frames =
      options.expanded_bytes / (layer.tile_bytes() * config.num_gold());
  if (options.cache_share > 0.0) {
    limits.cache_share = options.cache_share;
    limits.host_bytes = options.host_bytes;
    limits.arena_frames = std::min(arena_frames, kMaxPages);
    return limits;
  }
  limits.num_pages = std::min(options.cache_bytes / page_bytes, kMaxPages);
  if (limits.num_pages < 1)
    return absl::InvalidArgumentError(absl::StrCat("cache_bytes is ", options.cache_bytes,
                                                   "; one page takes ", page_bytes));
  limits.arena_frames = std::min(arena_frames, limits.num_pages);
  return limits;
}

}  // namespace goldfinch
