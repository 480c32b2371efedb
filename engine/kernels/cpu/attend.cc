// Causal softmax attention, per query row and head of 64, over tiles of keys and values:
//   out = sum over t <= position of softmax(q . k[t] / 8) v[t]
//   q      : [rows, heads, 64]  float32
//   keys   : [tiles * page_tokens, heads, 64], values the same: f32 or bf16
//   carry  : [rows, heads, 64 + 2] float32: sums of weighted values, maximum, sum
// A tile is folded in whole: its maximum first, then its weights in ascending tokens.
// Tiles start at fixed positions of the sequence and come in order, so a query's bits
// depend on the tokens before it alone. Task = row * heads + head.
//
// Rope: pairs (2i, 2i+1) of each head are rotated by position * frequency[i], the angle
// in float64 so that the error does not grow with the position.
#include <math.h>

#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

inline constexpr std::int64_t kHead = 64;
inline constexpr std::int64_t kCarry = kHead + 2;
inline constexpr int kParts = kHead / kLanes;

struct Fold {
  F32x16 sum[kParts];
  float maximum;
  float weights;
};

// Scores of the tile's first `count` tokens, padded with -infinity to a whole vector;
// returns their maximum.
template <typename T>
GOLDFINCH_INLINE float Scores(const float* q, const T* keys, std::int64_t stride,
                              std::int64_t count, float* score) {
  F32x16 query[kParts];
  for (int part = 0; part < kParts; ++part)
    query[part] = Load(q + part * kLanes) * 0.125f;
  float maximum = -__builtin_inff();
  for (std::int64_t t = 0; t < count; ++t) {
    const T* key = keys + t * stride;
    F32x16 dot = query[0] * Load(key);
    for (int part = 1; part < kParts; ++part)
      dot += query[part] * Load(key + part * kLanes);
    score[t] = SumLanes(dot);
    // A NaN score must reach the output: comparing this way lets it through.
    maximum = score[t] <= maximum ? maximum : score[t];
  }
  for (std::int64_t t = count; t % kLanes != 0; ++t) score[t] = -__builtin_inff();
  return maximum;
}

template <typename T>
GOLDFINCH_INLINE void FoldTile(const float* q, const T* keys, const T* values,
                               std::int64_t stride, std::int64_t count, Fold& fold) {
  alignas(64) float weight[kMaxPageTokens];
  const float tile_maximum = Scores(q, keys, stride, count, weight);
  const float maximum = tile_maximum <= fold.maximum ? fold.maximum : tile_maximum;
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
  for (std::int64_t t = 0; t < count; ++t) {
    const F32x16 w = Splat(weight[t]);
    const T* value = values + t * stride;
    for (int part = 0; part < kParts; ++part)
      fold.sum[part] += w * Load(value + part * kLanes);
  }
}

GOLDFINCH_INLINE Fold Resume(const float* carry, bool first) {
  Fold fold;
  for (int part = 0; part < kParts; ++part)
    fold.sum[part] = first ? F32x16{} : Load(carry + part * kLanes);
  fold.maximum = first ? -__builtin_inff() : carry[kHead];
  fold.weights = first ? 0.0f : carry[kHead + 1];
  return fold;
}

}  // namespace

void Attend(const AttendArgs& args, std::int64_t begin, std::int64_t end) {
  const KvTiles& kv = args.tiles;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t row = task / args.heads, head = task % args.heads;
    const std::int64_t at = head * kHead;
    float* carry = args.carry.f32(row) + head * kCarry;
    Fold fold = Resume(carry, args.first);
    const std::int32_t list = args.span[row];
    for (std::int32_t i = args.tile_begin[list]; i < args.tile_begin[list + 1]; ++i) {
      const std::int64_t seen = args.position[row] + 1 - args.tile_position[i];
      const std::int64_t count = seen < kv.page_tokens ? seen : kv.page_tokens;
      if (count <= 0) continue;
      const std::int64_t token = args.tile[i] * kv.page_tokens;
      const float* q = args.q.f32(row) + at;
      if (kv.keys.type == DType::kF32)
        FoldTile(q, kv.keys.f32(token) + at, kv.values.f32(token) + at, kv.keys.stride,
                 count, fold);
      else
        FoldTile(q, kv.keys.bf16(token) + at, kv.values.bf16(token) + at, kv.keys.stride,
                 count, fold);
    }
    for (int part = 0; part < kParts; ++part)
      Store(fold.sum[part], carry + part * kLanes);
    carry[kHead] = fold.maximum;
    carry[kHead + 1] = fold.weights;
  }
}

void AttendFinish(const Matrix& carry, std::int64_t heads, const Matrix& out,
                  std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const float* c = carry.f32(row) + head * kCarry;
      const float weights = c[kHead + 1];
      for (int part = 0; part < kParts; ++part)
        Store(Load(c + part * kLanes) / weights,
              out.f32(row) + head * kHead + part * kLanes);
    }
  }
}

void Rope(const Matrix& x, const std::int64_t* position, const double* frequency,
          std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    float cosine[kHead / 2], sine[kHead / 2];
    for (std::int64_t i = 0; i < kHead / 2; ++i) {
      const double angle = static_cast<double>(position[row]) * frequency[i];
      cosine[i] = static_cast<float>(cos(angle));
      sine[i] = static_cast<float>(sin(angle));
    }
    for (float* h = x.f32(row); h < x.f32(row) + x.cols; h += kHead) {
      for (std::int64_t i = 0; i < kHead / 2; ++i) {
        const float a = h[2 * i], b = h[2 * i + 1];
        h[2 * i] = a * cosine[i] - b * sine[i];
        h[2 * i + 1] = a * sine[i] + b * cosine[i];
      }
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
