// How exact tanh, sigmoid and exp are, as the ops compute them, and what they do with
// extremes. Errors are counted in u = 2^-24, half an ulp at one.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kSubnormal = 0x1p-140;
constexpr std::int64_t kCols = 1024;

// Values from -limit to limit in even steps, then of both signs by factors down to
// where a float is subnormal.
Grid Sweep(double limit) {
  const std::int64_t rows = 100, dense = 80;
  Grid x(rows, kCols);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < kCols; ++j) {
      const auto at = static_cast<double>(i * kCols + j);
      const auto count = static_cast<double>(dense * kCols - 1);
      const auto further = static_cast<double>((i - dense) * kCols + j);
      x(i, j) = i < dense ? limit * (2.0 * at / count - 1.0)
                          : (j % 2 == 0 ? limit : -limit) * std::exp2(-further / 150.0);
    }
  }
  return Rounded(x, DType::kF32);
}

Grid RowOf(const std::vector<double>& values) {
  Grid x(1, 64);
  for (std::size_t i = 0; i < 64; ++i)
    x(0, static_cast<std::int64_t>(i)) = values[i % values.size()];
  return x;
}

double WorstRelative(const Grid& got, const Grid& want) {
  double worst = 0.0;
  for (std::int64_t i = 0; i < want.rows(); ++i)
    for (std::int64_t j = 0; j < want.cols(); ++j)
      if (std::abs(want(i, j)) >= 0x1p-126)
        worst = std::max(worst, std::abs(got(i, j) - want(i, j)) / std::abs(want(i, j)));
  return worst;
}

double WorstAbsolute(const Grid& got, const Grid& want) {
  double worst = 0.0;
  for (std::int64_t i = 0; i < want.rows(); ++i)
    for (std::int64_t j = 0; j < want.cols(); ++j)
      worst = std::max(worst, std::abs(got(i, j) - want(i, j)));
  return worst;
}

class FunctionsTest : public OpTest {
 protected:
  // The finish of sums that are `sums` to the bit: products of one input that is one.
  Grid Finished(Finish finish, const Grid& sums, const Grid& a = {}, const Grid& y = {}) {
    const std::int64_t count = sums.rows() * sums.cols();
    const auto weights = PackWeights(backend(), Flat(sums, count, 1), DType::kF32);
    const Tensor one(backend(), Grid(1, 1, 1.0));
    const Tensor out(backend(), y.rows() > 0 ? Flat(y, 1, count) : Grid(1, count));
    const Tensor operand(backend(), a.rows() > 0 ? Flat(a, 1, count) : Grid(1, count));
    const DeviceArray<float> bias = FlatArray(backend(), Grid(1, count));
    backend().Gemm({*one,
                    weights.get(),
                    *out,
                    {.finish = finish,
                     .bias = bias.data(),
                     .a = a.rows() > 0 ? *operand : Matrix{}}});
    operand_after_ = Flat(operand.Read(), sums.rows(), sums.cols());
    return Flat(out.Read(), sums.rows(), sums.cols());
  }
  // 0 + sigmoid(r) * 1 is the sigmoid to the bit.
  Grid SigmoidOf(const Grid& r) {
    return Finished(Finish::kGatedAdd, Grid(r.rows(), r.cols(), 1.0), r);
  }
  Grid DecayOf(const Grid& d) { return Finished(Finish::kDecay, d); }

  static Grid Flat(const Grid& values, std::int64_t rows, std::int64_t cols) {
    Grid out(rows, cols);
    for (std::int64_t i = 0; i < rows * cols; ++i)
      out(i / cols, i % cols) = values(i / values.cols(), i % values.cols());
    return out;
  }

  Grid operand_after_;
};

GOLDFINCH_ON_ALL_BACKENDS(FunctionsTest);

TEST_P(FunctionsTest, TanhIsWithinFourUnits) {
  const Grid x = Sweep(12.0);
  const Grid got = Finished(Finish::kTanh, x);
  const Grid want = reference::Apply(Finish::kTanh, x, {});
  const double worst = WorstRelative(got, want) / kF32Unit;
  RecordProperty("worst", std::to_string(worst));
  EXPECT_LE(worst, 4.0);
  EXPECT_LE(WorstAbsolute(got, want), 3 * kF32Unit);
}

TEST_P(FunctionsTest, TanhOfExtremesIsItsLimit) {
  const Grid got =
      Finished(Finish::kTanh, RowOf({1e4, -1e4, kInf, -kInf, kNaN, 0.0, 3e38, -3e38}));
  ExpectClose(got, RowOf({1.0, -1.0, 1.0, -1.0, kNaN, 0.0, 1.0, -1.0}), Grid(1, 64));
  const Grid tiny = RowOf({kSubnormal, -kSubnormal, 0x1p-126, -0x1p-149});
  ExpectClose(Finished(Finish::kTanh, tiny), tiny, Grid(1, 64));
}

// exp(-r) is off by so much of itself, as r large and negative makes the gate; the sum
// and the quotient round once each.
TEST_P(FunctionsTest, SigmoidIsWithinThreeRoundings) {
  const Grid x = Sweep(80.0);
  const Grid got = SigmoidOf(x), want = reference::Sigmoid(x);
  const double worst = WorstRelative(got, want) / kF32Unit;
  RecordProperty("worst", std::to_string(worst));
  EXPECT_LE(worst, ExpUnits() + 2);
  EXPECT_LE(WorstAbsolute(got, want), 2 * kF32Unit);
}

TEST_P(FunctionsTest, SigmoidOfExtremesIsItsLimit) {
  const Grid got =
      SigmoidOf(RowOf({1e4, -1e4, kInf, -kInf, kNaN, kSubnormal, -kSubnormal, -200.0}));
  ExpectClose(got, RowOf({1.0, 0.0, 1.0, 0.0, kNaN, 0.5, 0.5, 0.0}), Grid(1, 64));
}

// What the inner exp is off by w = exp(-e) turns into e times as much of w; the outer
// adds its own, and is zero below 2^-126.
TEST_P(FunctionsTest, DecayIsWithinWhatEachExpIsOffBy) {
  const Grid x = Sweep(90.0);
  const Grid got = DecayOf(x);
  const Grid want = reference::Apply(Finish::kDecay, x, {.bias = Grid(1, kCols)});
  const double units = ExpUnits() * kF32Unit;
  const Grid tolerance = Each(
      [units](double d, double w) {
        const double e = std::exp(d);
        return w == 0.0 ? 0x1p-126 : units * (1 + e) * w + 0x1p-126;
      },
      x, want);
  ExpectClose(got, want, tolerance);
  EXPECT_LE(WorstAbsolute(got, want), units);
}

TEST_P(FunctionsTest, DecayOfExtremesIsZeroOrOne) {
  const Grid got =
      DecayOf(RowOf({1e4, -1e4, kInf, -kInf, kNaN, 88.8, -87.4, 4.5, 3e38, -3e38}));
  ExpectClose(got, RowOf({0.0, 1.0, 0.0, 1.0, kNaN, 0.0, 1.0, 0.0, 0.0, 1.0}),
              Grid(1, 64));
}

TEST_P(FunctionsTest, DecayNeverLeavesZeroToOne) {
  const Grid got = DecayOf(Sweep(90.0));
  for (std::int64_t i = 0; i < got.rows(); ++i)
    for (std::int64_t j = 0; j < got.cols(); ++j)
      ASSERT_TRUE(got(i, j) >= 0.0 && got(i, j) <= 1.0) << got(i, j);
}

TEST_P(FunctionsTest, DecayOfAKeyIsZeroWhereNothingDecays) {
  Finished(Finish::kDecay, RowOf({-1e4, 1e4, kNaN}), Grid(1, 64, 2.0));
  ExpectClose(operand_after_, RowOf({0.0, 2.0, kNaN}), Grid(1, 64));
}

TEST_P(FunctionsTest, ReluSquaredOfExtremesIsWellDefined) {
  const Grid got = Finished(Finish::kReluSquared,
                            RowOf({1e4, -1e4, kInf, -kInf, kNaN, 1e30, -1e30, -0.0}));
  ExpectClose(got, RowOf({1e8, 0.0, kInf, 0.0, kNaN, kInf, 0.0, 0.0}), Grid(1, 64));
}

// Ties to even, carries into the exponent, infinity, subnormals, NaN.
TEST_P(FunctionsTest, Bf16IsRoundedToNearestEven) {
  const std::vector<double> from = {1.0 + 0x1p-8, 1.0 + 0x1.8p-7, 1.0 + 0x1.001p-8,
                                    2.0 - 0x1p-9, 0x1.ffp127,     -0x1.ffp127,
                                    0x1p-133,     0x1.8p-133,     0x1p-134,
                                    kNaN,         kInf,           -kInf};
  const std::vector<double> to = {1.0,  1.0 + 0x1p-6, 1.0 + 0x1p-7, 2.0,
                                  kInf, -kInf,        0x1p-133,     0x1p-132,
                                  0.0,  kNaN,         kInf,         -kInf};
  const Tensor in(backend(), RowOf(from)), out(backend(), 1, 64, DType::kBf16);
  backend().Convert(*in, *out);
  ExpectClose(out.Read(), RowOf(to), Grid(1, 64));
}

}  // namespace
}  // namespace goldfinch
