// y = x W^T: the value, and that a row's bits are its own.
//
// Tolerance: a sum of K products in float32, in whatever order, is off by at most
// (K + 1) u times the sum of their magnitudes, u = 2^-24. The hardware's bf16 products
// may flush subnormal terms to zero: 2^-126 each.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tests/engine/kernels/op_test.h"
#include "tests/reference/fp8_reference.h"

namespace goldfinch {
namespace {

struct Shape {
  std::int64_t in, out;
};

constexpr DType kBytes[] = {DType::kI8, DType::kFp8};
const char* NameOf(DType bytes) { return bytes == DType::kI8 ? "int8" : "fp8"; }

// What storage in bytes keeps of W: a scale a row, the largest magnitude / 127 or / 448.
Grid Quantized(const Grid& w, DType bytes) {
  const auto rounded = [bytes](float units) {
    return bytes == DType::kI8
               ? double{std::clamp(std::nearbyint(units), -127.0f, 127.0f)}
               : reference::Fp8Value(reference::NearestFp8(double{units}));
  };
  Grid out(w.rows(), w.cols());
  for (std::int64_t i = 0; i < w.rows(); ++i) {
    float largest = 0;
    for (std::int64_t j = 0; j < w.cols(); ++j)
      largest = std::max(largest, std::abs(static_cast<float>(w(i, j))));
    const float scale = largest / (bytes == DType::kI8 ? 127.0f : 448.0f);
    for (std::int64_t j = 0; j < w.cols(); ++j)
      out(i, j) =
          scale > 0 ? rounded(static_cast<float>(w(i, j)) / scale) * double{scale} : 0.0;
  }
  return out;
}

Grid Tolerance(const Grid& x, const Grid& w) {
  const double in = static_cast<double>(w.cols());
  return Each(
      [in](double magnitude) {
        return 1.01 * (in + 1) * kF32Unit * magnitude + in * 0x1p-126;
      },
      reference::Gemm(reference::Abs(x), reference::Abs(w)));
}

class GemmTest : public OpTest {
 protected:
  // All the row counts worth telling apart, against one reference of 512 rows.
  void ExpectProduct(Shape shape, DType type) {
    const Grid x = RandomGrid(512, shape.in, 1, type);
    const Grid w = RandomGrid(shape.out, shape.in, 2, type);
    const Grid want = reference::Gemm(x, w), tolerance = Tolerance(x, w);
    const auto packed = PackWeights(backend(), w, type);
    const Tensor input(backend(), x, type);
    std::vector<std::int64_t> counts = {97, 512};
    for (std::int64_t rows = 1; rows <= 40; ++rows) counts.push_back(rows);
    for (const std::int64_t rows : counts) {
      SCOPED_TRACE(testing::Message()
                   << rows << " rows, in " << shape.in << ", out " << shape.out);
      const Tensor y(backend(), rows, shape.out, DType::kF32);
      backend().Gemm({input->Rows(rows), packed.get(), *y});
      ExpectClose(y.Read(), want.Rows(0, rows), tolerance.Rows(0, rows));
      ASSERT_TRUE(y.SurroundingsAreIntact());
      if (HasFatalFailure()) return;
    }
  }

  // Rows alone, then every number of rows up to 130, and 512.
  void ExpectRowsKeepTheirBits(Shape shape, DType type, DType storage) {
    SCOPED_TRACE(testing::Message() << "in " << shape.in << ", out " << shape.out);
    const auto packed =
        PackWeights(backend(), RandomGrid(shape.out, shape.in, 3, type), type, storage);
    const Tensor x(backend(), RandomGrid(512, shape.in, 4, type), type);
    const auto product = [&](std::int64_t begin, std::int64_t count) {
      const Tensor y(backend(), count, shape.out, DType::kF32);
      backend().Gemm({x->RowsFrom(begin, count), packed.get(), *y});
      return y.Bits();
    };
    std::vector<RowBits> alone;
    for (std::int64_t i = 0; i < 512; ++i) alone.push_back(product(i, 1)[0]);
    std::vector<std::int64_t> counts = {512};
    for (std::int64_t rows = 1; rows <= 130; ++rows) counts.push_back(rows);
    for (const std::int64_t rows : counts) {
      // From the start, and from the middle.
      for (const std::int64_t begin : {std::int64_t{0}, (512 - rows) / 2}) {
        const std::vector<RowBits> among = product(begin, rows);
        for (std::int64_t i = 0; i < rows; ++i)
          ASSERT_EQ(among[static_cast<std::size_t>(i)],
                    alone[static_cast<std::size_t>(begin + i)])
              << "row " << i << " of " << rows << " from " << begin;
      }
    }
  }
};

GOLDFINCH_ON_ALL_BACKENDS(GemmTest);

// Inputs of odd and even number, one included; outputs around multiples of 32.
constexpr Shape kShapes[] = {{3, 64},  {1, 1},    {2, 31},   {64, 32},
                             {65, 33}, {131, 96}, {48, 130}, {96, 3}};

TEST_P(GemmTest, Float32ProductIsWithinRoundingOfTheExactOne) {
  for (const Shape shape : kShapes) ExpectProduct(shape, DType::kF32);
}

TEST_P(GemmTest, Bf16ProductIsWithinRoundingOfTheExactOne) {
  for (const Shape shape : kShapes) ExpectProduct(shape, DType::kBf16);
}

TEST_P(GemmTest, WeightsInBytesAreMultipliedAsTheirRoundedValues) {
  for (const DType bytes : kBytes) {
    for (const DType type : {DType::kF32, DType::kBf16}) {
      // Beyond 1024 inputs many rows share pieces of a widened panel.
      for (const Shape shape : {Shape{3, 64}, Shape{131, 96}, Shape{2049, 40}}) {
        SCOPED_TRACE(NameOf(bytes));
        const Grid x = RandomGrid(97, shape.in, 1, type);
        const Grid w = RandomGrid(shape.out, shape.in, 2, type);
        const Grid q = Quantized(w, bytes), want = reference::Gemm(x, q);
        // One more rounding for the scale.
        const Grid tolerance = Each([](double t) { return 1.1 * t; }, Tolerance(x, q));
        const auto packed = PackWeights(backend(), w, type, bytes);
        const Tensor input(backend(), x, type);
        for (const std::int64_t rows : {1, 5, 12, 13, 97}) {
          const Tensor y(backend(), rows, shape.out, DType::kF32);
          backend().Gemm({input->Rows(rows), packed.get(), *y});
          ExpectClose(y.Read(), want.Rows(0, rows), tolerance.Rows(0, rows));
          ASSERT_TRUE(y.SurroundingsAreIntact());
        }
      }
    }
  }
}

TEST_P(GemmTest, RowOverBytesHasTheSameBitsAmongAnyNumberOfRows) {
  for (const DType bytes : kBytes) {
    SCOPED_TRACE(NameOf(bytes));
    for (const Shape shape : {Shape{64, 64}, Shape{131, 33}, Shape{1027, 40}})
      ExpectRowsKeepTheirBits(shape, DType::kBf16, bytes);
    ExpectRowsKeepTheirBits({131, 33}, DType::kF32, bytes);
  }
}

// Every row of weights has every value, 448 included, so its scale is 1; each value is at
// another place in each row. A row of the identity reads one of them back, bit for bit.
TEST_P(GemmTest, EveryFp8CodeIsItsValue) {
  constexpr std::int64_t kCodes = 256, kOutputs = 70;
  Grid w(kOutputs, kCodes), identity(kCodes, kCodes), want(kCodes, kOutputs);
  for (std::int64_t i = 0; i < kOutputs; ++i) {
    for (std::int64_t j = 0; j < kCodes; ++j) {
      const double value = reference::Fp8Value(static_cast<int>((37 * i + j) % kCodes));
      // No weight rounds to NaN.
      w(i, j) = want(j, i) = std::isnan(value) ? 0.0 : value;
    }
  }
  for (std::int64_t j = 0; j < kCodes; ++j) identity(j, j) = 1.0;
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const auto packed = PackWeights(backend(), w, type, DType::kFp8);
    const Tensor x(backend(), identity, type);
    for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{7}, kCodes}) {
      for (std::int64_t begin = 0; begin < kCodes; begin += rows) {
        const std::int64_t count = std::min(rows, kCodes - begin);
        const Tensor y(backend(), count, kOutputs, DType::kF32);
        backend().Gemm({x->RowsFrom(begin, count), packed.get(), *y});
        ExpectClose(y.Read(), want.Rows(begin, count), Grid(count, kOutputs));
      }
    }
  }
}

// A scale of zero, and one that is a subnormal number of few bits: by so coarse a one the
// largest weight may be more than 127 or 448.
TEST_P(GemmTest, RowsOfZerosAndOfTheSmallestNumbersInBytes) {
  Grid w(2, 5), x(1, 5);
  for (const int j : {0, 1, 2, 3, 4}) {
    w(1, j) = (j - 1) * 0x1p-140;
    x(0, j) = j;
  }
  const Tensor input(backend(), x);
  for (const DType bytes : kBytes) {
    const auto packed = PackWeights(backend(), w, DType::kF32, bytes);
    const Tensor y(backend(), 1, 2, DType::kF32);
    backend().Gemm({*input, packed.get(), *y});
    ExpectClose(y.Read(), reference::Gemm(x, Quantized(w, bytes)), Grid(1, 2, 0x1p-149));
  }
}

// 18 panels, which are not cut by rows on two threads; 3 inputs; one output.
constexpr Shape kLawShapes[] = {{64, 64}, {3, 40}, {131, 33}, {24, 545}, {257, 1}};

TEST_P(GemmTest, Float32RowHasTheSameBitsAmongAnyNumberOfRows) {
  for (const Shape shape : kLawShapes)
    ExpectRowsKeepTheirBits(shape, DType::kF32, DType::kF32);
  // A panel of more than 512 KB goes in pieces where rows are many.
  ExpectRowsKeepTheirBits({4101, 40}, DType::kF32, DType::kF32);
}

TEST_P(GemmTest, Bf16RowHasTheSameBitsAmongAnyNumberOfRows) {
  for (const Shape shape : kLawShapes)
    ExpectRowsKeepTheirBits(shape, DType::kBf16, DType::kBf16);
}

TEST_P(GemmTest, NoRowsAreNoWork) {
  const auto packed = PackWeights(backend(), RandomGrid(40, 8, 5), DType::kF32);
  const Tensor x(backend(), 0, 8, DType::kF32), y(backend(), 0, 40, DType::kF32);
  backend().Gemm({*x, packed.get(), *y});
  EXPECT_TRUE(y.SurroundingsAreIntact());
}

// Products of one call are those of calls of their own: of different shapes and numbers
// of rows, or all alike, whose tiles a device may mix.
TEST_P(GemmTest, ProductsSideBySideAreTheProductsAlone) {
  struct Sizes {
    Shape shape;
    std::int64_t rows;
  };
  const Sizes different[] = {
      {{64, 100}, 40}, {{33, 7}, 97}, {{20, 300}, 0}, {{64, 33}, 1}};
  const Sizes alike[] = {{{33, 300}, 97}, {{40, 300}, 97}, {{64, 300}, 97}};
  const Sizes alike_and_few[] = {{{64, 40}, 5}, {{33, 40}, 5}};
  for (const std::span<const Sizes> sizes :
       {std::span(different).first(4), std::span(alike).first(3),
        std::span(alike_and_few).first(2)}) {
    std::vector<std::unique_ptr<PackedWeights>> weights;
    std::vector<std::unique_ptr<Tensor>> inputs, alone, together;
    std::vector<Backend::Product> products;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const auto [in, out] = sizes[i].shape;
      const std::int64_t rows = sizes[i].rows;
      weights.push_back(
          PackWeights(backend(), RandomGrid(out, in, i, DType::kBf16), DType::kBf16));
      inputs.push_back(std::make_unique<Tensor>(
          backend(), RandomGrid(rows, in, 9 + i, DType::kBf16), DType::kBf16));
      for (auto* tensors : {&alone, &together})
        tensors->push_back(std::make_unique<Tensor>(backend(), rows, out, DType::kF32));
      backend().Gemm({**inputs[i], weights[i].get(), **alone[i]});
      products.push_back({**inputs[i], weights[i].get(), **together[i]});
    }
    backend().Gemm(products);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_EQ(together[i]->Bits(), alone[i]->Bits()) << i;
      EXPECT_TRUE(together[i]->SurroundingsAreIntact()) << i;
    }
  }
}

// How many tiles there are, and how many inputs, decides which kernel of a device has
// them: sums in parts of their own, small tiles, large ones.
TEST_P(GemmTest, RowsKeepTheirBitsWhateverElseIsInTheLaunch) {
  struct Case {
    Shape shape;
    std::int64_t rows;
    std::size_t products;
  };
  for (const DType storage : {DType::kBf16, DType::kI8, DType::kFp8}) {
    for (const Case& c :
         {Case{{520, 70}, 33, 1}, Case{{1030, 130}, 65, 1}, Case{{515, 70}, 130, 2},
          Case{{512, 130}, 200, 16}, Case{{40, 130}, 400, 16}, Case{{35, 260}, 385, 8}}) {
      SCOPED_TRACE(testing::Message()
                   << NameOf(storage) << ", in " << c.shape.in << ", out " << c.shape.out
                   << ", rows " << c.rows << ", products " << c.products);
      // The slow ones once.
      if (c.products > 2 && storage != DType::kBf16) continue;
      const auto packed =
          PackWeights(backend(), RandomGrid(c.shape.out, c.shape.in, 3, DType::kBf16),
                      DType::kBf16, storage);
      const Tensor x(backend(), RandomGrid(c.rows, c.shape.in, 4, DType::kBf16),
                     DType::kBf16);
      std::vector<std::unique_ptr<Tensor>> results;
      std::vector<Backend::Product> products;
      for (std::size_t i = 0; i < c.products; ++i) {
        results.push_back(
            std::make_unique<Tensor>(backend(), c.rows, c.shape.out, DType::kF32));
        products.push_back({*x, packed.get(), **results.back()});
      }
      backend().Gemm(products);
      const std::vector<RowBits> first = results[0]->Bits();
      for (const auto& result : results) {
        EXPECT_EQ(result->Bits(), first);
        EXPECT_TRUE(result->SurroundingsAreIntact());
      }
      for (std::int64_t row = 0; row < c.rows; row += row < 3 ? 1 : 31) {
        const Tensor alone(backend(), 1, c.shape.out, DType::kF32);
        backend().Gemm({x->RowsFrom(row, 1), packed.get(), *alone});
        EXPECT_EQ(first[static_cast<std::size_t>(row)], alone.Bits()[0]) << row;
      }
    }
  }
}

TEST_P(GemmTest, RowOfNaNLeavesOtherRowsAlone) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const Grid w = RandomGrid(70, 33, 6, type);
    Grid x = RandomGrid(30, 33, 7, type);
    for (std::int64_t j = 0; j < 33; ++j) x(11, j) = std::nan("");
    const Tensor input(backend(), x, type), y(backend(), 30, 70, DType::kF32);
    const auto packed = PackWeights(backend(), w, type);
    backend().Gemm({*input, packed.get(), *y});
    ExpectClose(y.Read(), reference::Gemm(x, w), Tolerance(x, w));
  }
}

// The sum of one row: 1, then many terms too small to change it one at a time. Whatever
// the backend's order is, it is the order for every row.
TEST_P(GemmTest, RowsOfOneValueGiveEqualBits) {
  const Grid w = RandomGrid(64, 515, 8);
  Grid x(100, 515, 0x1p-25);
  for (std::int64_t i = 0; i < 100; ++i) x(i, 0) = 1.0;
  const Tensor input(backend(), x), y(backend(), 100, 64, DType::kF32);
  const auto packed = PackWeights(backend(), w, DType::kF32);
  backend().Gemm({*input, packed.get(), *y});
  const std::vector<RowBits> bits = y.Bits();
  for (const RowBits& row : bits) ASSERT_EQ(row, bits[0]);
}

TEST_P(GemmTest, ColumnsOfAWiderMatrixAreAnInput) {
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const Grid w = RandomGrid(48, 32, 9, type), wide = RandomGrid(17, 160, 10, type);
    const Tensor x(backend(), wide, type), y(backend(), 17, 100, DType::kF32);
    const auto packed = PackWeights(backend(), w, type);
    backend().Gemm({x->Cols(96, 32), packed.get(), y->Cols(50, 48)});
    Grid part(17, 32), got(17, 48);
    const Grid all = y.Read();
    for (std::int64_t i = 0; i < 17; ++i) {
      for (std::int64_t j = 0; j < 32; ++j) part(i, j) = wide(i, 96 + j);
      for (std::int64_t j = 0; j < 48; ++j) got(i, j) = all(i, 50 + j);
      EXPECT_TRUE(std::isnan(all(i, 49)) && std::isnan(all(i, 98))) << "row " << i;
    }
    ExpectClose(got, reference::Gemm(part, w), Tolerance(part, w));
  }
}

}  // namespace
}  // namespace goldfinch
