#include "engine/backend/cuda_pack.h"

#include "engine/backend/host_weights.h"
#include "engine/check.h"
#include "engine/kernels/cuda/gemm_layout.h"

namespace goldfinch {
CudaPacked PackForCuda(const HostMatrix& weights, DType type, DType storage,
                       ThreadPool& pool) {
  GOLDFINCH_CHECK(storage == type || IsScaled(storage));
  const std::int64_t out = weights.rows, in = weights.cols;
  const bool eight = IsScaled(storage);
  const auto size = static_cast<std::size_t>(SizeOf(storage));
  CudaPacked packed;
  // Value-initialised: padding is zero.
  packed.weights.resize(static_cast<std::size_t>(PackedElements(out, in, type)) * size);
  if (eight) packed.scales.resize(static_cast<std::size_t>(out));
  pool.ParallelFor(out, kBlockOutputs, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float scale = StoreRow(
          weights, row, storage, packed.weights.data(),
          [&](std::int64_t col) { return PackedIndex(row, col, in, type, eight); });
      if (eight) packed.scales[static_cast<std::size_t>(row)] = scale;
    }
  });
  return packed;
}

std::vector<std::uint16_t> RowMajorBf16(const HostMatrix& weights, ThreadPool& pool) {
  std::vector<std::uint16_t> out(static_cast<std::size_t>(weights.rows * weights.cols));
  pool.ParallelFor(
      weights.rows, kBlockOutputs, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
          StoreRow(weights, row, DType::kBf16,
                   reinterpret_cast<std::byte*>(out.data() + row * weights.cols),
                   [](std::int64_t col) { return col; });
      });
  return out;
}

}  // namespace goldfinch
