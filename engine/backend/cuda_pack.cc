#include "engine/backend/cuda_pack.h"

#include <cstring>

#include "engine/backend/host_weights.h"
#include "engine/bf16.h"
#include "engine/check.h"
#include "engine/kernels/cuda/gemm_layout.h"

namespace goldfinch {
namespace {

void StoreElement(float value, float scale, DType storage, std::byte* out) {
  if (storage == DType::kF32) {
    std::memcpy(out, &value, sizeof value);
  } else if (storage == DType::kBf16) {
    const std::uint16_t rounded = RoundToBf16(value);
    std::memcpy(out, &rounded, sizeof rounded);
  } else {
    *out = static_cast<std::byte>(ToInt8(value, scale));
  }
}

}  // namespace

CudaPacked PackForCuda(const HostMatrix& weights, DType type, DType storage,
                       ThreadPool& pool) {
  GOLDFINCH_CHECK(storage == type || storage == DType::kI8);
  const std::int64_t out = weights.rows, in = weights.cols;
  const bool eight = storage == DType::kI8;
  const auto size = static_cast<std::size_t>(SizeOf(storage));
  CudaPacked packed;
  // Value-initialised: padding is zero.
  packed.weights.resize(static_cast<std::size_t>(PackedElements(out, in, type)) * size);
  if (eight) packed.scales.resize(static_cast<std::size_t>(out));
  pool.ParallelFor(out, kBlockOutputs, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      float scale = 0;
      if (eight)
        scale = packed.scales[static_cast<std::size_t>(row)] = Int8Scale(weights, row);
      for (std::int64_t col = 0; col < in; ++col)
        StoreElement(
            HostElement(weights, row, col), scale, storage,
            packed.weights.data() +
                static_cast<std::size_t>(PackedIndex(row, col, in, type, eight)) * size);
    }
  });
  return packed;
}

}  // namespace goldfinch
