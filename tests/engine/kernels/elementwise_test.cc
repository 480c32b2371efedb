// The ops that look at one element at a time: Lerp, Convert, GatherShift.
//
// Tolerances count roundings, u = 2^-24 each, of the magnitudes that are rounded.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBf16};

class ElementwiseTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(ElementwiseTest);

struct LerpCase {
  std::int64_t rows, cols;
};

TEST_P(ElementwiseTest, LerpMixesARowWithItsPredecessor) {
  for (const LerpCase c : {LerpCase{1, 64}, LerpCase{3, 16}, LerpCase{97, 192}}) {
    const Grid cur = RandomGrid(c.rows, c.cols, 1), diff = RandomGrid(c.rows, c.cols, 2);
    const Grid mix = RandomGrid(1, c.cols, 3);
    const Grid want = reference::Lerp(cur, diff, mix);
    // The product and the sum: a rounding each.
    Grid tolerance(c.rows, c.cols);
    for (std::int64_t i = 0; i < c.rows; ++i)
      for (std::int64_t j = 0; j < c.cols; ++j)
        tolerance(i, j) =
            2 * kF32Unit * (std::abs(cur(i, j)) + 2 * std::abs(diff(i, j) * mix(0, j)));
    const Tensor x(backend(), cur), d(backend(), diff);
    const DeviceArray<float> weights = FlatArray(backend(), mix);
    const Tensor f32(backend(), c.rows, c.cols, DType::kF32);
    const Tensor bf16(backend(), c.rows, c.cols, DType::kBf16);
    for (const Tensor* out : {&f32, &bf16}) {
      backend().Lerp(*x, *d, weights.data(), **out);
      EXPECT_TRUE(out->SurroundingsAreIntact());
      ExpectClose(out->Read(), want, WithRounding(tolerance, want, (*out)->type));
    }
    ExpectIsRounded(bf16, f32);
  }
}

// Widths of compressed keys: any number, from one.
constexpr std::int64_t kWidths[] = {1, 3, 15, 16, 17, 40, 64, 97, 160};

TEST_P(ElementwiseTest, ConvertRoundsOnceOrNotAtAll) {
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      for (const std::int64_t cols : kWidths) {
        const Grid x = RandomGrid(40, cols, 9, from);
        const Tensor in(backend(), x, from), out(backend(), 40, cols, to);
        backend().Convert(*in, *out);
        EXPECT_TRUE(out.SurroundingsAreIntact());
        ExpectClose(out.Read(), Rounded(x, to), Grid(40, cols));
        EXPECT_TRUE(from != to || out.Bits() == in.Bits());
      }
    }
  }
}

TEST_P(ElementwiseTest, GatherShiftIsARowAndTheWayToItsPredecessor) {
  const Grid x = RandomGrid(9, 192, 12);
  std::vector<std::int64_t> index, previous;
  for (std::int64_t i = 0; i < 97; ++i) {
    index.push_back((i * 5 + 3) % 9);
    previous.push_back(i % 4 == 0 ? -1 : (i * 7) % 9);
  }
  const Tensor in(backend(), x), cur(backend(), 97, 192, DType::kF32);
  const Tensor diff(backend(), 97, 192, DType::kF32);
  const DeviceArray<std::int64_t> rows(backend(), index), before(backend(), previous);
  backend().GatherShift(*in, rows.data(), before.data(), *cur, *diff);
  const Grid want = reference::GatherRows(x, index);
  ExpectClose(cur.Read(), want, Grid(97, 192));
  ExpectClose(diff.Read(),
              Rounded(Each([](double p, double c) { return p - c; },
                           reference::GatherRows(x, previous), want),
                      DType::kF32),
              Grid(97, 192));
  EXPECT_TRUE(cur.SurroundingsAreIntact() && diff.SurroundingsAreIntact());
}

// Enough rows that a pool of two threads cuts them.
TEST_P(ElementwiseTest, RowsStandAlone) {
  const Grid a = RandomGrid(200, 192, 21), b = RandomGrid(200, 192, 22);
  const Tensor x(backend(), a), y(backend(), b);
  const DeviceArray<float> vector = FlatArray(backend(), RandomGrid(1, 192, 23));
  using Op = std::function<void(const Matrix& in, const Matrix& more, const Matrix& out)>;
  const Op ops[] = {[&](const Matrix& in, const Matrix& more, const Matrix& out) {
                      backend().Lerp(in, more, vector.data(), out);
                    },
                    [&](const Matrix& in, const Matrix&, const Matrix& out) {
                      backend().Convert(in, out);
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
