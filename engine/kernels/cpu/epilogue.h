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

// y = f(sum, row, column of y) for `rows` rows from `row` on.
template <typename F>
GOLDFINCH_INLINE void ForSums(const F32x16* sums, std::int64_t rows, const Matrix& y,
                              std::int64_t row, std::int64_t column, const F& f) {
  for (std::int64_t m = 0; m < rows; ++m)
    for (std::int64_t half = 0; half < 2; ++half)
      if (const std::int64_t at = column + half * kLanes; at < y.cols)
        Write(f(sums[2 * m + half], row + m, at), y, row + m, at);
}

// Inline only where it is called once: it is large.
void FinishSums(const Epilogue& e, const F32x16* sums, std::int64_t rows, const Matrix& y,
                std::int64_t row, std::int64_t column) {
  const auto bias = [&](std::int64_t at) { return LoadPart(e.bias + at, y.cols - at); };
  switch (e.finish) {
    case Finish::kStore:
      return ForSums(sums, rows, y, row, column,
                     [](F32x16 sum, auto, auto) { return sum; });
    case Finish::kTanh:
      return ForSums(sums, rows, y, row, column,
                     [](F32x16 sum, auto, auto) { return Tanh(sum); });
    case Finish::kReluSquared:
      return ForSums(sums, rows, y, row, column, [](F32x16 sum, auto, auto) {
        // Compared this way a NaN stays one.
        const F32x16 positive = sum < 0.0f ? F32x16{} : sum;
        return positive * positive;
      });
    case Finish::kLerp:
      return ForSums(sums, rows, y, row, column, [&](F32x16 sum, auto r, auto at) {
        const F32x16 v = Read(e.a, r, at) + Read(e.b, r, at) * (bias(at) + sum);
        if (e.copy.data != nullptr) Write(v, e.copy, r, at);
        return v;
      });
    case Finish::kDecay:
      return ForSums(sums, rows, y, row, column, [&](F32x16 sum, auto r, auto at) {
        const F32x16 decay = Exp(-Exp(bias(at) + sum));
        if (e.a.data != nullptr) Write(Read(e.a, r, at) * (1.0f - decay), e.a, r, at);
        return decay;
      });
    case Finish::kAdd:
      return ForSums(sums, rows, y, row, column,
                     [&](F32x16 sum, auto r, auto at) { return Read(y, r, at) + sum; });
    case Finish::kGatedAdd:
      return ForSums(sums, rows, y, row, column, [&](F32x16 sum, auto r, auto at) {
        return Read(y, r, at) + Sigmoid(Read(e.a, r, at)) * sum;
      });
  }
}

}  // namespace
}  // namespace goldfinch::GOLDFINCH_ISA
