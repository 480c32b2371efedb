// Causal softmax attention, per query row and head of 64, over tiles of keys and values:
//   out = sum over t <= position of softmax(q . k[t] / 8) v[t]
//   q      : [rows, heads, 64]  float32
//   tile   : per head keys [padded tokens][64], then values the same: f32 or bf16; a head
//            of a tile is one run of memory
//   carry  : [rows, heads, 64 + 2] float32: sums of weighted values, maximum, sum
//
// A row's past is cut at fixed positions into chunks of eight tiles. A block of threads
// takes one chunk of one head for one row: scores, their maximum, weights, weighted
// values; the results are folded in ascending order. So a long past is spread over the
// whole device, and a row's bits depend on its own position and tokens alone. Lists of
// tiles are consecutive and begin at a chunk's first tile (KvTiles::kCutTiles). There are
// as many blocks as the device runs at once, whatever there is to do: they share out what
// they find in the device's memory, so the same launch serves any lengths, and no block
// begins when others are done.
//
// Eight lanes share a token: sixteen bytes each of its key, and of its value.
//
// AttendFinish divides by the weights and norms over all heads: a block of threads a row.
#include <algorithm>

#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/moments.h"
#include "engine/kernels/cuda/rope.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kLanes = 8;                   // that share a token
constexpr int kDims = kHeadSize / kLanes;   // of a lane
constexpr int kTokens = kThreads / kLanes;  // at once
constexpr int kBlocksAtOnce = 8;            // of a multiprocessor
constexpr int kChunkTiles = static_cast<int>(KvTiles::kCutTiles);
constexpr int kChunkTokens = kChunkTiles * static_cast<int>(kMaxPageTokens);

__device__ __forceinline__ float MinusInfinity() { return __uint_as_float(0xff800000u); }

// The tiles as kernels need them.
struct Tiles {
  const void* data = nullptr;
  std::int64_t heads = 0;
  std::int64_t head_elements = 0;  // of keys, and of values
  int page_tokens = 0;
};

// Of a call: its chunk number `number`, as far as the row that it belongs to sees it.
struct Chunk {
  std::int64_t row = 0;
  std::int32_t first = 0;  // entry of the list's arrays
  int num_tiles = 0;
  std::int64_t seen = 0;  // tokens, at least one
};

__device__ __forceinline__ Chunk ChunkOf(const AttendArgs& args, std::int32_t number,
                                         int page_tokens) {
  // The last row that begins there or before; those in front of it that begin there too
  // have no chunks.
  std::int64_t low = 0, high = args.q.rows;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (args.chunk_begin[middle] <= number)
      low = middle;
    else
      high = middle;
  }
  Chunk c;
  c.row = low;
  const std::int32_t list = args.span[c.row];
  const std::int32_t end = args.tile_begin[list + 1];
  c.first = args.tile_begin[list] + (number - args.chunk_begin[c.row]) * kChunkTiles;
  c.num_tiles = end - c.first < kChunkTiles ? end - c.first : kChunkTiles;
  const std::int64_t most = static_cast<std::int64_t>(c.num_tiles) * page_tokens;
  c.seen = args.position[c.row] + 1 - args.tile_position[c.first];
  if (c.seen > most) c.seen = most;
  return c;
}

struct Eight {
  float v[kDims];
};
__device__ __forceinline__ Eight LoadEight(const float* p) {
  const auto a = LoadVector<float4>(p), b = LoadVector<float4>(p + 4);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ void StoreEight(const Eight& eight, float* p) {
  const auto& v = eight.v;
  StoreVector(float4{v[0], v[1], v[2], v[3]}, p);
  StoreVector(float4{v[4], v[5], v[6], v[7]}, p + 4);
}
__device__ __forceinline__ Eight LoadEight(const std::uint16_t* p) {
  const auto a = LoadVector<uint4>(p);
  return {{LowBf16(a.x), HighBf16(a.x), LowBf16(a.y), HighBf16(a.y), LowBf16(a.z),
           HighBf16(a.z), LowBf16(a.w), HighBf16(a.w)}};
}

// Visits, four at a time, the first `count` tokens of a tile that this thread's group of
// eight lanes has: visit(token, whether it exists, its eight elements), every lane of a
// warp equally often. Tokens beyond `count` are not read.
template <typename T, typename Visit>
__device__ __forceinline__ void ForTokens(const T* rows, int count, const Visit& visit) {
  constexpr int kAtOnce = 4;
  const int own = static_cast<int>(threadIdx.x) / kLanes;
  const int dim = static_cast<int>(threadIdx.x) % kLanes * kDims;
  for (int first = 0; first < count; first += kAtOnce * kTokens) {
    Eight x[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int t = first + i * kTokens + own;
      if (t < count) x[i] = LoadEight(rows + t * kHeadSize + dim);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int t = first + i * kTokens + own;
      visit(t, t < count, x[i]);
    }
  }
}

// What one call, or a part of it, has room for: chunks [first, first + most).
struct Pass {
  std::int32_t first = 0;
  std::int32_t most = 0;
  float* partials = nullptr;  // [chunks of the pass, heads, kCarrySize]

  __device__ __forceinline__ float* Partial(const AttendArgs& args, std::int32_t chunk,
                                            std::int64_t head) const {
    return partials + (std::int64_t{chunk - first} * args.heads + head) * kCarrySize;
  }
};

// Each block takes one chunk of one head after another, those of a chunk side by side.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    AttendChunks(AttendArgs args, Tiles tiles, Pass pass) {
  __shared__ float weight[kChunkTokens];
  __shared__ float scratch[kWarps];
  __align__(16) __shared__ float sums[kWarps][kHeadSize];
  AwaitLaunch();
  std::int64_t chunks = std::int64_t{args.chunk_begin[args.q.rows]} - pass.first;
  if (chunks > pass.most) chunks = pass.most;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int dim = lane % kLanes * kDims;
  for (std::int64_t item = blockIdx.x; item < chunks * args.heads; item += gridDim.x) {
    const auto number = static_cast<std::int32_t>(pass.first + item / args.heads);
    const std::int64_t head = item % args.heads;
    const Chunk chunk = ChunkOf(args, number, tiles.page_tokens);
    // All of a chunk are looked up at once: each by itself, keys would wait for two
    // answers of the memory.
    static_assert(kChunkTiles <= kWarp);
    const std::int32_t own_tile =
        lane < chunk.num_tiles ? args.tile[chunk.first + lane] : 0;
    const auto tile = [&](int i) {
      const std::int64_t at = __shfl_sync(kAllLanes, own_tile, i);
      return static_cast<const T*>(tiles.data) +
             (at * tiles.heads + head) * 2 * tiles.head_elements;
    };
    const auto count = [&](int i) {
      const std::int64_t left =
          chunk.seen - static_cast<std::int64_t>(i) * tiles.page_tokens;
      return left < tiles.page_tokens ? static_cast<int>(left) : tiles.page_tokens;
    };

    float q[kDims];
    LoadFloats(Row<float>(args.q, chunk.row) + head * kHeadSize + dim, q);
#pragma unroll
    for (int d = 0; d < kDims; ++d) q[d] *= kScoreScale;
    float max = MinusInfinity();
    for (int i = 0; i < chunk.num_tiles && count(i) > 0; ++i) {
      ForTokens(tile(i), count(i), [&](int t, bool exists, const Eight& key) {
        float score = 0.0f;
#pragma unroll
        for (int d = 0; d < kDims; ++d) score = Fma(q[d], key.v[d], score);
        for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
          score += __shfl_xor_sync(kAllLanes, score, lanes);
        if (!exists) return;
        if (lane % kLanes == 0) weight[i * tiles.page_tokens + t] = score;
        max = score > max ? score : max;
      });
    }
    // A NaN among the scores does not become the maximum, but its weight is NaN, and so
    // are the sums.
    max = BlockMax<kThreads>(max, scratch);
    float sum = 0.0f;
    for (int t = static_cast<int>(threadIdx.x); t < chunk.seen; t += kThreads) {
      const float w = expf(weight[t] - max);
      weight[t] = w;
      sum += w;
    }
    sum = BlockSum<kThreads>(sum, scratch);

    Eight acc = {};
    for (int i = 0; i < chunk.num_tiles && count(i) > 0; ++i) {
      ForTokens(tile(i) + tiles.head_elements, count(i),
                [&](int t, bool exists, const Eight& value) {
                  if (!exists) return;
                  const float w = weight[i * tiles.page_tokens + t];
#pragma unroll
                  for (int d = 0; d < kDims; ++d) acc.v[d] = Fma(w, value.v[d], acc.v[d]);
                });
    }
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      acc.v[d] += __shfl_xor_sync(kAllLanes, acc.v[d], 8);
      acc.v[d] += __shfl_xor_sync(kAllLanes, acc.v[d], 16);
    }
    if (lane < kLanes) StoreEight(acc, &sums[warp][dim]);
    __syncthreads();
    float* const partial = pass.Partial(args, number, head);
    for (int d = static_cast<int>(threadIdx.x); d < kHeadSize; d += kThreads) {
      float total = sums[0][d];
      for (int w = 1; w < kWarps; ++w) total += sums[w][d];
      partial[d] = total;
    }
    if (threadIdx.x == 0) {
      partial[kHeadSize] = max;
      partial[kHeadSize + 1] = sum;
    }
    // The next item's weights are written over those that all have read before the last
    // barrier, its sums after more of them.
  }
}

// Folds the partial results of a pass into the carry: block (row, head), a thread a
// dimension.
__global__ void __launch_bounds__(kHeadSize)
    FoldChunks(AttendArgs args, Pass pass, bool fresh) {
  AwaitLaunch();
  const std::int64_t row = blockIdx.x;
  const std::int64_t head = blockIdx.y;
  const int d = static_cast<int>(threadIdx.x);
  float* const carry = Row<float>(args.carry, row) + head * kCarrySize;
  float max = fresh ? MinusInfinity() : carry[kHeadSize];
  float weights = fresh ? 0.0f : carry[kHeadSize + 1];
  float acc = fresh ? 0.0f : carry[d];
  const std::int32_t begin = args.chunk_begin[row], end = args.chunk_begin[row + 1];
  const std::int32_t first = begin > pass.first ? begin : pass.first;
  const std::int64_t pass_end = std::int64_t{pass.first} + pass.most;
  if (!fresh && (first >= end || first >= pass_end)) return;  // none of it is here
  // Some are asked for at once: each by itself would take as long as memory takes to
  // answer.
  constexpr int kAtOnce = 8;
  const std::int64_t last = end < pass_end ? end : pass_end;
  for (std::int64_t at = first; at < last; at += kAtOnce) {
    float maxima[kAtOnce], sums[kAtOnce], values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + i >= last) break;
      const float* const partial =
          pass.Partial(args, static_cast<std::int32_t>(at + i), head);
      maxima[i] = partial[kHeadSize];
      sums[i] = partial[kHeadSize + 1];
      values[i] = partial[d];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + i >= last) break;
      const float new_max = maxima[i] > max ? maxima[i] : max;
      const float mine = expf(max - new_max), other = expf(maxima[i] - new_max);
      weights = Fma(weights, mine, sums[i] * other);
      acc = Fma(acc, mine, values[i] * other);
      max = new_max;
    }
  }
  // Every thread has read what the first one is about to overwrite.
  __syncthreads();
  carry[d] = acc;
  if (d == 0) {
    carry[kHeadSize] = max;
    carry[kHeadSize + 1] = weights;
  }
}

__global__ void __launch_bounds__(kNormThreads)
    AttendFinishKernel(Matrix carry, NormWeights norm, Matrix out) {
  __shared__ float scratch[kNormWarps];
  AwaitLaunch();
  const std::int64_t row = blockIdx.x;
  const int cols = static_cast<int>(out.cols);
  const float* const all = Row<float>(carry, row);
  const auto read = [all](int i) {
    const float* const head = all + i / kHeadSize * kCarrySize;
    return head[i % kHeadSize] / head[kHeadSize + 1];
  };
  const bool normed = norm.weight != nullptr;
  Moments m = {};
  if (normed) m = BlockMoments(read, cols, norm.eps, scratch);
  ForColumns(
      cols, [&](int i) { return normed ? Normalised(read(i), m, norm, i) : read(i); },
      [&](int i, float value) { Put(value, out, row, i); });
}

__global__ void __launch_bounds__(kThreads)
    RopeKernel(Matrix x, const std::int64_t* position, const double* frequency) {
  __shared__ RopeTurn turn;
  AwaitLaunch();
  MakeRopeTurn(position[blockIdx.x], frequency, turn);
  __syncthreads();
  float* const row = Row<float>(x, blockIdx.x);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(x.cols) / 2;
       i += kThreads) {
    const float a = row[2 * i], b = row[2 * i + 1];
    const float c = turn.cosine[i % kRopePairs], s = turn.sine[i % kRopePairs];
    row[2 * i] = a * c - b * s;
    row[2 * i + 1] = a * s + b * c;
  }
}

Tiles TilesOf(const KvTiles& tiles) {
  return {tiles.data, tiles.heads, tiles.head_elements(),
          static_cast<int>(tiles.page_tokens)};
}

}  // namespace

void PrepareAttend(Stream& stream) {
  LoadKernels(stream, AttendChunks<float>, AttendChunks<std::uint16_t>, FoldChunks,
              AttendFinishKernel, RopeKernel);
}

void Rope(Stream& stream, const Matrix& x, const std::int64_t* position,
          const double* frequency) {
  Launch(stream, "rope", RopeKernel, dim3(static_cast<unsigned>(x.rows)), kThreads, 0, x,
         position, frequency);
}

void Attend(Stream& stream, const AttendArgs& args, float* workspace,
            std::int64_t partials) {
  if (args.q.rows == 0) return;
  const Tiles tiles = TilesOf(args.tiles);
  // As much at once as the workspace has room for.
  Pass pass = {.most = static_cast<std::int32_t>(
                   std::min<std::int64_t>(partials / args.heads, 1 << 30)),
               .partials = workspace};
  const dim3 blocks(static_cast<unsigned>(stream.multiprocessors * kBlocksAtOnce));
  const dim3 folds(static_cast<unsigned>(args.q.rows), static_cast<unsigned>(args.heads));
  bool fresh = args.first;
  // Rows without a chunk start their carry afresh, too.
  do {
    Launch(stream, "attend",
           args.tiles.type == DType::kF32 ? AttendChunks<float>
                                          : AttendChunks<std::uint16_t>,
           blocks, kThreads, 0, args, tiles, pass);
    Launch(stream, "attend_fold", FoldChunks, folds, kHeadSize, 0, args, pass, fresh);
    fresh = false;
    pass.first += pass.most;
  } while (pass.first < args.num_chunks);
}

void AttendFinish(Stream& stream, const Matrix& carry, const NormWeights& norm,
                  const Matrix& out) {
  Launch(stream, "attend_finish", AttendFinishKernel,
         dim3(static_cast<unsigned>(out.rows)), kNormThreads, 0, carry, norm, out);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
