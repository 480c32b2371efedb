// The product of few rows, as when sequences are decoded: the weights are read once and
// straight from memory. Device code.
#pragma once

#include "engine/kernels/cuda/gemm_product.h"
#include "engine/kernels/cuda/gemm_weights.h"

namespace goldfinch::GOLDFINCH_CUDA {

// kBlocks blocks of 16 outputs by kGroups groups of 8 rows; warp i sums slice i.
template <typename Weights, int kBlocks, int kGroups, bool kAligned>
__global__ void __launch_bounds__(kGemmThreads) FewRows(Products products) {
  constexpr int kOutputs = kBlocks * kBlockOutputs, kRows = kGroups * 8;
  constexpr int kAhead = 4;
  // The lanes that have one register of their sums have eight neighbours of four rows two
  // apart, which are in banks of their own.
  constexpr int kPitch = kOutputs + 4;
  __shared__ float sums[kSlices][kRows][kPitch];

  const Product& p = FindProduct(products, blockIdx.x);
  const std::int64_t tile = blockIdx.x - p.first_tile;
  const std::int64_t first_block = tile / p.row_tiles * kBlocks;
  const std::int64_t first_row = tile % p.row_tiles * kRows;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t strips = StripsOf(p.in), blocks = BlocksOf(p.out);
  const std::int64_t begin = warp * strips / kSlices;
  const std::int64_t end = (warp + 1) * strips / kSlices;

  typename Weights::Raw ahead[kAhead][kBlocks] = {};
  const auto load = [&](typename Weights::Raw(&to)[kBlocks], std::int64_t strip) {
    if (strip >= end) return;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
      if (first_block + b < blocks)
        to[b] = Weights::Load(p.w, (first_block + b) * strips + strip, lane);
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(ahead[i], begin + i);
  AwaitLaunch();

  const std::uint16_t* x[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const std::int64_t row = first_row + g * 8 + lane / 4;
    x[g] = row < p.rows ? static_cast<const std::uint16_t*>(p.x) + row * p.x_stride
                        : nullptr;
  }
  // Inputs are asked for one strip ahead, which hides that they come from a cache.
  uint4 next[kGroups];
  const auto load_inputs = [&](std::int64_t strip) {
    const std::int64_t k = strip * kStripInputs + lane % 4 * 8;
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
      next[g] = x[g] != nullptr && strip < end ? LoadInputs<kAligned>(x[g], k, p.in)
                                               : uint4{0, 0, 0, 0};
  };
  load_inputs(begin);
  float sum[kBlocks][kGroups][4] = {};
  for (std::int64_t strip = begin; strip < end; strip += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (strip + i >= end) break;
      uint4 inputs[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) inputs[g] = next[g];
      load_inputs(strip + i + 1);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const Strip w = Weights::Fragments(ahead[i][b]);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          Mma(sum[b][g], w.fragment[0], inputs[g].x, inputs[g].y);
          Mma(sum[b][g], w.fragment[1], inputs[g].z, inputs[g].w);
        }
      }
      load(ahead[i], strip + i + kAhead);
    }
  }
  ForLaneSums<kBlocks, kGroups>(static_cast<int>(lane),
                                [&](int row, int output, int b, int g, int i) {
                                  sums[warp][row][output] = sum[b][g][i];
                                });
  __syncthreads();
  AllowLaunch();
  for (int i = threadIdx.x; i < kOutputs * kRows; i += kGemmThreads) {
    const int output = i % kOutputs, r = i / kOutputs;
    const std::int64_t col = first_block * kBlockOutputs + output, row = first_row + r;
    if (col >= p.out || row >= p.rows) continue;
    float total = sums[0][r][output];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) total += sums[s][r][output];
    FinishProduct(p, row, col, total);
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
