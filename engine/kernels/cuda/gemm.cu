// y = finish(x W^T), up to sixteen products a launch:
//   x : [rows, in] float32 or bf16      W : packed as gemm_layout.h says      y : [rows,
//   out]
//
// The order of every sum is fixed by the number of inputs alone: kSlices parts, each by
// ascending strips, two tensor-core products a strip, then the parts in order. Two
// kernels keep it, so a row has the same bits among any number of rows, as a prompt's
// row or as a decoded one:
//   few rows   A block of threads has 16 or 32 outputs and all inputs, a warp one of the
//              parts. Weights are the left operand, which wants 16 of them and 8 rows;
//              they go from memory to registers, four strips ahead.
//   many rows  128 outputs by 64 or 128 rows, the parts one after another. Strips of both
//              operands pass through shared memory, four ahead. Where such tiles are too
//              few to keep a GPU busy, each part is a block of its own and leaves its
//              sums to a second kernel, which adds them in the same order.
// In float32 (the golden cases; not for speed) a sum runs over ascending inputs.
#include <algorithm>

#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/finish_sum.h"
#include "engine/kernels/cuda/gemm.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// A product as kernels take it.
struct Product {
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  const void* w = nullptr;
  const float* scales = nullptr;
  std::int64_t in = 0, out = 0;
  Matrix y = {};
  Epilogue epilogue = {};
  std::int64_t first_tile = 0;  // among the tiles of the launch
  std::int64_t row_tiles = 0;
};
struct Products {
  int count = 0;
  float* partials = nullptr;  // of PartialSums
  Product at[kMaxGemms];
};
// What a kernel of any toolkit and device may be given.
static_assert(sizeof(Products) <= 4096);

// The product that tile `index` is of.
__device__ __forceinline__ const Product& FindProduct(const Products& products,
                                                      std::int64_t index) {
  int i = 0;
  while (i + 1 < products.count && index >= products.at[i + 1].first_tile) ++i;
  return products.at[i];
}

template <int kSums>
__device__ __forceinline__ void FinishProducts(const Product& p, Sums<kSums>& sums) {
  if (p.scales != nullptr) {
#pragma unroll
    for (int i = 0; i < kSums; ++i)
      if (sums.inside[i]) sums.value[i] *= p.scales[sums.col[i]];
  }
  FinishEach(p.y, p.epilogue, sums);
}
__device__ __forceinline__ void FinishProduct(const Product& p, std::int64_t row,
                                              std::int64_t col, float sum) {
  Sums<1> one = {{sum}, {row}, {col}, {true}};
  FinishProducts(p, one);
}

// Both fragments of a lane's part of a strip.
struct Strip {
  uint4 fragment[2];
};
// Bytes `first` and `first` + 1 of four stored weights, as a pair.
template <typename Stored>
__device__ __forceinline__ unsigned PairOf(unsigned bytes, int first);
template <>
__device__ __forceinline__ unsigned PairOf<std::int8_t>(unsigned bytes, int first) {
  const auto value = [bytes](int i) {
    return static_cast<float>(static_cast<std::int8_t>(bytes >> (8 * i) & 0xffu));
  };
  return PairBf16(value(first), value(first + 1));
}
// Exponent and mantissa put where bf16 has them are the value times 2^(7 - 127),
// subnormal ones too.
template <>
__device__ __forceinline__ unsigned PairOf<Fp8>(unsigned bytes, int first) {
  const unsigned tops = __byte_perm(bytes, 0, first == 0 ? 0x1404 : 0x3424);
  return RaisePair((tops & 0x80008000u) | (tops >> 4 & 0x07f007f0u));
}

// How weights of a storage type lie, and how they become fragments.
struct Bf16Weights {
  static constexpr int kStripBytes = kStripElements * 2;
  struct Raw {
    uint4 part[2];
  };
  // Of strip number `strip`, streamed: nothing of it is read again soon.
  __device__ __forceinline__ static Raw Load(const void* w, std::int64_t strip,
                                             unsigned lane) {
    const auto* p = static_cast<const uint4*>(w) + strip * 64 + lane;
    return {{__ldcs(p), __ldcs(p + 32)}};
  }
  __device__ __forceinline__ static Strip Fragments(const Raw& raw) {
    return {{raw.part[0], raw.part[1]}};
  }
  __device__ __forceinline__ static Strip FromShared(const unsigned char* strip,
                                                     unsigned lane) {
    const unsigned char* const p = strip + lane * 16;
    return {{LoadVector<uint4>(p), LoadVector<uint4>(p + 512)}};
  }
};
template <typename Stored>
struct ByteWeights {
  static constexpr int kStripBytes = kStripElements;
  struct Raw {
    uint4 part;
  };
  __device__ __forceinline__ static Raw Load(const void* w, std::int64_t strip,
                                             unsigned lane) {
    return {__ldcs(static_cast<const uint4*>(w) + strip * 32 + lane)};
  }
  __device__ __forceinline__ static uint4 Widen(unsigned low, unsigned high) {
    return {PairOf<Stored>(low, 0), PairOf<Stored>(low, 2), PairOf<Stored>(high, 0),
            PairOf<Stored>(high, 2)};
  }
  __device__ __forceinline__ static Strip Fragments(const Raw& raw) {
    return {{Widen(raw.part.x, raw.part.y), Widen(raw.part.z, raw.part.w)}};
  }
  __device__ __forceinline__ static Strip FromShared(const unsigned char* strip,
                                                     unsigned lane) {
    return Fragments({LoadVector<uint4>(strip + lane * 16)});
  }
};

// Inputs [k, k + 8) of a row of x; zeros behind its end. kAligned: rows start at
// multiples of 16 bytes and `in` is a multiple of 8.
template <bool kAligned>
__device__ __forceinline__ uint4 LoadInputs(const std::uint16_t* x, std::int64_t k,
                                            std::int64_t in) {
  if constexpr (kAligned) {
    return k < in ? LoadVector<uint4>(x + k) : uint4{0, 0, 0, 0};
  } else {
    unsigned pair[4];
    for (int i = 0; i < 4; ++i) {
      const std::int64_t at = k + 2 * i;
      const unsigned low = at < in ? x[at] : 0u, high = at + 1 < in ? x[at + 1] : 0u;
      pair[i] = low | high << 16;
    }
    return {pair[0], pair[1], pair[2], pair[3]};
  }
}

constexpr int kThreads = 256;
static_assert(kThreads / kWarp == kSlices);

// kBlocks blocks of 16 outputs by kGroups groups of 8 rows; warp i sums slice i.
template <typename Weights, int kBlocks, int kGroups, bool kAligned>
__global__ void __launch_bounds__(kThreads) FewRows(Products products) {
  constexpr int kOutputs = kBlocks * kBlockOutputs, kRows = kGroups * 8;
  constexpr int kAhead = 4;
  constexpr int kPitch = kOutputs + 1;
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
#pragma unroll
  for (int b = 0; b < kBlocks; ++b)
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[warp][g * 8 + lane % 4 * 2 + i % 2][b * 16 + lane / 4 + i / 2 * 8] =
            sum[b][g][i];
  __syncthreads();
  AllowLaunch();
  for (int i = threadIdx.x; i < kOutputs * kRows; i += kThreads) {
    const int output = i % kOutputs, r = i / kOutputs;
    const std::int64_t col = first_block * kBlockOutputs + output, row = first_row + r;
    if (col >= p.out || row >= p.rows) continue;
    float total = sums[0][r][output];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) total += sums[s][r][output];
    FinishProduct(p, row, col, total);
  }
}

constexpr int kTileBlocks = 8, kStages = 4;
constexpr int kTileOutputs = kTileBlocks * static_cast<int>(kBlockOutputs);
constexpr int kWarpRows = 32;

template <typename Weights, int kRows>
constexpr int StageBytes() {
  return kTileBlocks * Weights::kStripBytes + kRows * static_cast<int>(kStripInputs) * 2;
}

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
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      const std::int64_t block = first_block + at / kChunks;
      const bool inside = block < blocks;
      weights_[i] = static_cast<const unsigned char*>(p.w) +
                    (inside ? block : 0) * strips * Weights::kStripBytes +
                    at % kChunks * 16;
      weight_zeros_[i] = inside ? 0 : 16;
    }
#pragma unroll
    for (int i = 0; i < kInputCopies; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      const std::int64_t row = first_row + at / 4;
      inputs_[i] = row < p.rows ? x_ + row * p.x_stride : nullptr;
    }
  }

  __device__ __forceinline__ void Start(std::int64_t strip, unsigned char* stage) const {
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i)
      AsyncCopy16(stage + (static_cast<int>(threadIdx.x) + i * kThreads) * 16,
                  weights_[i] + strip * Weights::kStripBytes, weight_zeros_[i]);
    unsigned char* const to = stage + kTileBlocks * Weights::kStripBytes;
    const std::int64_t k = strip * kStripInputs + threadIdx.x % 4 * 8;
#pragma unroll
    for (int i = 0; i < kInputCopies; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
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
  static constexpr int kWeightCopies = kTileBlocks * kChunks / kThreads;
  static constexpr int kInputCopies = kRows * 4 / kThreads;
  static_assert(kTileBlocks * kChunks % kThreads == 0 && kRows * 4 % kThreads == 0);
  static_assert(kThreads % 4 == 0);  // a thread's inputs have the same k in all copies

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

// Sums of parts that are blocks of their own, [tile][slice][row][output].
constexpr std::int64_t kPartialElements = std::int64_t{64} * kTileOutputs;

// 128 outputs by kRows rows, eight warps of 32 rows each. kSplit: only slice
// blockIdx.x % kSlices of tile blockIdx.x / kSlices, to `partials`.
template <typename Weights, int kRows, bool kSplit, bool kAligned>
__global__ void __launch_bounds__(kThreads) ManyRows(Products products) {
  constexpr int kRowWarps = kRows / kWarpRows, kGroups = kWarpRows / 8;
  constexpr int kBlocks = kTileBlocks * kRowWarps / (kThreads / kWarp);
  static_assert(!kSplit || kRows * kTileOutputs == kPartialElements);
  static_assert(kStages * StageBytes<Weights, kRows>() >=
                kStagedRows * kTileOutputs * static_cast<int>(sizeof(float)));
  auto* const shared = static_cast<unsigned char*>(DynamicShared());
  AwaitLaunch();
  const std::int64_t index = kSplit ? blockIdx.x / kSlices : blockIdx.x;
  const Product& p = FindProduct(products, index);
  const std::int64_t tile = index - p.first_tile;
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
    return shared + (strip - begin) % kStages * StageBytes<Weights, kRows>();
  };
  for (std::int64_t strip = begin; strip < begin + kStages - 1; ++strip) {
    if (strip < end) copies.Start(strip, stage(strip));
    AsyncCommit();
  }
  float sum[kBlocks][kGroups][4] = {}, total[kBlocks][kGroups][4] = {};
  std::int64_t slice_end = (slice + 1) * strips / kSlices;
  for (std::int64_t strip = begin; strip < end; ++strip) {
    AsyncWait<kStages - 2>();
    // Everybody sees the strip, and is done with the one whose room is taken next.
    __syncthreads();
    const std::int64_t next = strip + kStages - 1;
    if (next < end) copies.Start(next, stage(next));
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
  AllowLaunch();
  // Calls visit(row, output, number) for what this thread has, both within the tile.
  const auto for_sums = [&](const auto& visit) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          // The last slice is never empty; those before it are in `total`.
          visit(warp_row + g * 8 + lane % 4 * 2 + e % 2,
                (warp_block + b) * 16 + lane / 4 + e / 2 * 8,
                kSplit ? sum[b][g][e] : total[b][g][e] + sum[b][g][e]);
  };
  if constexpr (kSplit) {
    float* const to = products.partials + std::int64_t{blockIdx.x} * kPartialElements;
    for_sums([to](int row, int output, float value) {
      to[row * kTileOutputs + output] = value;
    });
  } else {
    auto* const staged = reinterpret_cast<float*>(shared);
    constexpr int kSums = 8, kRowStep = kThreads / kTileOutputs;
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
constexpr int kSumsEach = 4, kRowsEach = kSumsEach * kThreads / kTileOutputs;
__global__ void __launch_bounds__(kThreads) AddSlices(Products products) {
  constexpr int kRows = static_cast<int>(kPartialElements) / kTileOutputs;
  AwaitLaunch();
  const std::int64_t index = blockIdx.x / (kRows / kRowsEach);
  const Product& p = FindProduct(products, index);
  const std::int64_t tile = index - p.first_tile;
  const int output = static_cast<int>(threadIdx.x) % kTileOutputs;
  const int first = static_cast<int>(blockIdx.x) % (kRows / kRowsEach) * kRowsEach +
                    static_cast<int>(threadIdx.x) / kTileOutputs;
  const std::int64_t col = tile / p.row_tiles * kTileOutputs + output;
  const float* const from = products.partials + index * kSlices * kPartialElements;
  Sums<kSumsEach> sums;
  float part[kSumsEach][kSlices];
#pragma unroll
  for (int i = 0; i < kSumsEach; ++i) {
    const int row = first + i * (kThreads / kTileOutputs);
    sums.row[i] = tile % p.row_tiles * kRows + row;
    sums.col[i] = col;
    sums.inside[i] = col < p.out && sums.row[i] < p.rows;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice)
      part[i][slice] = from[slice * kPartialElements + row * kTileOutputs + output];
  }
  AllowLaunch();
#pragma unroll
  for (int i = 0; i < kSumsEach; ++i) {
    sums.value[i] = part[i][0];
#pragma unroll
    for (int slice = 1; slice < kSlices; ++slice) sums.value[i] += part[i][slice];
  }
  FinishProducts(p, sums);
}

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
__global__ void __launch_bounds__(kThreads) F32Tile(Products products) {
  __shared__ float inputs[kF32Depth][kF32Tile + 1], weights[kF32Depth][kF32Tile + 1];
  AwaitLaunch();
  const Product& p = FindProduct(products, blockIdx.x);
  const std::int64_t tile = blockIdx.x - p.first_tile;
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
    for (int i = threadIdx.x; i < kF32Depth * kF32Tile; i += kThreads) {
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
  AllowLaunch();
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t row = first_row + thread_row + 16 * i;
      const std::int64_t col = first_col + thread_col + 16 * j;
      if (row < p.rows && col < p.out) FinishProduct(p, row, col, sum[i][j]);
    }
}

// Up to so many tiles of 64 rows are split: a product of 2048 outputs and 128 rows.
// Beyond it, writing and reading partial sums costs more than the blocks that are
// missing.
constexpr std::int64_t kMaxSplitTiles = 32;
// A slice has two strips at least.
constexpr std::int64_t kLeastSplitStrips = 2 * kSlices;
// Tiles of 128 rows that are enough to keep a GPU busy; they read less than those of 64.
constexpr std::int64_t kEnoughTiles = 96;

// Products of one kind, cut into tiles.
struct Batch {
  Products products;
  std::int64_t tiles = 0;

  void Add(const GemmArgs& args, std::int64_t tile_outputs, std::int64_t tile_rows) {
    Product& p = products.at[products.count++];
    p.x = args.x.data;
    p.x_stride = args.x.stride;
    p.rows = args.x.rows;
    p.w = args.w.data;
    p.scales = args.w.scales;
    p.in = args.w.in;
    p.out = args.w.out;
    p.y = args.y;
    p.epilogue = args.epilogue;
    p.first_tile = tiles;
    p.row_tiles = (p.rows + tile_rows - 1) / tile_rows;
    tiles += p.row_tiles * ((p.out + tile_outputs - 1) / tile_outputs);
  }
};

bool IsAligned(const GemmArgs& args) {
  return reinterpret_cast<std::uintptr_t>(args.x.data) % 16 == 0 &&
         args.x.stride % 8 == 0 && args.w.in % 8 == 0;
}

using Kernel = void (*)(Products);

struct Shape {
  Kernel aligned, any;
  std::int64_t outputs, rows;  // of a tile
  int shared = 0;
  bool split = false;  // a block for each slice of a tile
};

template <typename Weights, int kRows, bool kSplit>
Shape ManyRowsShape() {
  return {.aligned = ManyRows<Weights, kRows, kSplit, true>,
          .any = ManyRows<Weights, kRows, kSplit, false>,
          .outputs = kTileOutputs,
          .rows = kRows,
          .shared = kStages * StageBytes<Weights, kRows>(),
          .split = kSplit};
}

// What a launch's products have in common.
struct Sizes {
  std::int64_t rows = 0;       // most
  std::int64_t strips = 0;     // fewest
  std::int64_t tiles[2] = {};  // of 128 outputs by 64 and by 128 rows
  bool aligned = true;
};

// All shapes have the same bits; which one is fast depends on how many tiles there are
// for the hundred-odd multiprocessors of a GPU.
template <typename Weights>
Shape ShapeFor(const Sizes& sizes) {
  if (sizes.rows <= 8)
    return {FewRows<Weights, 1, 1, true>, FewRows<Weights, 1, 1, false>, 16, 8};
  if (sizes.rows <= 16)
    return {FewRows<Weights, 1, 2, true>, FewRows<Weights, 1, 2, false>, 16, 16};
  if (sizes.rows <= 32)
    return {FewRows<Weights, 2, 4, true>, FewRows<Weights, 2, 4, false>, 32, 32};
  if (sizes.tiles[0] <= kMaxSplitTiles && sizes.strips >= kLeastSplitStrips)
    return ManyRowsShape<Weights, 64, true>();
  if (sizes.tiles[1] < kEnoughTiles) return ManyRowsShape<Weights, 64, false>();
  return ManyRowsShape<Weights, 128, false>();
}

// Shared memory beyond 48 KiB must be asked for.
template <typename Weights>
void PrepareKernels(Stream& stream) {
  for (const std::int64_t rows : {8, 16, 32}) {
    const Shape shape = ShapeFor<Weights>({.rows = rows});
    LoadKernels(stream, shape.aligned, shape.any);
  }
  for (const Shape& shape :
       {ManyRowsShape<Weights, 64, true>(), ManyRowsShape<Weights, 64, false>(),
        ManyRowsShape<Weights, 128, false>()})
    for (const Kernel kernel : {shape.aligned, shape.any}) {
      LoadKernels(stream, kernel);
      stream.Check(cudaFuncSetAttribute(
                       kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared),
                   "cudaFuncSetAttribute");
    }
}

void LaunchBf16(Stream& stream, std::span<const GemmArgs> products, DType storage,
                float* partials) {
  const auto tiles = [](const GemmArgs& args, std::int64_t rows) {
    return (args.w.out + kTileOutputs - 1) / kTileOutputs *
           ((args.x.rows + rows - 1) / rows);
  };
  Sizes sizes;
  for (const GemmArgs& args : products) {
    if (args.w.storage != storage) continue;
    const std::int64_t strips = StripsOf(args.w.in);
    sizes.rows = std::max(sizes.rows, args.x.rows);
    sizes.strips = sizes.tiles[0] == 0 ? strips : std::min(sizes.strips, strips);
    sizes.tiles[0] += tiles(args, 64);
    sizes.tiles[1] += tiles(args, 128);
    sizes.aligned = sizes.aligned && IsAligned(args);
  }
  const Shape shape = storage == DType::kI8    ? ShapeFor<ByteWeights<std::int8_t>>(sizes)
                      : storage == DType::kFp8 ? ShapeFor<ByteWeights<Fp8>>(sizes)
                                               : ShapeFor<Bf16Weights>(sizes);
  Batch batch;
  batch.products.partials = partials;
  for (const GemmArgs& args : products)
    if (args.w.storage == storage) batch.Add(args, shape.outputs, shape.rows);
  if (batch.tiles == 0) return;
  Launch(stream, "gemm", sizes.aligned ? shape.aligned : shape.any,
         dim3(static_cast<unsigned>(batch.tiles * (shape.split ? kSlices : 1))), kThreads,
         static_cast<std::size_t>(shape.shared), batch.products);
  if (shape.split)
    Launch(stream, "add_slices", AddSlices,
           dim3(static_cast<unsigned>(batch.tiles * shape.rows / kRowsEach)), kThreads, 0,
           batch.products);
}

void LaunchF32(Stream& stream, std::span<const GemmArgs> products, DType storage) {
  Batch batch;
  for (const GemmArgs& args : products)
    if (args.w.storage == storage) batch.Add(args, kF32Tile, kF32Tile);
  if (batch.tiles == 0) return;
  const Kernel kernel = storage == DType::kI8    ? F32Tile<std::int8_t>
                        : storage == DType::kFp8 ? F32Tile<Fp8>
                                                 : F32Tile<float>;
  Launch(stream, "gemm", kernel, dim3(static_cast<unsigned>(batch.tiles)), kThreads, 0,
         batch.products);
}

}  // namespace

std::int64_t GemmPartialBytes() {
  return kMaxSplitTiles * kSlices * kPartialElements *
         static_cast<std::int64_t>(sizeof(float));
}

void PrepareGemm(Stream& stream) {
  PrepareKernels<Bf16Weights>(stream);
  PrepareKernels<ByteWeights<std::int8_t>>(stream);
  PrepareKernels<ByteWeights<Fp8>>(stream);
  LoadKernels(stream, AddSlices, F32Tile<float>, F32Tile<std::int8_t>, F32Tile<Fp8>);
  PrepareFinishSums(stream);
}

void Gemm(Stream& stream, std::span<const GemmArgs> products, float* partials) {
  if (products.empty()) return;
  const DType type = products[0].w.type;
  for (const DType storage : {type, DType::kI8, DType::kFp8}) {
    if (type == DType::kF32)
      LaunchF32(stream, products, storage);
    else
      LaunchBf16(stream, products, storage, partials);
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
