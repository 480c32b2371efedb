// The product of float32 inputs. Device code.
#pragma once

#include "engine/kernels/cuda/gemm_product.h"

namespace goldfinch::GOLDFINCH_CUDA {

__device__ __forceinline__ float WeightOf(float stored) { return stored; }
__device__ __forceinline__ float WeightOf(std::int8_t stored) {
  return static_cast<float>(stored);
}
__device__ __forceinline__ float WeightOf(Fp8 stored) {
  const unsigned bits = stored.bits;
  return __uint_as_float((bits & 0x80u) << 24 | (bits & 0x7fu) << 20) * 0x1p120f;
}

constexpr int kF32Tile = 64, kF32Depth = 32;

// Float32 inputs: 64 rows by 64 outputs, sums over ascending inputs.
template <typename Storage>
__global__ void __launch_bounds__(kGemmThreads)
    F32Tile(const __grid_constant__ Products products) {
  __shared__ float inputs[kF32Depth][kF32Tile + 1], weights[kF32Depth][kF32Tile + 1];
  AwaitLaunch();
  const auto [product, tile] = FindTile(products, blockIdx.x);
  const Product& p = products.at[product];
  const std::int64_t first_col = tile / p.row_tiles * kF32Tile;
  const std::int64_t first_row = tile % p.row_tiles * kF32Tile;
  const auto* const w = static_cast<const Storage*>(p.w);
  const auto* const x = static_cast<const float*>(p.x);
  const int thread_row = static_cast<int>(threadIdx.x) / 16;
  const int thread_col = static_cast<int>(threadIdx.x) % 16;
  float sum[4][4] = {};
  const std::int64_t own_rows = p.rows - first_row - thread_row;
  for (std::int64_t first = 0; first < p.in; first += kF32Depth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kF32Depth * kF32Tile; i += kGemmThreads) {
      const int d = i % kF32Depth, r = i / kF32Depth;
      const std::int64_t k = first + d, row = first_row + r, col = first_col + r;
      inputs[d][r] = k < p.in && row < p.rows ? x[row * p.x_stride + k] : 0.0f;
      weights[d][r] = k < p.in && col < p.out ? WeightOf(w[col * p.in + k]) : 0.0f;
    }
    __syncthreads();
    const int depth =
        p.in - first < kF32Depth ? static_cast<int>(p.in - first) : kF32Depth;
    for (int d = 0; d < depth; ++d)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (16 * i >= own_rows) break;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sum[i][j] = Fma(inputs[d][thread_row + 16 * i], weights[d][thread_col + 16 * j],
                          sum[i][j]);
      }
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t row = first_row + thread_row + 16 * i;
      const std::int64_t col = first_col + thread_col + 16 * j;
      if (row < p.rows && col < p.out) FinishProduct(p, row, col, sum[i][j]);
    }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
