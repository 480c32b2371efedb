// Ops between matrix products that look at one element at a time:
//   Lerp      out = cur + (prev - cur) * (mix [+ delta])
//   Activate  out = f(in): identity, tanh, relu^2
//   Decay     w = exp(-exp(bias + d)) over d;  k *= 1 - w
//   Add       x += y
//   GatedAdd  x += sigmoid(r) * y
// Inputs float32 (Activate's may be bf16); outputs float32, or rounded to bf16 where the
// matrix says so. A row's tail shorter than a vector is computed as a padded vector, so
// an element's bits never depend on where it stands.
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

template <typename T>
GOLDFINCH_INLINE F32x16 LoadPart(const T* p, std::int64_t count) {
  if (count >= kLanes) return Load(p);
  T lane[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) lane[i] = p[i];
  return Load(lane);
}

template <typename T>
GOLDFINCH_INLINE void StorePart(F32x16 v, T* p, std::int64_t count) {
  if (count >= kLanes) return Store(v, p);
  T lane[kLanes];
  Store(v, lane);
  for (std::int64_t i = 0; i < count; ++i) p[i] = lane[i];
}

GOLDFINCH_INLINE F32x16 Read(const Matrix& m, std::int64_t row, std::int64_t at) {
  return m.type == DType::kF32 ? LoadPart(m.f32(row) + at, m.cols - at)
                               : LoadPart(m.bf16(row) + at, m.cols - at);
}

GOLDFINCH_INLINE void Write(F32x16 v, const Matrix& m, std::int64_t row,
                            std::int64_t at) {
  if (m.type == DType::kF32)
    StorePart(v, m.f32(row) + at, m.cols - at);
  else
    StorePart(v, m.bf16(row) + at, m.cols - at);
}

template <typename F>
GOLDFINCH_INLINE void Map(const F& f, const Matrix& in, const Matrix& out,
                          std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t at = 0; at < out.cols; at += kLanes)
      Write(f(Read(in, row, at)), out, row, at);
}

GOLDFINCH_INLINE void CopyRow(const Matrix& in, std::int64_t from, const Matrix& out,
                              std::int64_t to) {
  for (std::int64_t at = 0; at < out.cols; at += kLanes)
    Write(Read(in, from, at), out, to, at);
}

}  // namespace

void Lerp(const Matrix& cur, const Matrix& prev, const float* mix, const Matrix& delta,
          const Matrix& out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t at = 0; at < out.cols; at += kLanes) {
      const F32x16 x = Load(cur.f32(row) + at), p = Load(prev.f32(row) + at);
      F32x16 m = Load(mix + at);
      if (delta.data != nullptr) m += Load(delta.f32(row) + at);
      Write(x + (p - x) * m, out, row, at);
    }
  }
}

void Activate(Activation f, const Matrix& in, const Matrix& out, std::int64_t begin,
              std::int64_t end) {
  switch (f) {
    case Activation::kNone:
      return Map([](F32x16 v) { return v; }, in, out, begin, end);
    case Activation::kTanh:
      return Map([](F32x16 v) { return Tanh(v); }, in, out, begin, end);
    case Activation::kReluSquared:
      return Map(
          [](F32x16 v) {
            // Compared this way a NaN stays one.
            const F32x16 positive = v < 0.0f ? F32x16{} : v;
            return positive * positive;
          },
          in, out, begin, end);
  }
}

void Decay(const Matrix& d, const float* bias, const Matrix& k, std::int64_t begin,
           std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    float* w = d.f32(row);
    for (std::int64_t at = 0; at < d.cols; at += kLanes) {
      const F32x16 decay = Exp(-Exp(Load(w + at) + Load(bias + at)));
      Store(decay, w + at);
      if (k.data == nullptr) continue;
      float* key = k.f32(row) + at;
      Store(Load(key) * (1.0f - decay), key);
    }
  }
}

void Add(const Matrix& x, const Matrix& y, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t at = 0; at < x.cols; at += kLanes)
      Store(Load(x.f32(row) + at) + Load(y.f32(row) + at), x.f32(row) + at);
}

void GatedAdd(const Matrix& x, const Matrix& r, const Matrix& y, std::int64_t begin,
              std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t at = 0; at < x.cols; at += kLanes) {
      const F32x16 gate = Sigmoid(Load(r.f32(row) + at));
      Store(Load(x.f32(row) + at) + gate * Load(y.f32(row) + at), x.f32(row) + at);
    }
  }
}

// out[i] = in[index[i]], or zero where the index is -1.
void GatherRows(const Matrix& in, const std::int64_t* index, const Matrix& out,
                std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    if (index[row] >= 0) {
      CopyRow(in, index[row], out, row);
      continue;
    }
    for (std::int64_t at = 0; at < out.cols; at += kLanes) Write(F32x16{}, out, row, at);
  }
}

// out[index[i]] = in[i]; indices are distinct.
void ScatterRows(const Matrix& in, const std::int64_t* index, const Matrix& out,
                 std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) CopyRow(in, row, out, index[row]);
}

}  // namespace goldfinch::GOLDFINCH_ISA
