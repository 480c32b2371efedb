// The ops that look at one element at a time: Lerp, Activate, Decay, Add, GatedAdd.
//
// Tolerances count roundings, u = 2^-24 each, of the magnitudes that are rounded; how
// exact tanh, exp and sigmoid themselves are is the subject of functions_test.cc.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr Matrix kNone = {};
constexpr DType kTypes[] = {DType::kF32, DType::kBf16};

class ElementwiseTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(ElementwiseTest);

struct LerpCase {
  std::int64_t rows, cols;
  bool has_delta;
};

TEST_P(ElementwiseTest, LerpMixesARowWithItsPredecessor) {
  for (const LerpCase c : {LerpCase{1, 64, false}, LerpCase{3, 16, true},
                           LerpCase{40, 192, true}, LerpCase{97, 192, false}}) {
    const Grid cur = RandomGrid(c.rows, c.cols, 1), prev = RandomGrid(c.rows, c.cols, 2);
    const Grid mix = RandomGrid(1, c.cols, 3), delta = RandomGrid(c.rows, c.cols, 4);
    const Grid* deltas = c.has_delta ? &delta : nullptr;
    const Grid want = reference::Lerp(cur, prev, mix, deltas);
    // m = mix + delta, p - x, their product and the sum: a rounding each.
    Grid tolerance(c.rows, c.cols);
    for (std::int64_t i = 0; i < c.rows; ++i) {
      for (std::int64_t j = 0; j < c.cols; ++j) {
        const double m = std::abs(mix(0, j)) + std::abs(delta(i, j));
        const double x = std::abs(cur(i, j)), p = std::abs(prev(i, j));
        tolerance(i, j) = 4 * kF32Unit * (x + (x + p) * m);
      }
    }
    const Tensor x(backend(), cur), p(backend(), prev), d(backend(), delta);
    const DeviceArray<float> weights = FlatArray(backend(), mix);
    const Tensor f32(backend(), c.rows, c.cols, DType::kF32);
    const Tensor bf16(backend(), c.rows, c.cols, DType::kBf16);
    for (const Tensor* out : {&f32, &bf16}) {
      backend().Lerp(*x, *p, weights.data(), c.has_delta ? *d : kNone, **out);
      EXPECT_TRUE(out->SurroundingsAreIntact());
      ExpectClose(out->Read(), want, WithRounding(tolerance, want, (*out)->type));
    }
    ExpectIsRounded(bf16, f32);
  }
}

// Widths of low-rank products and of compressed keys: any number, from one.
constexpr std::int64_t kWidths[] = {1, 3, 15, 16, 17, 40, 64, 97, 160};

TEST_P(ElementwiseTest, ActivateComputesItsFunction) {
  for (const Activation f :
       {Activation::kNone, Activation::kTanh, Activation::kReluSquared}) {
    for (const DType from : kTypes) {
      for (const std::int64_t cols : kWidths) {
        const Grid x = RandomGrid(7, cols, 9, from);
        const Grid want = reference::Activate(f, x);
        const double roundings = f == Activation::kTanh ? 6 : 1;
        const Grid tolerance =
            Each([=](double v) { return roundings * kF32Unit * std::abs(v); }, want);
        const Tensor in(backend(), x, from), f32(backend(), 7, cols, DType::kF32);
        const Tensor bf16(backend(), 7, cols, DType::kBf16);
        for (const Tensor* out : {&f32, &bf16}) {
          backend().Activate(f, *in, **out);
          EXPECT_TRUE(out->SurroundingsAreIntact());
          ExpectClose(out->Read(), want, WithRounding(tolerance, want, (*out)->type));
        }
        ExpectIsRounded(bf16, f32);
      }
    }
  }
}

TEST_P(ElementwiseTest, ActivateWithNoFunctionCopiesBits) {
  for (const DType type : kTypes) {
    const Tensor in(backend(), RandomGrid(40, 41, 10, type), type);
    const Tensor out(backend(), 40, 41, type);
    backend().Activate(Activation::kNone, *in, *out);
    EXPECT_EQ(out.Bits(), in.Bits());
  }
}

// An element's bits do not depend on its column: a tail computes what a whole vector
// does.
TEST_P(ElementwiseTest, ActivateGivesAnElementTheSameBitsInEveryColumn) {
  const Grid x = RandomGrid(1, 97, 12, DType::kF32, 2.0);
  for (const DType type : kTypes) {
    const Tensor in(backend(), x), whole(backend(), 1, 97, type);
    backend().Activate(Activation::kTanh, *in, *whole);
    const RowBits all = whole.Bits()[0];
    for (std::int64_t begin = 0; begin < 97; ++begin) {
      const std::int64_t count = std::min<std::int64_t>(97 - begin, 1 + begin % 20);
      const Tensor part(backend(), 1, count, type);
      backend().Activate(Activation::kTanh, in->Cols(begin, count), *part);
      const auto size = static_cast<std::size_t>(SizeOf(type));
      EXPECT_EQ(part.Bits()[0], all.substr(static_cast<std::size_t>(begin) * size,
                                           static_cast<std::size_t>(count) * size));
    }
  }
}

// w is in [0, 1] and off by at most 3 u (see functions_test.cc), so 1 - w by 4 u, and
// k (1 - w) by 5 u |k|.
TEST_P(ElementwiseTest, DecayComputesWAndScalesTheKey) {
  for (const std::int64_t rows : {1, 2, 40, 97}) {
    const Grid d = RandomGrid(rows, 192, 13), key = RandomGrid(rows, 192, 14);
    const Grid bias = RandomGrid(1, 192, 15, DType::kF32, 3.0);
    const Grid want = reference::Decay(d, bias);
    const DeviceArray<float> biases = FlatArray(backend(), bias);
    // The sum d + bias is rounded first; |dw/dx| = w e^x is at most 1/e.
    Grid tolerance(rows, 192);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < 192; ++j)
        tolerance(i, j) = kF32Unit * (3 + 0.37 * std::abs(d(i, j) + bias(0, j)));
    const Tensor w(backend(), d), k(backend(), key);
    backend().Decay(*w, biases.data(), *k);
    ExpectClose(w.Read(), want, tolerance);
    ExpectClose(k.Read(), Each([](double a, double b) { return a * (1 - b); }, key, want),
                Each([](double a, double t) { return (t + 2 * kF32Unit) * std::abs(a); },
                     key, tolerance));
    EXPECT_TRUE(w.SurroundingsAreIntact() && k.SurroundingsAreIntact());
    const Tensor without_key(backend(), d);
    backend().Decay(*without_key, biases.data(), kNone);
    EXPECT_EQ(without_key.Bits(), w.Bits());
  }
}

TEST_P(ElementwiseTest, AddIsTheExactSumRounded) {
  for (const std::int64_t rows : {1, 3, 40, 97}) {
    const Grid x = RandomGrid(rows, 192, 16), y = RandomGrid(rows, 192, 17);
    const Grid sum = Each([](double a, double b) { return a + b; }, x, y);
    const Tensor to(backend(), x), from(backend(), y);
    backend().Add(*to, *from);
    ExpectClose(to.Read(), Rounded(sum, DType::kF32), Grid(rows, 192));
    EXPECT_TRUE(to.SurroundingsAreIntact());
  }
}

// sigmoid(r) is off by 4 u of itself and |r| u of it; product and sum round once each.
TEST_P(ElementwiseTest, GatedAddAddsThroughASigmoid) {
  for (const std::int64_t rows : {1, 3, 40, 97}) {
    const Grid x = RandomGrid(rows, 192, 18), y = RandomGrid(rows, 192, 19);
    const Grid r = RandomGrid(rows, 192, 20, DType::kF32, 3.0);
    const Grid want = reference::GatedAdd(x, r, y);
    const Grid tolerance = Each(
        [](double a, double g, double b) {
          return kF32Unit * (2 * std::abs(a) + (6 + std::abs(g)) * std::abs(b));
        },
        x, r, y);
    const Tensor to(backend(), x), gate(backend(), r), from(backend(), y);
    backend().GatedAdd(*to, *gate, *from);
    ExpectClose(to.Read(), want, tolerance);
    EXPECT_TRUE(to.SurroundingsAreIntact());
  }
}

// Enough rows that a pool of two threads cuts them.
TEST_P(ElementwiseTest, RowsStandAlone) {
  const Grid a = RandomGrid(200, 192, 21), b = RandomGrid(200, 192, 22);
  const Tensor x(backend(), a), y(backend(), b);
  const DeviceArray<float> vector = FlatArray(backend(), RandomGrid(1, 192, 23));
  using Op = std::function<void(const Matrix& in, const Matrix& more, const Matrix& out)>;
  const Op ops[] = {[&](const Matrix& in, const Matrix& more, const Matrix& out) {
                      backend().Lerp(in, more, vector.data(), in, out);
                    },
                    [&](const Matrix& in, const Matrix&, const Matrix& out) {
                      backend().Activate(Activation::kTanh, in, out);
                    },
                    [&](const Matrix& in, const Matrix& more, const Matrix& out) {
                      backend().Activate(Activation::kNone, more, out);
                      backend().Decay(out, vector.data(), kNone);
                      backend().Add(out, in);
                    },
                    [&](const Matrix& in, const Matrix& more, const Matrix& out) {
                      backend().Activate(Activation::kReluSquared, more, out);
                      backend().GatedAdd(out, in, more);
                    }};
  for (const Op& op : ops) {
    ExpectRowsStandAlone(200, [&](std::int64_t begin, std::int64_t count) {
      const Tensor out(backend(), count, 192, DType::kF32);
      op(x->RowsFrom(begin, count), y->RowsFrom(begin, count), *out);
      return out.Bits();
    });
  }
}

}  // namespace
}  // namespace goldfinch
