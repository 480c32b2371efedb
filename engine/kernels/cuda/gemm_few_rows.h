// The product of few rows, as when sequences are decoded: the weights are read once, by
// the warp that uses them. Device code.
#pragma once

#include "engine/kernels/cuda/gemm_product.h"
#include "engine/kernels/cuda/gemm_weights.h"

namespace goldfinch::GOLDFINCH_CUDA {

// What a warp has under way: strips of weights, with the inputs that they meet where
// those can be copied. A lane uses what it has copied itself, so that waiting for its own
// copies is all it waits for. Copies, not loads: of loads a warp can tell no more than
// six apart, and the compiler had it wait for all at once.
template <typename Weights, int kBlocks, int kGroups, bool kDeep>
struct FewRowsRing {
  static constexpr int kInputs = kBlocks * Weights::kStripBytes;  // where they begin
  static constexpr int kStageBytes = kInputs + kGroups * kWarp * 16;
  // Of 228 KiB that a multiprocessor has three blocks take a third each. One that has it
  // to itself may take what the smallest device gives a block, so that of 2048 inputs
  // nearly all are on their way before the kernel waits.
  static constexpr int kOfStages = ((kDeep ? 99 : 72) << 10) / (kSlices * kStageBytes);
  static constexpr int kMost = kDeep ? 9 : 8;
  static constexpr int kStages = kOfStages < 3       ? 3
                                 : kOfStages > kMost ? kMost
                                                     : kOfStages;
  static constexpr int kBytes = kSlices * kStages * kStageBytes;  // of a block
};

// Where the sums of a thread belong, of a tile of `outputs` by `rows` from `col` and
// `row`.
template <int kSums>
__device__ __forceinline__ void Place(const Product& p, std::int64_t col,
                                      std::int64_t row, int outputs, int rows,
                                      Sums<kSums>& own) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kGemmThreads;
    own.row[i] = row + at / outputs;
    own.col[i] = col + at % outputs;
    own.inside[i] = at < outputs * rows && own.row[i] < p.rows && own.col[i] < p.out;
  }
}

// kBlocks blocks of 16 outputs by kGroups groups of 8 rows; warp i sums slice i.
template <typename Weights, int kBlocks, int kGroups, bool kDeep, bool kAligned>
__global__ void __launch_bounds__(kGemmThreads)
    FewRows(const __grid_constant__ Products products) {
  using Ring = FewRowsRing<Weights, kBlocks, kGroups, kDeep>;
  constexpr int kOutputs = kBlocks * kBlockOutputs, kRows = kGroups * 8;
  constexpr int kStages = Ring::kStages, kPart = kWarp * 16;
  // The lanes that have one register of their sums have eight neighbours of four rows two
  // apart, which are in banks of their own.
  constexpr int kPitch = kOutputs + 4;
  static_assert(kSlices * kRows * kPitch * sizeof(float) <= Ring::kBytes);
  auto* const shared = static_cast<unsigned char*>(DynamicShared());

  const auto [product, tile] = FindTile(products, blockIdx.x);
  const Product& p = products.at[product];
  const std::int64_t first_block = tile / p.row_tiles * kBlocks;
  const std::int64_t first_row = tile % p.row_tiles * kRows;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t strips = StripsOf(p.in), blocks = BlocksOf(p.out);
  const std::int64_t begin = warp * strips / kSlices;
  const std::int64_t end = (warp + 1) * strips / kSlices;
  const auto stage = [&](std::int64_t strip) {
    const unsigned number = static_cast<unsigned>(strip - begin) % kStages;
    return shared + (warp * kStages + number) * Ring::kStageBytes;
  };

  // Sums of a block of outputs that is not there come to nothing.
  const unsigned char* w[kBlocks];
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const std::int64_t block = first_block + b < blocks ? first_block + b : blocks - 1;
    w[b] = static_cast<const unsigned char*>(p.w) +
           block * strips * Weights::kStripBytes + lane * 16;
  }
  const auto start_weights = [&](std::int64_t strip) {
    if (strip >= end) return;
    unsigned char* const to = stage(strip) + lane * 16;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int at = 0; at < Weights::kStripBytes; at += kPart)
        AsyncCopy16(to + b * Weights::kStripBytes + at,
                    w[b] + strip * Weights::kStripBytes + at, 0);
  };
  for (int i = 0; i < kStages - 1; ++i) start_weights(begin + i);
  FetchEnds(p, first_block * kBlockOutputs, kOutputs);
  AwaitLaunch();

  const std::uint16_t* x[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const std::int64_t row = first_row + g * 8 + lane / 4;
    x[g] = row < p.rows ? static_cast<const std::uint16_t*>(p.x) + row * p.x_stride
                        : nullptr;
  }
  const auto start_inputs = [&](std::int64_t strip) {
    if (!kAligned || strip >= end) return;
    const std::int64_t k = strip * kStripInputs + lane % 4 * 8;
    unsigned char* const to = stage(strip) + Ring::kInputs + lane * 16;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const bool inside = x[g] != nullptr && k < p.in;
      AsyncCopy16(to + g * kPart, inside ? x[g] + k : p.x, inside ? 0 : 16);
    }
  };
  // The first of them waits for the weights of all.
  for (int i = 0; i < kStages - 1; ++i) {
    start_inputs(begin + i);
    AsyncCommit();
  }
  // What finishes a sum is on its way while it is added up, where a thread has one: for
  // more there are no registers.
  constexpr int kSums = (kOutputs * kRows + kGemmThreads - 1) / kGemmThreads;
  Sums<kSums> own = {};
  FinishOperands<kSums> operands = {};
  const auto ask = [&] {
    Place(p, first_block * kBlockOutputs, first_row, kOutputs, kRows, own);
    AskOperands(p.y, p.epilogue, own, operands);
  };
  if (kSums == 1) ask();
  float sum[kBlocks][kGroups][4] = {};
  for (std::int64_t strip = begin; strip < end; ++strip) {
    AsyncWait<kStages - 2>();
    // Where the strip before was.
    start_weights(strip + kStages - 1);
    start_inputs(strip + kStages - 1);
    AsyncCommit();
    const unsigned char* const from = stage(strip);
    uint4 inputs[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if constexpr (kAligned)
        inputs[g] = LoadVector<uint4>(from + Ring::kInputs + g * kPart + lane * 16);
      else
        inputs[g] = x[g] != nullptr ? LoadInputs<false>(
                                          x[g], strip * kStripInputs + lane % 4 * 8, p.in)
                                    : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const Strip weights = Weights::FromShared(from + b * Weights::kStripBytes, lane);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        Mma(sum[b][g], weights.fragment[0], inputs[g].x, inputs[g].y);
        Mma(sum[b][g], weights.fragment[1], inputs[g].z, inputs[g].w);
      }
    }
  }
  AsyncWait<0>();
  __syncthreads();  // all strips have been used
  auto* const sums = reinterpret_cast<float(*)[kRows][kPitch]>(shared);
  ForLaneSums<kBlocks, kGroups>(static_cast<int>(lane),
                                [&](int row, int output, int b, int g, int i) {
                                  sums[warp][row][output] = sum[b][g][i];
                                });
  __syncthreads();
  if (kSums > 1) ask();
  ForInside(own, [&](int i) {
    const int at = static_cast<int>(threadIdx.x) + i * kGemmThreads;
    const int output = at % kOutputs, r = at / kOutputs;
    float total = sums[0][r][output];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) total += sums[s][r][output];
    own.value[i] = total;
  });
  FinishProducts(p, own, operands);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
