// Causal softmax attention, per query row and head of 64, over tiles of keys and values:
//   out = sum over t <= position of softmax(q . k[t] / 8) v[t]
//   q      : [rows, heads, 64]  float32
//   tile   : per head keys [padded tokens][64], then values the same: f32 or bf16; a head
//            of a tile is one run of memory
//   carry  : [rows, heads, 64 + 2] float32: sums of weighted values, maximum, sum
//
// A row's past is cut at fixed positions into chunks of eight tiles. A block of threads
// takes one chunk of one head, for up to four rows that see it: scores, their maximum,
// weights, weighted values; the results are folded in ascending order. So a long past is
// spread over the whole device, what rows have in common is read once for four of them,
// and a row's bits depend on its own position and tokens alone. Lists of tiles are
// consecutive and begin at a chunk's first tile (KvTiles::kCutTiles). There are as many
// blocks as the device runs at once, eight on a multiprocessor if its shared memory is
// enough for them, whatever there is to do: they share out what they find in the device's
// memory, so the same launch serves any lengths, and no block begins when others are done.
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
constexpr int kMaxRows = static_cast<int>(AttendRun::kRowsAtOnce);

__device__ __forceinline__ float MinusInfinity() { return __uint_as_float(0xff800000u); }

// The tiles as kernels need them.
struct Tiles {
  const void* data = nullptr;
  std::int64_t heads = 0;
  std::int64_t head_elements = 0;  // of keys, and of values
  int page_tokens = 0;
};

// What a block takes at once: a chunk that the rows args.order[order, order + rows) see,
// as far as their positions. It is each of theirs of number chunk_begin + chunk.
struct Item {
  std::int32_t order = 0;
  int rows = 0;
  std::int32_t chunk = 0;
  std::int32_t first_tile = 0;  // entry of the lists of tiles
  int num_tiles = 0;
};

__device__ __forceinline__ int DivideUp(int a, int b) { return (a + b - 1) / b; }
__device__ __forceinline__ int ChunksOf(const AttendRun& run) {
  return DivideUp(run.tile_end - run.tile_begin, kChunkTiles);
}
__device__ __forceinline__ int GroupsOf(const AttendRun& run) {
  return DivideUp(run.row_end - run.row_begin, kMaxRows);
}

__device__ __forceinline__ std::int32_t NumItems(const AttendArgs& args) {
  const std::int32_t runs = *args.num_runs;
  if (runs == 0) return 0;
  const AttendRun& last = args.runs[runs - 1];
  return last.first_item + ChunksOf(last) * GroupsOf(last);
}

// Those of one chunk follow one another: who comes second finds it in the second level
// cache.
__device__ __forceinline__ Item ItemOf(const AttendArgs& args, std::int32_t number) {
  // The last run that begins there or before; those in front of it that begin there too
  // have no items.
  std::int32_t low = 0, high = *args.num_runs;
  while (high - low > 1) {
    const std::int32_t middle = (low + high) / 2;
    if (args.runs[middle].first_item <= number)
      low = middle;
    else
      high = middle;
  }
  const AttendRun& run = args.runs[low];
  const int own = number - run.first_item, groups = GroupsOf(run);
  const int chunk = own / groups, group = own % groups;
  Item item;
  item.order = run.row_begin + group * kMaxRows;
  item.rows = run.row_end - item.order < kMaxRows ? run.row_end - item.order : kMaxRows;
  item.chunk = run.first_chunk + chunk;
  item.first_tile = run.tile_begin + chunk * kChunkTiles;
  const int tiles = run.tile_end - item.first_tile;
  item.num_tiles = tiles < kChunkTiles ? tiles : kChunkTiles;
  return item;
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

// Visits, so many at a time, the first `count` tokens of a tile that this thread's group
// of eight lanes has: visit(token, whether it exists, its eight elements), every lane of
// a warp equally often. Tokens beyond `count` are not read.
template <int kAtOnce, typename T, typename Visit>
__device__ __forceinline__ void ForTokens(const T* rows, int count, const Visit& visit) {
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

struct SharedSums {
  float scratch[kMaxRows][kWarps];
  __align__(16) float sums[kMaxRows][kWarps][kHeadSize];
  // Of a row, the first halves of what each lane has, then the second ones: lanes side by
  // side read what is side by side.
  __align__(16) float query[kMaxRows][2][kLanes][kDims / 2];
};

// One head of an item of up to kRows rows: each thread adds what it adds for a row alone,
// in the same order. `alone`: this block has a multiprocessor to itself.
template <int kRows, typename T>
__device__ __forceinline__ void AttendItem(const AttendArgs& args, const Tiles& tiles,
                                           const Pass& pass, const Item& item,
                                           std::int64_t head, bool alone, float* weights,
                                           SharedSums& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int dim = lane % kLanes * kDims;
  const int chunk_tokens = kChunkTiles * tiles.page_tokens;
  // All of a chunk are looked up at once: each by itself, keys would wait for two answers
  // of the memory.
  static_assert(kChunkTiles <= kWarp);
  const std::int32_t own_tile =
      lane < item.num_tiles ? args.tile[item.first_tile + lane] : 0;
  // Tokens that a row sees, and has not been told of in another pass.
  int seen[kRows] = {};
  int longest = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= item.rows) break;
    const std::int32_t row = args.order[item.order + r];
    const std::int64_t number =
        std::int64_t{args.chunk_begin[row]} + item.chunk - pass.first;
    const std::int64_t left =
        args.position[row] + 1 - args.tile_position[item.first_tile];
    if (number < 0 || number >= pass.most || left <= 0) continue;
    const int most = item.num_tiles * tiles.page_tokens;
    seen[r] = left < most ? static_cast<int>(left) : most;
    longest = seen[r] > longest ? seen[r] : longest;
  }
  if (longest == 0) return;
  const auto tile = [&](int i) {
    const std::int64_t at = __shfl_sync(kAllLanes, own_tile, i);
    return static_cast<const T*>(tiles.data) +
           (at * tiles.heads + head) * 2 * tiles.head_elements;
  };
  // Values, too, which nobody asks for before all scores are known.
  if (alone)
    for (int i = 0; i < item.num_tiles; ++i)
      FetchEarly(tile(i), 2 * tiles.head_elements * static_cast<int>(sizeof(T)));
  const auto count = [&](int i) {
    const int left = longest - i * tiles.page_tokens;
    return left < tiles.page_tokens ? left : tiles.page_tokens;
  };

  float own_query[kDims];
  if constexpr (kRows == 1) {
    const float* const q = Row<float>(args.q, args.order[item.order]);
    LoadFloats(q + head * kHeadSize + dim, own_query);
#pragma unroll
    for (int d = 0; d < kDims; ++d) own_query[d] *= kScoreScale;
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < item.rows * kHeadSize;
         i += kThreads) {
      const int r = i / kHeadSize, d = i % kHeadSize;
      const float q =
          Row<float>(args.q, args.order[item.order + r])[head * kHeadSize + d];
      shared.query[r][d % kDims / (kDims / 2)][d / kDims][d % (kDims / 2)] =
          q * kScoreScale;
    }
    __syncthreads();
  }
  const auto query = [&](int r, float(&q)[kDims]) {
    if constexpr (kRows == 1) {
#pragma unroll
      for (int d = 0; d < kDims; ++d) q[d] = own_query[d];
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto four = LoadVector<float4>(shared.query[r][half][lane % kLanes]);
        q[half * 4] = four.x;
        q[half * 4 + 1] = four.y;
        q[half * 4 + 2] = four.z;
        q[half * 4 + 3] = four.w;
      }
    }
  };

  float max[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) max[r] = MinusInfinity();
  const auto score_token = [&](int token, bool exists, const Eight& key) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= item.rows) break;
      float q[kDims];
      query(r, q);
      float score = 0.0f;
#pragma unroll
      for (int d = 0; d < kDims; ++d) score = Fma(q[d], key.v[d], score);
      for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
        score += __shfl_xor_sync(kAllLanes, score, lanes);
      if (!exists || token >= seen[r]) continue;
      if (lane % kLanes == 0) weights[r * chunk_tokens + token] = score;
      max[r] = score > max[r] ? score : max[r];
    }
  };
  for (int i = 0; i < item.num_tiles && count(i) > 0; ++i)
    ForTokens<kRows == 1 ? 4 : 2>(tile(i), count(i),
                                  [&](int t, bool exists, const Eight& key) {
                                    score_token(i * tiles.page_tokens + t, exists, key);
                                  });
  // A NaN among the scores does not become the maximum, but its weight is NaN, and so are
  // the sums.
  float sum[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= item.rows) break;
    max[r] = BlockMax<kThreads>(max[r], shared.scratch[r]);
    for (int t = static_cast<int>(threadIdx.x); t < seen[r]; t += kThreads) {
      float& weight = weights[r * chunk_tokens + t];
      weight = expf(weight - max[r]);
      sum[r] += weight;
    }
    sum[r] = BlockSum<kThreads>(sum[r], shared.scratch[r]);
  }

  Eight acc[kRows] = {};
  const auto add_token = [&](int token, bool exists, const Eight& value) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!exists || token >= seen[r]) continue;
      const float w = weights[r * chunk_tokens + token];
#pragma unroll
      for (int d = 0; d < kDims; ++d) acc[r].v[d] = Fma(w, value.v[d], acc[r].v[d]);
    }
  };
  for (int i = 0; i < item.num_tiles && count(i) > 0; ++i)
    ForTokens<kRows == 1 ? 4 : 1>(tile(i) + tiles.head_elements, count(i),
                                  [&](int t, bool exists, const Eight& value) {
                                    add_token(i * tiles.page_tokens + t, exists, value);
                                  });
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= item.rows) break;
#pragma unroll
    for (int d = 0; d < kDims; ++d) {
      acc[r].v[d] += __shfl_xor_sync(kAllLanes, acc[r].v[d], 8);
      acc[r].v[d] += __shfl_xor_sync(kAllLanes, acc[r].v[d], 16);
    }
    if (lane < kLanes) StoreEight(acc[r], &shared.sums[r][warp][dim]);
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (seen[r] == 0) continue;
    const std::int32_t row = args.order[item.order + r];
    float* const partial = pass.Partial(args, args.chunk_begin[row] + item.chunk, head);
    for (int d = static_cast<int>(threadIdx.x); d < kHeadSize; d += kThreads) {
      float total = shared.sums[r][0][d];
      for (int w = 1; w < kWarps; ++w) total += shared.sums[r][w][d];
      partial[d] = total;
    }
    if (threadIdx.x == 0) {
      partial[kHeadSize] = max[r];
      partial[kHeadSize + 1] = sum[r];
    }
  }
  // The next item's weights and queries are written over those that all have read before
  // the last barrier, its sums after more of them.
}

// Each block takes one head of one item after another, those of an item side by side.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    AttendChunks(AttendArgs args, Tiles tiles, Pass pass) {
  __shared__ SharedSums shared;
  auto* const weights = static_cast<float*>(DynamicShared());  // [kMaxRows, chunk tokens]
  AwaitLaunch();
  const std::int64_t items = NumItems(args);
  // Short pasts: what is asked for batch by batch would not keep the memory busy. Where
  // there are many items it would drive what others are about to read out of the cache.
  const bool alone = items * args.heads <= gridDim.x / kBlocksAtOnce;
  for (std::int64_t i = blockIdx.x; i < items * args.heads; i += gridDim.x) {
    const Item item = ItemOf(args, static_cast<std::int32_t>(i / args.heads));
    const std::int64_t head = i % args.heads;
    if (item.rows == 1)
      AttendItem<1, T>(args, tiles, pass, item, head, alone, weights, shared);
    else
      AttendItem<kMaxRows, T>(args, tiles, pass, item, head, alone, weights, shared);
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
  // Some are asked for at once, and the next ones before these are folded: each by itself
  // would take as long as memory takes to answer.
  constexpr int kAtOnce = 8;
  struct Partials {
    float max[kAtOnce], sum[kAtOnce], value[kAtOnce];
  };
  const std::int64_t last = end < pass_end ? end : pass_end;
  // The last one again instead of one that is not there: with a branch between them each
  // would wait for the one before.
  const auto ask = [&](std::int64_t at, Partials& to) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t number = at + i < last ? at + i : last - 1;
      const float* const partial =
          pass.Partial(args, static_cast<std::int32_t>(number), head);
      to.max[i] = partial[kHeadSize];
      to.sum[i] = partial[kHeadSize + 1];
      to.value[i] = partial[d];
    }
  };
  Partials now = {}, next = {};
  if (first < last) ask(first, now);
  for (std::int64_t at = first; at < last; at += kAtOnce) {
    ask(at + kAtOnce, next);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + i >= last) break;
      const float new_max = now.max[i] > max ? now.max[i] : max;
      const float mine = expf(max - new_max), other = expf(now.max[i] - new_max);
      weights = Fma(weights, mine, now.sum[i] * other);
      acc = Fma(acc, mine, now.value[i] * other);
      max = new_max;
    }
    now = next;
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
  FetchForAll(norm, out.cols);
  AwaitLaunch();
  const std::int64_t row = blockIdx.x;
  const int cols = static_cast<int>(out.cols);
  const float* const all = Row<float>(carry, row);
  const bool normed = norm.weight != nullptr;
  struct Column {
    float sum, weights;

    __device__ __forceinline__ float value() const {
      // Padding has seen nothing, and should not look like a fault.
      return weights == 0.0f ? 0.0f : sum / weights;
    }
  };
  const auto read = [all](int i) {
    const float* const head = all + i / kHeadSize * kCarrySize;
    return Column{head[i % kHeadSize], head[kHeadSize + 1]};
  };
  Moments m = {};
  if (normed)
    m = MomentsBy(
        [&](const auto& add) {
          ForColumns<8>(cols, read, [&](int, const Column& c) { add(c.value()); });
        },
        cols, norm.eps,
        [&](float value) { return BlockSum<kNormThreads>(value, scratch); });
  struct NormedColumn {
    Column column;
    float weight, bias;
  };
  ForColumns(
      cols,
      [&](int i) {
        return NormedColumn{read(i), normed ? norm.weight[i] : 0.0f,
                            normed ? norm.bias[i] : 0.0f};
      },
      [&](int i, const NormedColumn& c) {
        const float value = c.column.value();
        Put(normed ? Normalised({value, c.weight, c.bias}, m) : value, out, row, i);
      });
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
  const std::size_t weights = sizeof(float) * kMaxRows * kChunkTiles *
                              static_cast<std::size_t>(args.tiles.page_tokens);
  const dim3 folds(static_cast<unsigned>(args.q.rows), static_cast<unsigned>(args.heads));
  bool fresh = args.first;
  // Rows without a chunk start their carry afresh, too.
  do {
    Launch(stream, "attend",
           args.tiles.type == DType::kF32 ? AttendChunks<float>
                                          : AttendChunks<std::uint16_t>,
           blocks, kThreads, weights, args, tiles, pass);
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
