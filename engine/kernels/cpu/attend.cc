// Causal softmax attention, per query row and head of 64, over tiles of keys and values:
//   out = sum over t <= position of softmax(q . k[t] / 8) v[t]
//   q      : [rows, heads, 64]  float32
//   tile   : per head keys [64][padded tokens], then values [padded tokens][64]: f32 or
//            bf16; a head of a tile is one run of memory
//   carry  : [rows, heads, 64 + 2] float32: sums of weighted values, maximum, sum
// Keys lie with tokens in vector lanes, so a score is a sum over 0 .. 63 in that order
// and nothing is added across lanes but once a tile. A tile is folded in whole: its
// maximum first, then its weights in ascending tokens. Tiles start at fixed positions of
// the sequence and come in order, so a query's bits depend on the tokens before it alone.
//
// A call takes rows and some of the heads. A tile's head is read once for all rows that
// see it, and a later one is asked for meanwhile.
//
// Rope: pairs (2i, 2i+1) of each head are rotated by position * frequency[i], the angle
// in float64 so that the error does not grow with the position.
#include <math.h>

#include "engine/kernels/cpu/apart.h"
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

inline constexpr int kParts = kHeadSize / kLanes;

struct Fold {
  F32x16 sum[kParts];
  float maximum;
  float weights;
};

// What to ask memory for: the same bytes of a head that is read soon.
struct Ahead {
  const char* next;  // null: nothing
  template <typename T>
  GOLDFINCH_INLINE void Ask(std::int64_t element, std::int64_t count) const {
    if (next == nullptr) return;
    const char* p = next + element * static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t i = 0; i < count * static_cast<std::int64_t>(sizeof(T)); i += 64)
      __builtin_prefetch(p + i, 0, 2);
  }
};

// 16 kVectors neighbouring elements, read once for several sums, and a sum:
// sum += w * x, element by element.
template <int kVectors, typename T>
struct Vectors {
  F32x16 x[kVectors];

  GOLDFINCH_INLINE explicit Vectors(const T* from) {
    for (int i = 0; i < kVectors; ++i) x[i] = Load(from + i * kLanes);
  }
};
template <int kVectors, typename T>
struct Sums {
  F32x16 sum[kVectors];

  GOLDFINCH_INLINE void Take(const F32x16* from) {
    for (int i = 0; i < kVectors; ++i) sum[i] = from[i];
  }
  GOLDFINCH_INLINE void Add(F32x16 w, const Vectors<kVectors, T>& read) {
    for (int i = 0; i < kVectors; ++i) sum[i] = MulAdd(w, read.x[i], sum[i]);
  }
  GOLDFINCH_INLINE void Give(F32x16* to) const {
    for (int i = 0; i < kVectors; ++i) to[i] = sum[i];
  }
};

#if defined(__AVX512F__)
// The same for bf16: 32 elements are one load, and their even and odd ones one more
// instruction each, so sums are kept apart and put back in order at the end.
template <>
struct Vectors<4, std::uint16_t> {
  EvenAndOdd x[2];

  GOLDFINCH_INLINE explicit Vectors(const std::uint16_t* from) {
    for (int i = 0; i < 2; ++i) x[i] = LoadApart(from + i * kLoadLanes);
  }
};
template <>
struct Sums<4, std::uint16_t> {
  F32x16 sum[2][2];

  GOLDFINCH_INLINE void Take(const F32x16* from) {
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) sum[i][j] = from[2 * i + j];
      PutApart(sum[i]);
    }
  }
  GOLDFINCH_INLINE void Add(F32x16 w, const Vectors<4, std::uint16_t>& read) {
    for (int i = 0; i < 2; ++i) {
      sum[i][0] = MulAdd(w, read.x[i].even, sum[i][0]);
      sum[i][1] = MulAdd(w, read.x[i].odd, sum[i][1]);
    }
  }
  GOLDFINCH_INLINE void Give(F32x16* to) const {
    for (int i = 0; i < 2; ++i) {
      F32x16 in_order[2] = {sum[i][0], sum[i][1]};
      PutInOrder(in_order);
      for (int j = 0; j < 2; ++j) to[2 * i + j] = in_order[j];
    }
  }
};
#endif

// Of several rows, so many vectors are summed up at once as there are registers for.
#if defined(__AVX512F__)
inline constexpr int kVectorsOfRows = 4;
#else
inline constexpr int kVectorsOfRows = 1;
#endif
inline constexpr int kRowsAtOnce = 4;

// Scores of kCount vectors of tokens from token `at` on, for kRows rows.
template <int kRows, int kCount, typename T>
GOLDFINCH_INLINE void ScoreVectors(const float (*q)[kHeadSize], const T* keys,
                                   std::int64_t padded, float (*score)[kMaxPageTokens],
                                   const Ahead& ahead, std::int64_t at) {
  F32x16 sum[kCount] = {};
  Sums<kCount, T> sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r].Take(sum);
  for (std::int64_t d = 0; d < kHeadSize; ++d) {
    ahead.Ask<T>(at + d * padded, kCount * kLanes);
    const Vectors<kCount, T> key(keys + at + d * padded);
    for (int r = 0; r < kRows; ++r) sums[r].Add(Splat(q[r][d]), key);
  }
  for (int r = 0; r < kRows; ++r) {
    sums[r].Give(sum);
    for (int i = 0; i < kCount; ++i) Store(sum[i], score[r] + at + i * kLanes);
  }
}

GOLDFINCH_INLINE float Largest(const float* score, std::int64_t count) {
  F32x16 maximum = Splat(-__builtin_inff());
  for (std::int64_t t = 0; t < count; t += kLanes) {
    const F32x16 s = Load(score + t);
    maximum = Larger(s, maximum);
  }
  float largest = -__builtin_inff();
  for (int i = 0; i < kLanes; ++i) largest = maximum[i] > largest ? maximum[i] : largest;
  return largest;
}

// Scores of the first `count` tokens of a head, then -infinity up to a whole vector.
template <int kRows, typename T>
GOLDFINCH_INLINE void Scores(const float* const* q, const T* keys, std::int64_t padded,
                             std::int64_t count, float (*score)[kMaxPageTokens],
                             const Ahead& ahead) {
  alignas(64) float query[kRows][kHeadSize];
  for (int r = 0; r < kRows; ++r)
    for (int part = 0; part < kParts; ++part)
      Store(Load(q[r] + part * kLanes) * kScoreScale, query[r] + part * kLanes);
  constexpr int kCount = kRows == 1 ? 4 : kVectorsOfRows;
  std::int64_t t = 0;
  for (; t + kCount * kLanes <= padded && t < count; t += kCount * kLanes)
    ScoreVectors<kRows, kCount>(query, keys, padded, score, ahead, t);
  for (; t < count; t += kLanes)
    ScoreVectors<kRows, 1>(query, keys, padded, score, ahead, t);
  for (int r = 0; r < kRows; ++r)
    for (t = count; t % kLanes != 0; ++t) score[r][t] = -__builtin_inff();
}

// Adds kVectors vectors of values from element `at` on, weighted, for kRows rows.
template <int kRows, int kVectors, typename T>
GOLDFINCH_INLINE void AddValues(const T* values, std::int64_t count,
                                const float (*weight)[kMaxPageTokens], const Ahead& ahead,
                                std::int64_t values_begin, int at, Fold* fold) {
  Sums<kVectors, T> sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r].Take(fold[r].sum + at / kLanes);
  for (std::int64_t t = 0; t < count; ++t) {
    ahead.Ask<T>(values_begin + t * kHeadSize + at, kVectors * kLanes);
    const Vectors<kVectors, T> value(values + t * kHeadSize + at);
    for (int r = 0; r < kRows; ++r) sums[r].Add(Splat(weight[r][t]), value);
  }
  for (int r = 0; r < kRows; ++r) sums[r].Give(fold[r].sum + at / kLanes);
}

// The first `count` tokens of a tile's head, for kRows rows that see as many of it. A NaN
// among the scores does not become the maximum, but its weight is NaN, and so are the
// sums.
template <int kRows, typename T>
GOLDFINCH_INLINE void FoldTile(const float* const* q, const T* tile, std::int64_t padded,
                               std::int64_t count, const Ahead& ahead, Fold* fold) {
  alignas(64) float weight[kRows][kMaxPageTokens];
  Scores<kRows>(q, tile, padded, count, weight, ahead);
  for (int r = 0; r < kRows; ++r) {
    const float tile_maximum = Largest(weight[r], count);
    const float maximum = tile_maximum > fold[r].maximum ? tile_maximum : fold[r].maximum;
    const F32x16 correction = Exp(Splat(fold[r].maximum - maximum));
    fold[r].maximum = maximum;
    F32x16 total = {};
    for (std::int64_t t = 0; t < count; t += kLanes) {
      const F32x16 w = Exp(Load(weight[r] + t) - maximum);
      Store(w, weight[r] + t);
      total += w;
    }
    fold[r].weights = MulAdd(fold[r].weights, correction[0], SumLanes(total));
    for (int part = 0; part < kParts; ++part) fold[r].sum[part] *= correction;
  }
  constexpr int kVectors = kRows == 1 ? kParts : kVectorsOfRows;
  const std::int64_t values = kHeadSize * padded;
  for (int at = 0; at < kHeadSize; at += kVectors * kLanes)
    AddValues<kRows, kVectors>(tile + values, count, weight, ahead, values, at, fold);
}

GOLDFINCH_INLINE Fold Resume(const float* carry, bool first) {
  Fold fold;
  for (int part = 0; part < kParts; ++part)
    fold.sum[part] = first ? F32x16{} : Load(carry + part * kLanes);
  fold.maximum = first ? -__builtin_inff() : carry[kHeadSize];
  fold.weights = first ? 0.0f : carry[kHeadSize + 1];
  return fold;
}

}  // namespace

namespace {

GOLDFINCH_INLINE void Save(const Fold& fold, float* carry) {
  for (int part = 0; part < kParts; ++part) Store(fold.sum[part], carry + part * kLanes);
  carry[kHeadSize] = fold.maximum;
  carry[kHeadSize + 1] = fold.weights;
}

// Of tile `i` of the lists, tokens that a row sees; 0 or less: none.
GOLDFINCH_INLINE std::int64_t SeenOf(const AttendArgs& args, std::int64_t row,
                                     std::int64_t i) {
  const std::int64_t seen = args.position[row] + 1 - args.tile_position[i];
  return seen < args.tiles.page_tokens ? seen : args.tiles.page_tokens;
}

template <int kRows, typename T>
void FoldRows(const AttendArgs& args, const std::int32_t* rows, std::int64_t head,
              const T* tile, std::int64_t count, const Ahead& ahead) {
  Fold fold[kRows];
  const float* q[kRows];
  for (int r = 0; r < kRows; ++r) {
    q[r] = args.q.f32(rows[r]) + head * kHeadSize;
    fold[r] = Resume(args.carry.f32(rows[r]) + head * kCarrySize, false);
  }
  FoldTile<kRows>(q, tile, args.tiles.padded_tokens(), count, ahead, fold);
  for (int r = 0; r < kRows; ++r)
    Save(fold[r], args.carry.f32(rows[r]) + head * kCarrySize);
}

template <typename T>
GOLDFINCH_INLINE void FoldRun(const AttendArgs& args, const AttendRun& run,
                              const AttendPart& part) {
  const KvTiles& kv = args.tiles;
  const std::int64_t head_size = 2 * kv.head_elements();
  const std::int32_t last = run.tile_end;
  const auto tile_head = [&](std::int32_t i, std::int64_t head) {
    return static_cast<const T*>(kv.data) + (args.tile[i] * kv.heads + head) * head_size;
  };
  const std::int64_t heads = part.head_end - part.head_begin;
  for (std::int32_t i = run.tile_begin; i < last; ++i) {
    for (std::int64_t head = part.head_begin; head < part.head_end; ++head) {
      const T* tile = tile_head(i, head);
      // Two heads on, in the order in which they are read.
      const std::int64_t on = head - part.head_begin + 2;
      const std::int64_t later = i + on / heads;
      const T* next = tile_head(later < last ? static_cast<std::int32_t>(later) : i,
                                part.head_begin + on % heads);
      // The first rows ask for what is next.
      Ahead ahead{reinterpret_cast<const char*>(next)};
      for (std::int64_t at = part.row_begin; at < part.row_end;) {
        const std::int64_t count = SeenOf(args, args.order[at], i);
        std::int64_t same = at + 1;
        while (same < part.row_end && same < at + kRowsAtOnce &&
               SeenOf(args, args.order[same], i) == count)
          ++same;
        if (same < at + kRowsAtOnce) same = at + 1;
        if (count > 0) {
          if (same == at + kRowsAtOnce)
            FoldRows<kRowsAtOnce>(args, args.order + at, head, tile, count, ahead);
          else
            FoldRows<1>(args, args.order + at, head, tile, count, ahead);
          ahead.next = nullptr;
        }
        at = same;
      }
    }
  }
}

template <typename T>
void AttendTiles(const AttendArgs& args, const AttendPart& part) {
  if (args.first) {
    const Fold none = Resume(nullptr, true);
    for (std::int64_t i = part.row_begin; i < part.row_end; ++i)
      for (std::int64_t head = part.head_begin; head < part.head_end; ++head)
        Save(none, args.carry.f32(args.order[i]) + head * kCarrySize);
  }
  for (std::int64_t i = part.run_begin; i < part.run_end; ++i) {
    const AttendRun& run = args.runs[i];
    AttendPart own = part;
    own.row_begin = run.row_begin > part.row_begin ? run.row_begin : part.row_begin;
    own.row_end = run.row_end < part.row_end ? run.row_end : part.row_end;
    if (own.row_begin < own.row_end) FoldRun<T>(args, run, own);
  }
}

// Element (row, head, d) of keys or values, rounded to the tiles' type, to its place:
// `first` elements into the head's run, then token * token_stride + d * stride.
template <typename T>
GOLDFINCH_INLINE void ScatterHeads(const Matrix& in, const std::int64_t* row,
                                   const KvTiles& kv, std::int64_t first,
                                   std::int64_t token_stride, std::int64_t stride,
                                   std::int64_t begin, std::int64_t end) {
  for (std::int64_t head = begin; head < end; ++head) {
    for (std::int64_t i = 0; i < in.rows; ++i) {
      const std::int64_t tile = row[i] / kv.page_tokens, token = row[i] % kv.page_tokens;
      T* to = static_cast<T*>(kv.data) +
              (tile * kv.heads + head) * 2 * kv.head_elements() + first +
              token * token_stride;
      T rounded[kHeadSize];
      for (int part = 0; part < kParts; ++part)
        Store(Load(in.f32(i) + head * kHeadSize + part * kLanes),
              rounded + part * kLanes);
      for (std::int64_t d = 0; d < kHeadSize; ++d) to[d * stride] = rounded[d];
    }
  }
}

}  // namespace

void Attend(const AttendArgs& args, const AttendPart& part) {
  if (args.tiles.type == DType::kF32)
    AttendTiles<float>(args, part);
  else
    AttendTiles<std::uint16_t>(args, part);
}

void ScatterKeys(const Matrix& k, const std::int64_t* row, const KvTiles& tiles,
                 std::int64_t begin, std::int64_t end) {
  const std::int64_t padded = tiles.padded_tokens();
  if (tiles.type == DType::kF32)
    ScatterHeads<float>(k, row, tiles, 0, 1, padded, begin, end);
  else
    ScatterHeads<std::uint16_t>(k, row, tiles, 0, 1, padded, begin, end);
}

void ScatterValues(const Matrix& v, const std::int64_t* row, const KvTiles& tiles,
                   std::int64_t begin, std::int64_t end) {
  const std::int64_t first = tiles.head_elements();
  if (tiles.type == DType::kF32)
    ScatterHeads<float>(v, row, tiles, first, kHeadSize, 1, begin, end);
  else
    ScatterHeads<std::uint16_t>(v, row, tiles, first, kHeadSize, 1, begin, end);
}

void Rope(const Matrix& x, const std::int64_t* position, const double* frequency,
          std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    float cosine[kRopePairs], sine[kRopePairs];
    for (std::int64_t i = 0; i < kRopePairs; ++i) {
      const double angle = static_cast<double>(position[row]) * frequency[i];
      cosine[i] = static_cast<float>(cos(angle));
      sine[i] = static_cast<float>(sin(angle));
    }
    for (float* h = x.f32(row); h < x.f32(row) + x.cols; h += kHeadSize) {
      for (std::int64_t i = 0; i < kRopePairs; ++i) {
        const float a = h[2 * i], b = h[2 * i + 1];
        h[2 * i] = MulAdd(a, cosine[i], -(b * sine[i]));
        h[2 * i + 1] = MulAdd(a, sine[i], b * cosine[i]);
      }
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
