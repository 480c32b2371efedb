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
// A call takes rows that see the same tiles and some of the heads: a tile's head is read
// once for all the rows, and a later one is asked for meanwhile.
//
// Rope: pairs (2i, 2i+1) of each head are rotated by position * frequency[i], the angle
// in float64 so that the error does not grow with the position.
#include <math.h>

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
  const char* next;
  template <typename T>
  GOLDFINCH_INLINE void Ask(std::int64_t element, std::int64_t count) const {
    const char* p = next + element * static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t i = 0; i < count * static_cast<std::int64_t>(sizeof(T)); i += 64)
      __builtin_prefetch(p + i, 0, 2);
  }
};

// sum += w * x over 16 kVectors neighbouring elements, each on its own.
template <int kVectors, typename T>
struct Sums {
  F32x16 sum[kVectors];

  GOLDFINCH_INLINE explicit Sums(const F32x16* from) {
    for (int i = 0; i < kVectors; ++i) sum[i] = from[i];
  }
  GOLDFINCH_INLINE void Add(F32x16 w, const T* x) {
    for (int i = 0; i < kVectors; ++i) sum[i] = MulAdd(w, Load(x + i * kLanes), sum[i]);
  }
  GOLDFINCH_INLINE void Give(F32x16* to) const {
    for (int i = 0; i < kVectors; ++i) to[i] = sum[i];
  }
};

#if defined(__AVX512F__)
// The same for bf16: 32 elements are one load, and their even and odd ones one more
// instruction each, so sums are kept apart and put back in order at the end.
template <>
struct Sums<4, std::uint16_t> {
  F32x16 even[2], odd[2];

  GOLDFINCH_INLINE static F32x16 Pick(F32x16 a, F32x16 b, int first, int step) {
    // Lanes first, first + step, ... of a and b behind one another; or, with a step of
    // 0, lanes of a and b in turn from `first` on.
    std::int32_t lane[kLanes];
    for (int i = 0; i < kLanes; ++i)
      lane[i] = step > 0 ? first + i * step : first + i / 2 + (i % 2) * 16;
    return reinterpret_cast<F32x16>(_mm512_permutex2var_ps(reinterpret_cast<__m512>(a),
                                                           _mm512_loadu_si512(lane),
                                                           reinterpret_cast<__m512>(b)));
  }

  GOLDFINCH_INLINE explicit Sums(const F32x16* from) {
    for (int i = 0; i < 2; ++i) {
      even[i] = Pick(from[2 * i], from[2 * i + 1], 0, 2);
      odd[i] = Pick(from[2 * i], from[2 * i + 1], 1, 2);
    }
  }
  GOLDFINCH_INLINE void Add(F32x16 w, const std::uint16_t* x) {
    for (int i = 0; i < 2; ++i) {
      const __m512i both = _mm512_loadu_si512(x + 2 * i * kLanes);
      const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
      even[i] = MulAdd(w, reinterpret_cast<F32x16>(_mm512_slli_epi32(both, 16)), even[i]);
      odd[i] = MulAdd(w, reinterpret_cast<F32x16>(_mm512_and_si512(both, high)), odd[i]);
    }
  }
  GOLDFINCH_INLINE void Give(F32x16* to) const {
    for (int i = 0; i < 2; ++i) {
      to[2 * i] = Pick(even[i], odd[i], 0, 0);
      to[2 * i + 1] = Pick(even[i], odd[i], 8, 0);
    }
  }
};
#endif

// Scores of kCount vectors of tokens.
template <int kCount, typename T>
GOLDFINCH_INLINE void ScoreVectors(const float* q, const T* keys, std::int64_t padded,
                                   float* score, const Ahead& ahead, std::int64_t at) {
  F32x16 sum[kCount] = {};
  Sums<kCount, T> sums(sum);
  for (std::int64_t d = 0; d < kHeadSize; ++d) {
    ahead.Ask<T>(at + d * padded, kCount * kLanes);
    sums.Add(Splat(q[d]), keys + d * padded);
  }
  sums.Give(sum);
  for (int i = 0; i < kCount; ++i) Store(sum[i], score + i * kLanes);
}

// Scores of the first `count` tokens of a head, then -infinity up to a whole vector;
// returns their maximum.
template <typename T>
GOLDFINCH_INLINE float Scores(const float* q, const T* keys, std::int64_t padded,
                              std::int64_t count, float* score, const Ahead& ahead) {
  alignas(64) float query[kHeadSize];
  for (int part = 0; part < kParts; ++part)
    Store(Load(q + part * kLanes) * kScoreScale, query + part * kLanes);
  std::int64_t t = 0;
  for (; t + 4 * kLanes <= padded && t < count; t += 4 * kLanes)
    ScoreVectors<4>(query, keys + t, padded, score + t, ahead, t);
  for (; t < count; t += kLanes)
    ScoreVectors<1>(query, keys + t, padded, score + t, ahead, t);
  for (t = count; t % kLanes != 0; ++t) score[t] = -__builtin_inff();
  F32x16 maximum = Splat(-__builtin_inff());
  for (t = 0; t < count; t += kLanes) {
    const F32x16 s = Load(score + t);
    maximum = Larger(s, maximum);
  }
  float largest = -__builtin_inff();
  for (int i = 0; i < kLanes; ++i) largest = maximum[i] > largest ? maximum[i] : largest;
  return largest;
}

// A NaN among the scores does not become the maximum, but its weight is NaN, and so are
// the sums.
template <typename T>
GOLDFINCH_INLINE void FoldTile(const float* q, const T* tile, std::int64_t padded,
                               std::int64_t count, const Ahead& ahead, Fold& fold) {
  alignas(64) float weight[kMaxPageTokens];
  const float tile_maximum = Scores(q, tile, padded, count, weight, ahead);
  const float maximum = tile_maximum > fold.maximum ? tile_maximum : fold.maximum;
  const F32x16 correction = Exp(Splat(fold.maximum - maximum));
  fold.maximum = maximum;
  F32x16 total = {};
  for (std::int64_t t = 0; t < count; t += kLanes) {
    const F32x16 w = Exp(Load(weight + t) - maximum);
    Store(w, weight + t);
    total += w;
  }
  fold.weights = fold.weights * correction[0] + SumLanes(total);
  for (int part = 0; part < kParts; ++part) fold.sum[part] *= correction;
  const T* values = tile + kHeadSize * padded;
  Sums<kParts, T> sums(fold.sum);
  for (std::int64_t t = 0; t < count; ++t) {
    ahead.Ask<T>(kHeadSize * padded + t * kHeadSize, kHeadSize);
    sums.Add(Splat(weight[t]), values + t * kHeadSize);
  }
  sums.Give(fold.sum);
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

template <typename T>
void AttendTiles(const AttendArgs& args, const AttendPart& part) {
  const KvTiles& kv = args.tiles;
  const std::int64_t padded = kv.padded_tokens(), head_size = 2 * kv.head_elements();
  const std::int32_t list = args.span[part.row_begin];
  const std::int32_t first = args.tile_begin[list], last = args.tile_begin[list + 1];
  const auto tile_head = [&](std::int32_t i, std::int64_t head) {
    return static_cast<const T*>(kv.data) + (args.tile[i] * kv.heads + head) * head_size;
  };
  if (args.first) {
    const Fold none = Resume(nullptr, true);
    for (std::int64_t row = part.row_begin; row < part.row_end; ++row)
      for (std::int64_t head = part.head_begin; head < part.head_end; ++head)
        Save(none, args.carry.f32(row) + head * kCarrySize);
  }
  const std::int64_t heads = part.head_end - part.head_begin;
  for (std::int32_t i = first; i < last; ++i) {
    for (std::int64_t head = part.head_begin; head < part.head_end; ++head) {
      const T* tile = tile_head(i, head);
      // Two heads on, in the order in which they are read.
      const std::int64_t on = head - part.head_begin + 2;
      const std::int64_t later = i + on / heads;
      const T* next = tile_head(later < last ? static_cast<std::int32_t>(later) : i,
                                part.head_begin + on % heads);
      for (std::int64_t row = part.row_begin; row < part.row_end; ++row) {
        const std::int64_t seen = args.position[row] + 1 - args.tile_position[i];
        const std::int64_t count = seen < kv.page_tokens ? seen : kv.page_tokens;
        if (count <= 0) continue;
        float* carry = args.carry.f32(row) + head * kCarrySize;
        Fold fold = Resume(carry, false);
        FoldTile(args.q.f32(row) + head * kHeadSize, tile, padded, count,
                 Ahead{reinterpret_cast<const char*>(next)}, fold);
        Save(fold, carry);
      }
    }
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
        h[2 * i] = a * cosine[i] - b * sine[i];
        h[2 * i + 1] = a * sine[i] + b * cosine[i];
      }
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
