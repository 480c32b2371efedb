// What becomes of the sums of a product (Finish in op_args.h), while they are at hand.
//
// Sums come as rows of 32 columns; at the right edge of y fewer are stored. Element by
// element, so nothing depends on how the product was cut.
#pragma once

#include "engine/backend/op_args.h"
#include "engine/kernels/cpu/kernels.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

// Access to the columns of one block: all 32 of them, or as many as y has.
template <bool kWhole>
struct Columns {
  std::int64_t first;  // column of y
  std::int64_t count;

  template <typename T>
  GOLDFINCH_INLINE F32x16 Get(const T* row, std::int64_t half) const {
    const T* p = row + first + half * kLanes;
    return kWhole ? Load(p) : LoadPart(p, count - half * kLanes);
  }
  template <typename T>
  GOLDFINCH_INLINE void Put(F32x16 v, T* row, std::int64_t half) const {
    T* p = row + first + half * kLanes;
    kWhole ? Store(v, p) : StorePart(v, p, count - half * kLanes);
  }
};

template <bool kWhole, typename T, typename F>
GOLDFINCH_INLINE void ForSums(const F32x16* sums, std::int64_t rows, const Matrix& y,
                              std::int64_t row, const Columns<kWhole>& columns,
                              const F& f) {
  for (std::int64_t m = 0; m < rows; ++m) {
    T* out = static_cast<T*>(y.data) + (row + m) * y.stride;
    for (std::int64_t half = 0; half < 2; ++half)
      if (kWhole || half * kLanes < columns.count)
        columns.Put(f(sums[2 * m + half], row + m, half), out, half);
  }
}

// y of type T.
template <bool kWhole, typename T>
void FinishAs(const Epilogue& e, const F32x16* sums, std::int64_t rows, const Matrix& y,
              std::int64_t row, std::int64_t column) {
  const Columns<kWhole> at = {column, y.cols - column};
  const auto each = [&](const auto& f) { ForSums<kWhole, T>(sums, rows, y, row, at, f); };
  switch (e.finish) {
    case Finish::kStore:
      return each([](F32x16 sum, auto, auto) { return sum; });
    case Finish::kTanh:
      return each([](F32x16 sum, auto, auto) { return Tanh(sum); });
    case Finish::kReluSquared:
      return each([](F32x16 sum, auto, auto) {
        const F32x16 positive = Relu(sum);
        return positive * positive;
      });
    case Finish::kLerp:
      return each([&](F32x16 sum, auto r, auto half) {
        const F32x16 v = MulAdd(at.Get(e.b.f32(r), half), at.Get(e.bias, half) + sum,
                                at.Get(e.a.f32(r), half));
        if (e.copy.data == nullptr) return v;
        if (e.copy.type == DType::kF32)
          at.Put(v, e.copy.f32(r), half);
        else
          at.Put(v, e.copy.bf16(r), half);
        return v;
      });
    case Finish::kDecay:
      return each([&](F32x16 sum, auto r, auto half) {
        const F32x16 decay = Exp(-Exp(at.Get(e.bias, half) + sum));
        if (e.a.data != nullptr)
          at.Put(at.Get(e.a.f32(r), half) * (1.0f - decay), e.a.f32(r), half);
        return decay;
      });
    case Finish::kAdd:
      return each(
          [&](F32x16 sum, auto r, auto half) { return at.Get(y.f32(r), half) + sum; });
    case Finish::kGatedAdd:
      return each([&](F32x16 sum, auto r, auto half) {
        const F32x16 gate = Sigmoid(at.Get(e.a.f32(r), half));
        return MulAdd(gate, sum, at.Get(y.f32(r), half));
      });
  }
}

GOLDFINCH_INLINE void FinishSums(const Epilogue& e, const F32x16* sums, std::int64_t rows,
                                 const Matrix& y, std::int64_t row, std::int64_t column) {
  const bool whole = column + kPanelColumns <= y.cols;
  const bool f32 = y.type == DType::kF32;
  const auto finish =
      whole ? (f32 ? FinishAs<true, float> : FinishAs<true, std::uint16_t>)
            : (f32 ? FinishAs<false, float> : FinishAs<false, std::uint16_t>);
  finish(e, sums, rows, y, row, column);
}

}  // namespace
}  // namespace goldfinch::GOLDFINCH_ISA
