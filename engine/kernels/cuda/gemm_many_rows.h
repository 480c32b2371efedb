// The product of many rows, as of prompts: tiles of both operands pass through shared
// memory. Device code.
#pragma once

#include "engine/kernels/cuda/gemm_product.h"
#include "engine/kernels/cuda/gemm_weights.h"

namespace goldfinch::GOLDFINCH_CUDA {

constexpr int kTileBlocks = 8;
constexpr int kTileOutputs = kTileBlocks * static_cast<int>(kBlockOutputs);
constexpr int kWarpRows = 32;

// Strips of a tile that are used or under way. Up to 64 rows the products of a layer of
// the 1.5B shape are 66 and 72 tiles: fewer than there are multiprocessors, so each that
// has one needs more under way to make up for the others, 84 KB instead of 36. Tiles
// whose slices are blocks of their own are enough for all, but 128 of them have to have
// 4.3 MB of weights on their way to keep a memory of 4.3 TB/s busy that answers in 1 us:
// five strips of 8 KB each.
template <typename Weights, int kRows, bool kSplit>
struct ManyRowsRing {
  static constexpr int kStages = kRows == 64 ? (kSplit ? 6 : 8) : 4;
  static constexpr int kStageBytes =
      kTileBlocks * Weights::kStripBytes + kRows * static_cast<int>(kStripInputs) * 2;
  static constexpr int kBytes = kStages * kStageBytes;
};

// A thread's part of the copies of a strip of a tile to shared memory: of its blocks of
// weights, then of its rows of x.
template <typename Weights, int kRows, bool kAligned>
class StripCopies {
 public:
  __device__ __forceinline__ StripCopies(const Product& p, std::int64_t first_block,
                                         std::int64_t first_row)
      : x_(static_cast<const std::uint16_t*>(p.x)), in_(p.in) {
    const std::int64_t strips = StripsOf(p.in), blocks = BlocksOf(p.out);
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kGemmThreads;
      const std::int64_t block = first_block + at / kChunks;
      const bool inside = block < blocks;
      weights_[i] = static_cast<const unsigned char*>(p.w) +
                    (inside ? block : 0) * strips * Weights::kStripBytes +
                    at % kChunks * 16;
      weight_zeros_[i] = inside ? 0 : 16;
    }
#pragma unroll
    for (int i = 0; i < kInputCopies; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kGemmThreads;
      const std::int64_t row = first_row + at / 4;
      inputs_[i] = row < p.rows ? x_ + row * p.x_stride : nullptr;
    }
  }

  __device__ __forceinline__ void StartWeights(std::int64_t strip,
                                               unsigned char* stage) const {
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i)
      AsyncCopy16(stage + (static_cast<int>(threadIdx.x) + i * kGemmThreads) * 16,
                  weights_[i] + strip * Weights::kStripBytes, weight_zeros_[i]);
  }

  __device__ __forceinline__ void StartInputs(std::int64_t strip,
                                              unsigned char* stage) const {
    unsigned char* const to = stage + kTileBlocks * Weights::kStripBytes;
    const std::int64_t k = strip * kStripInputs + threadIdx.x % 4 * 8;
#pragma unroll
    for (int i = 0; i < kInputCopies; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kGemmThreads;
      const bool inside = inputs_[i] != nullptr && k < in_;
      if constexpr (kAligned) {
        AsyncCopy16(to + at * 16, inside ? inputs_[i] + k : x_, inside ? 0 : 16);
      } else {
        uint4 v = {0, 0, 0, 0};
        if (inside) v = LoadInputs<false>(inputs_[i], k, in_);
        StoreVector(v, to + at * 16);
      }
    }
  }

 private:
  static constexpr int kChunks = Weights::kStripBytes / 16;
  static constexpr int kWeightCopies = kTileBlocks * kChunks / kGemmThreads;
  static constexpr int kInputCopies = kRows * 4 / kGemmThreads;
  static_assert(kTileBlocks * kChunks % kGemmThreads == 0 &&
                kRows * 4 % kGemmThreads == 0);
  static_assert(kGemmThreads % 4 ==
                0);  // a thread's inputs have the same k in all copies

  const std::uint16_t* const x_;
  const std::int64_t in_;
  const unsigned char* weights_[kWeightCopies];
  int weight_zeros_[kWeightCopies];
  const std::uint16_t* inputs_[kInputCopies];
};

// Sums of a tile pass through shared memory, 64 rows at a time, so that a warp finishes
// neighbours of a row. Columns are swapped so that no two lanes want one bank.
constexpr int kStagedRows = 64;
__device__ __forceinline__ int StagedAt(int row, int col) {
  return row * kTileOutputs + (col ^ (row / 2 % 4 * 8));
}

// Rows of a tile whose slices are blocks of their own, and sums that each of them leaves.
constexpr int kSplitRows = 64;
constexpr std::int64_t kPartialElements = std::int64_t{kSplitRows} * kTileOutputs;

// 128 outputs by kRows rows, eight warps of 32 rows each. kSplit: only slice
// blockIdx.x % kSlices of tile blockIdx.x / kSlices, to `partials`. Sums of 128 rows take
// all registers that a thread can have; of 64 rows, two blocks share a multiprocessor.
template <typename Weights, int kRows, bool kSplit, bool kAligned>
__global__ void __launch_bounds__(kGemmThreads, kRows == 128 ? 1 : 2)
    ManyRows(const __grid_constant__ Products products) {
  constexpr int kRowWarps = kRows / kWarpRows, kGroups = kWarpRows / 8;
  constexpr int kBlocks = kTileBlocks * kRowWarps / (kGemmThreads / kWarp);
  static_assert(!kSplit || kRows == kSplitRows);
  using Ring = ManyRowsRing<Weights, kRows, kSplit>;
  constexpr int kStages = Ring::kStages;
  static_assert(Ring::kBytes >=
                kStagedRows * kTileOutputs * static_cast<int>(sizeof(float)));
  auto* const shared = static_cast<unsigned char*>(DynamicShared());
  const auto [product, tile] =
      FindTile(products, kSplit ? blockIdx.x / unsigned{kSlices} : blockIdx.x);
  const Product& p = products.at[product];
  const std::int64_t first_block = tile / p.row_tiles * kTileBlocks;
  const std::int64_t first_row = tile % p.row_tiles * kRows;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const int warp_block = warp / kRowWarps * kBlocks;
  const int warp_row = warp % kRowWarps * kWarpRows;
  const std::int64_t strips = StripsOf(p.in);
  std::int64_t slice = kSplit ? blockIdx.x % kSlices : 0;
  const std::int64_t begin = kSplit ? slice * strips / kSlices : 0;
  const std::int64_t end = kSplit ? (slice + 1) * strips / kSlices : strips;
  const StripCopies<Weights, kRows, kAligned> copies(p, first_block, first_row);
  const auto stage = [shared, begin](std::int64_t strip) {
    return shared + (strip - begin) % kStages * Ring::kStageBytes;
  };
  for (std::int64_t strip = begin; strip < begin + kStages - 1; ++strip)
    if (strip < end) copies.StartWeights(strip, stage(strip));
  if (!kSplit) FetchEnds(p, first_block * kBlockOutputs, kTileOutputs);
  AwaitLaunch();
  // The first of them waits for the weights of all.
  for (std::int64_t strip = begin; strip < begin + kStages - 1; ++strip) {
    if (strip < end) copies.StartInputs(strip, stage(strip));
    AsyncCommit();
  }
  float sum[kBlocks][kGroups][4] = {}, total[kBlocks][kGroups][4] = {};
  std::int64_t slice_end = (slice + 1) * strips / kSlices;
  for (std::int64_t strip = begin; strip < end; ++strip) {
    AsyncWait<kStages - 2>();
    // Everybody sees the strip, and is done with the one whose room is taken next.
    __syncthreads();
    const std::int64_t next = strip + kStages - 1;
    if (next < end) {
      copies.StartWeights(next, stage(next));
      copies.StartInputs(next, stage(next));
    }
    AsyncCommit();
    // Slices may be empty: their sums are zero in all kernels.
    while (!kSplit && strip == slice_end) {
#pragma unroll
      for (int i = 0; i < kBlocks * kGroups * 4; ++i) {
        float& s = sum[i / (kGroups * 4)][i / 4 % kGroups][i % 4];
        float& t = total[i / (kGroups * 4)][i / 4 % kGroups][i % 4];
        t = slice == 0 ? s : t + s;
        s = 0.0f;
      }
      ++slice;
      slice_end = (slice + 1) * strips / kSlices;
    }
    const unsigned char* const weights = stage(strip);
    const unsigned char* const inputs = weights + kTileBlocks * Weights::kStripBytes;
    uint4 x[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
      x[g] =
          LoadVector<uint4>(inputs + ((warp_row + g * 8 + lane / 4) * 4 + lane % 4) * 16);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const Strip w = Weights::FromShared(
          weights + (warp_block + b) * Weights::kStripBytes, static_cast<unsigned>(lane));
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        Mma(sum[b][g], w.fragment[0], x[g].x, x[g].y);
        Mma(sum[b][g], w.fragment[1], x[g].z, x[g].w);
      }
    }
  }
  AsyncWait<0>();
  // Calls visit(row, output, number) for what this thread has, both within the tile.
  const auto for_sums = [&](const auto& visit) {
    ForLaneSums<kBlocks, kGroups>(lane, [&](int row, int output, int b, int g, int i) {
      // The last slice is never empty; those before it are in `total`.
      visit(warp_row + row, warp_block * 16 + output,
            kSplit ? sum[b][g][i] : total[b][g][i] + sum[b][g][i]);
    });
  };
  if constexpr (kSplit) {
    float* const to = products.partials + std::int64_t{blockIdx.x} * kPartialElements;
    for_sums([to](int row, int output, float value) {
      to[row * kTileOutputs + output] = value;
    });
  } else {
    auto* const staged = reinterpret_cast<float*>(shared);
    constexpr int kSums = 8, kRowStep = kGemmThreads / kTileOutputs;
    const int output = static_cast<int>(threadIdx.x) % kTileOutputs;
    const std::int64_t col = first_block * kBlockOutputs + output;
    for (int first = 0; first < kRows; first += kStagedRows) {
      __syncthreads();  // strips, or the rows before these, have been read
      for_sums([&](int row, int out, float value) {
        if (row / kStagedRows * kStagedRows == first)
          staged[StagedAt(row % kStagedRows, out)] = value;
      });
      __syncthreads();
      for (int row = static_cast<int>(threadIdx.x) / kTileOutputs; row < kStagedRows;
           row += kRowStep * kSums) {
        Sums<kSums> sums;
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          const int at = row + i * kRowStep;
          sums.value[i] = staged[StagedAt(at, output)];
          sums.row[i] = first_row + first + at;
          sums.col[i] = col;
          sums.inside[i] = col < p.out && sums.row[i] < p.rows;
        }
        FinishProducts(p, sums);
      }
    }
  }
}

// Adds what the blocks of a split tile have left, in the order of their slices; a block
// of threads has kRowsEach rows of a tile.
constexpr int kSumsEach = 4, kRowsEach = kSumsEach * kGemmThreads / kTileOutputs;
template <int kRows>
__global__ void __launch_bounds__(kGemmThreads)
    AddSlices(const __grid_constant__ Products products) {
  const unsigned index = blockIdx.x / (kRows / kRowsEach);
  const auto [product, tile] = FindTile(products, index);
  const Product& p = products.at[product];
  FetchEnds(p, tile / p.row_tiles * kTileOutputs, kTileOutputs);
  AwaitLaunch();
  const int output = static_cast<int>(threadIdx.x) % kTileOutputs;
  const int first = static_cast<int>(blockIdx.x) % (kRows / kRowsEach) * kRowsEach +
                    static_cast<int>(threadIdx.x) / kTileOutputs;
  const std::int64_t col = tile / p.row_tiles * kTileOutputs + output;
  const float* const from = products.partials + index * kSlices * kPartialElements;
  Sums<kSumsEach> sums;
  float part[kSumsEach][kSlices];
#pragma unroll
  for (int i = 0; i < kSumsEach; ++i) {
    const int row = first + i * (kGemmThreads / kTileOutputs);
    sums.row[i] = tile % p.row_tiles * kRows + row;
    sums.col[i] = col;
    sums.inside[i] = col < p.out && sums.row[i] < p.rows;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice)
      part[i][slice] = from[slice * kPartialElements + row * kTileOutputs + output];
  }
#pragma unroll
  for (int i = 0; i < kSumsEach; ++i) {
    sums.value[i] = part[i][0];
#pragma unroll
    for (int slice = 1; slice < kSlices; ++slice) sums.value[i] += part[i][slice];
  }
  FinishProducts(p, sums);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
