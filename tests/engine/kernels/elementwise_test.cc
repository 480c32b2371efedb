// The ops that look at one element at a time: Lerp, Convert.
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
      backend().Lerp(
          {.cur = *x, .diff = *d, .num_mixes = 1, .mix = {weights.data()}, .out = **out});
      EXPECT_TRUE(out->SurroundingsAreIntact());
      ExpectClose(out->Read(), want, WithRounding(tolerance, want, (*out)->type));
    }
    ExpectIsRounded(bf16, f32);
  }
}

TEST_P(ElementwiseTest, MixesTogetherAreMixesOneByOne) {
  const Tensor cur(backend(), RandomGrid(37, 192, 4));
  const Tensor diff(backend(), RandomGrid(37, 192, 5));
  const DeviceArray<float> mixes = FlatArray(backend(), RandomGrid(3, 192, 6));
  for (const DType type : kTypes) {
    const Tensor together(backend(), 3 * 37, 192, type);
    const Tensor apart(backend(), 3 * 37, 192, type);
    LerpArgs args = {.cur = *cur, .diff = *diff, .num_mixes = 3, .out = *together};
    for (std::int64_t i = 0; i < 3; ++i) {
      args.mix[i] = mixes.data() + i * 192;
      backend().Lerp({.cur = *cur,
                      .diff = *diff,
                      .num_mixes = 1,
                      .mix = {args.mix[i]},
                      .out = apart->RowsFrom(i * 37, 37)});
    }
    backend().Lerp(args);
    EXPECT_EQ(together.Bits(), apart.Bits());
    EXPECT_TRUE(together.SurroundingsAreIntact());
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

// Enough rows that a pool of two threads cuts them.
TEST_P(ElementwiseTest, RowsStandAlone) {
  const Grid a = RandomGrid(200, 192, 21), b = RandomGrid(200, 192, 22);
  const Tensor x(backend(), a), y(backend(), b);
  const DeviceArray<float> vector = FlatArray(backend(), RandomGrid(1, 192, 23));
  using Op = std::function<void(const Matrix& in, const Matrix& more, const Matrix& out)>;
  const Op ops[] = {[&](const Matrix& in, const Matrix& more, const Matrix& out) {
                      backend().Lerp({.cur = in,
                                      .diff = more,
                                      .num_mixes = 1,
                                      .mix = {vector.data()},
                                      .out = out});
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
