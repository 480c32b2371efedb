// The normalisations: EmbedNorm, NormShift, NormToState, AddNorm, RmsShift.
//
// Tolerance of a LayerNorm over n values, u = 2^-24. With m the mean magnitude, the mean
// is off by e <= (n + 1) u m in any order of addition; a deviation d by e + 2 u |d|; the
// variance, a sum of n squares, by (n + 8) u of itself and e^2, half of which reaches
// the inverse deviation s: d s is off by s (e + |d| ((n + 8) / 2 + 8) u), and scale and
// shift round once more each. The terms in e^2 stay below a tenth of that for our rows.
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

using reference::Norm;

double MeanMagnitude(const Grid& x, std::int64_t row, std::int64_t begin,
                     std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t j = begin; j < begin + count; ++j) sum += std::abs(x(row, j));
  return sum / static_cast<double>(count);
}

Grid NormTolerance(const Grid& x, const Norm& norm, std::int64_t groups = 1) {
  const std::int64_t width = x.cols() / groups;
  const auto n = static_cast<double>(width);
  // d * s, and s by way of a constant shift: LN(x) with weight 1, bias 0.
  const Norm plain = {Grid(1, x.cols(), 1.0), Grid(1, x.cols()), norm.eps};
  const Grid unit = reference::LayerNorm(x, plain, groups);
  Grid tolerance(x.rows(), x.cols());
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    for (std::int64_t first = 0; first < x.cols(); first += width) {
      double mean = 0.0, var = 0.0;
      for (std::int64_t j = first; j < first + width; ++j) mean += x(i, j) / n;
      for (std::int64_t j = first; j < first + width; ++j)
        var += (x(i, j) - mean) * (x(i, j) - mean) / n;
      const double s = 1.0 / std::sqrt(var + norm.eps);
      const double e = (n + 1) * kF32Unit * MeanMagnitude(x, i, first, width);
      for (std::int64_t j = first; j < first + width; ++j) {
        const double relative = ((n + 8) / 2 + 8) * kF32Unit;
        const double off = s * e + std::abs(unit(i, j)) * relative;
        tolerance(i, j) = 1.1 * std::abs(norm.weight(0, j)) * off +
                          2 * kF32Unit * std::abs(norm.bias(0, j));
      }
    }
  }
  return tolerance;
}

class NormTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(NormTest);

constexpr std::int64_t kWidths[] = {16, 48, 64, 192, 1024};

// Rows that are hard to normalise: constant, tiny, huge, far from zero.
Grid HardRows(std::int64_t cols) {
  Grid x = RandomGrid(6, cols, 17);
  for (std::int64_t j = 0; j < cols; ++j) {
    x(0, j) = 0.0;
    x(1, j) = 3.0;
    x(2, j) *= 0x1p-40;
    x(3, j) *= 0x1p50;
    x(4, j) = 8.0 + x(4, j) * 0.5;
  }
  return Rounded(x, DType::kF32);
}

TEST_P(NormTest, EmbedNormNormalisesTheRowsOfItsTokens) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    for (const std::int64_t cols : kWidths) {
      const Grid table = RandomGrid(9, cols, 1, type);
      const Norm norm = RandomNorm(cols, 2);
      const std::vector<std::int32_t> tokens = {8, 0, 3, 3, 7};
      const Tensor rows(backend(), table, type), out(backend(), 5, cols, DType::kF32);
      const DeviceArray<std::int32_t> ids(backend(), tokens);
      const DeviceNorm weights(backend(), norm);
      backend().EmbedNorm(ids.data(), *rows, weights.get(), *out, {});
      const Grid picked = reference::GatherRows(table, {tokens.begin(), tokens.end()});
      ExpectClose(out.Read(), reference::EmbedNorm(tokens, table, norm),
                  NormTolerance(picked, norm));
      EXPECT_TRUE(out.SurroundingsAreIntact());
      for (const DType copied : {DType::kF32, DType::kBf16}) {
        const Tensor again(backend(), 5, cols, DType::kF32);
        const Tensor copy(backend(), 5, cols, copied);
        backend().EmbedNorm(ids.data(), *rows, weights.get(), *again, *copy);
        EXPECT_EQ(again.Bits(), out.Bits());
        EXPECT_TRUE(copy.SurroundingsAreIntact());
        if (copied == DType::kBf16)
          ExpectIsRounded(copy, out);
        else
          EXPECT_EQ(copy.Bits(), out.Bits());
      }
    }
  }
}

TEST_P(NormTest, AddNormNormalisesTheSum) {
  for (const std::int64_t cols : kWidths) {
    const Grid a = RandomGrid(37, cols, 3), b = RandomGrid(37, cols, 4);
    const Norm norm = RandomNorm(cols, 5);
    const Grid sum = Each([](double p, double q) { return p + q; }, a, b);
    const Tensor left(backend(), a), right(backend(), b);
    const Tensor out(backend(), 37, cols, DType::kF32);
    const DeviceNorm weights(backend(), norm);
    backend().AddNorm({.a = *left, .b = *right, .norm = weights.get(), .out = *out});
    // The rounding of a + b itself moves the result as much as one more of the mean's.
    ExpectClose(out.Read(), reference::AddNorm(a, &b, norm, 1, nullptr),
                NormTolerance(sum, norm));
    EXPECT_TRUE(out.SurroundingsAreIntact());
  }
}

TEST_P(NormTest, AddNormOfHardRowsIsWithinRounding) {
  for (const std::int64_t cols : kWidths) {
    const Grid a = HardRows(cols);
    const Norm norm = RandomNorm(cols, 6);
    const Tensor in(backend(), a), out(backend(), a.rows(), cols, DType::kF32);
    const DeviceNorm weights(backend(), norm);
    backend().AddNorm({.a = *in, .norm = weights.get(), .out = *out});
    ExpectClose(out.Read(), reference::AddNorm(a, nullptr, norm, 1, nullptr),
                NormTolerance(a, norm));
  }
}

// Finch normalises each head and gates: silu(g) adds an error of 6 u, and g, whose exp
// is off by |g| u.
TEST_P(NormTest, AddNormNormalisesGroupsAndGates) {
  for (const std::int64_t groups : {1, 2, 3}) {
    const std::int64_t cols = 64 * groups;
    const Grid a = RandomGrid(21, cols, 7), gate = RandomGrid(21, cols, 8);
    const Norm norm = RandomNorm(cols, 9, 64e-5);
    const Grid want = reference::AddNorm(a, nullptr, norm, groups, &gate);
    const Grid tolerance = Each(
        [](double t, double v, double g) {
          return t * std::abs(g) + (8 + std::abs(g)) * kF32Unit * std::abs(v);
        },
        NormTolerance(a, norm, groups), want, gate);
    const Tensor in(backend(), a), gates(backend(), gate);
    const DeviceNorm weights(backend(), norm);
    AddNormArgs args = {
        .a = *in, .norm = weights.get(), .groups = groups, .gate = *gates};
    const Tensor f32(backend(), 21, cols, DType::kF32);
    args.out = *f32;
    backend().AddNorm(args);
    ExpectClose(f32.Read(), want, tolerance);
    const Tensor bf16(backend(), 21, cols, DType::kBf16);
    args.out = *bf16;
    backend().AddNorm(args);
    ExpectIsRounded(bf16, f32);
    EXPECT_TRUE(f32.SurroundingsAreIntact() && bf16.SurroundingsAreIntact());
  }
}

TEST_P(NormTest, AddNormMayWriteOverItsInput) {
  const Grid a = RandomGrid(5, 128, 10), b = RandomGrid(5, 128, 11);
  const DeviceNorm weights(backend(), RandomNorm(128, 12));
  const Tensor left(backend(), a), right(backend(), b);
  const Tensor out(backend(), 5, 128, DType::kF32);
  AddNormArgs args = {.a = *left, .b = *right, .norm = weights.get(), .out = *out};
  backend().AddNorm(args);
  args.out = *left;
  backend().AddNorm(args);
  EXPECT_EQ(left.Bits(), out.Bits());
}

// |x| is a sum of n squares: (n + 1) / 2 u, then two roots, two quotients and a sum.
TEST_P(NormTest, RmsShiftDividesByTheRootMeanSquare) {
  for (const std::int64_t cols : kWidths) {
    for (const Grid& x : {RandomGrid(33, cols, 13), HardRows(cols)}) {
      const std::vector<std::int64_t> index = {0, 1, 2, 3, 4, 4, 2};
      const std::vector<std::int64_t> previous = {-1, 0, 1, 2, 3, 4, -1};
      const auto [want, before] = reference::RmsShift(x, index, previous);
      const double relative = (static_cast<double>(cols + 1) / 2 + 6) * kF32Unit;
      const auto off = [=](double v) { return relative * std::abs(v); };
      const Tensor in(backend(), x);
      const Tensor cur(backend(), 7, cols, DType::kF32);
      const Tensor diff(backend(), 7, cols, DType::kF32);
      const DeviceArray<std::int64_t> rows(backend(), index), others(backend(), previous);
      backend().RmsShift({.num_inputs = 1,
                          .in = {*in},
                          .cur = {*cur},
                          .diff = {*diff},
                          .index = rows.data(),
                          .previous = others.data()});
      ExpectClose(cur.Read(), want, Each(off, want));
      // The difference rounds once more.
      ExpectClose(
          diff.Read(), Each([](double p, double c) { return p - c; }, before, want),
          Each([=](double p,
                   double c) { return off(p) + off(c) + kF32Unit * std::abs(p - c); },
               before, want));
      EXPECT_TRUE(cur.SurroundingsAreIntact() && diff.SurroundingsAreIntact());
    }
  }
}

// Rows in any order, some twice, after the row before or after another; two inputs.
TEST_P(NormTest, ShiftedRowsStandAlone) {
  std::vector<std::int64_t> index, previous;
  for (std::int64_t i = 0; i < 200; ++i) {
    index.push_back(i * 37 % 150);
    previous.push_back(i % 5 == 0   ? -1
                       : i % 5 == 1 ? i * 11 % 150
                                    : index[index.size() - 2]);
  }
  const Tensor a(backend(), RandomGrid(150, 192, 21));
  const Tensor b(backend(), RandomGrid(150, 192, 22));
  const DeviceArray<std::int64_t> rows(backend(), index), others(backend(), previous);
  const auto run = [&](std::int64_t begin, std::int64_t count) {
    const Tensor out(backend(), 4 * count, 192, DType::kF32);
    const auto part = [&](std::int64_t i) { return out->RowsFrom(i * count, count); };
    backend().RmsShift({.num_inputs = 2,
                        .in = {*a, *b},
                        .cur = {part(0), part(1)},
                        .diff = {part(2), part(3)},
                        .index = rows.data() + begin,
                        .previous = others.data() + begin});
    // A row's four results are its bits.
    const std::vector<RowBits> bits = out.Bits();
    std::vector<RowBits> all;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      const auto step = static_cast<std::size_t>(count);
      all.push_back(bits[i] + bits[i + step] + bits[i + 2 * step] + bits[i + 3 * step]);
    }
    return all;
  };
  ExpectRowsStandAlone(200, run);
  // And each input has what it has by itself.
  const Tensor cur(backend(), 200, 192, DType::kF32),
      diff(backend(), 200, 192, DType::kF32);
  backend().RmsShift({.num_inputs = 1,
                      .in = {*b},
                      .cur = {*cur},
                      .diff = {*diff},
                      .index = rows.data(),
                      .previous = others.data()});
  const std::vector<RowBits> together = run(0, 200), mine = cur.Bits(),
                             theirs = diff.Bits();
  const std::size_t bytes = mine[0].size();
  for (std::size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(together[i].substr(bytes, bytes), mine[i]);
    EXPECT_EQ(together[i].substr(3 * bytes), theirs[i]);
  }
}

TEST_P(NormTest, NormalisedRowsStandAlone) {
  const Grid a = RandomGrid(200, 192, 14), b = RandomGrid(200, 192, 15);
  const Tensor left(backend(), a), right(backend(), b);
  const DeviceNorm weights(backend(), RandomNorm(192, 16));
  ExpectRowsStandAlone(200, [&](std::int64_t begin, std::int64_t count) {
    const Tensor out(backend(), count, 192, DType::kF32);
    backend().AddNorm({.a = left->RowsFrom(begin, count),
                       .b = right->RowsFrom(begin, count),
                       .norm = weights.get(),
                       .groups = 3,
                       .gate = left->RowsFrom(begin, count),
                       .out = *out});
    return out.Bits();
  });
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 200; ++i) tokens.push_back((i * 37) % 200);
  const DeviceArray<std::int32_t> ids(backend(), tokens);
  ExpectRowsStandAlone(200, [&](std::int64_t begin, std::int64_t count) {
    const Tensor out(backend(), count, 192, DType::kF32);
    backend().EmbedNorm(ids.data() + begin, *left, weights.get(), *out, {});
    return out.Bits();
  });
}

}  // namespace
}  // namespace goldfinch
