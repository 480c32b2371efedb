// Products some of whose rows are rows of prompts: each row's bits depend on which of the
// two it is, and on nothing else. Finishes of such rows are in epilogue_test.cc.
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

// Of a shape that a library may have instead of our kernels.
constexpr std::int64_t kIn = 128, kOut = 72, kRows = 300;

class PromptRowsTest : public OpTest {
 protected:
  void SetUp() override {
    OpTest::SetUp();
    if (IsSkipped()) return;
    values_ = RandomGrid(kRows, kIn, 1, DType::kBf16);
    weights_ = RandomGrid(kOut, kIn, 2, DType::kBf16);
    x_ = std::make_unique<Tensor>(backend(), values_, DType::kBf16, Rows::kAligned);
    w_ = PackWeights(backend(), weights_, DType::kBf16);
  }

  // Rows of x: `others`, then of the prompts `prompts` from row `first` on.
  std::vector<RowBits> Run(const std::vector<std::int64_t>& others, std::int64_t first,
                           std::int64_t prompts) {
    const auto count = static_cast<std::int64_t>(others.size());
    Grid chosen(count + prompts, kIn);
    for (std::int64_t i = 0; i < chosen.rows(); ++i)
      for (std::int64_t j = 0; j < kIn; ++j)
        chosen(i, j) = values_(
            i < count ? others[static_cast<std::size_t>(i)] : first + i - count, j);
    const Tensor x(backend(), chosen, DType::kBf16, Rows::kAligned);
    const Tensor y(backend(), chosen.rows(), kOut, DType::kF32, Rows::kAligned);
    backend().Gemm({*x, w_.get(), *y, {}, prompts});
    EXPECT_TRUE(y.SurroundingsAreIntact());
    return y.Bits();
  }

  Grid Tolerance() const {
    return Each([](double size) { return 1.01 * (kIn + 1) * kF32Unit * size + 1e-30; },
                reference::Gemm(reference::Abs(values_), reference::Abs(weights_)));
  }

  Grid values_, weights_;
  std::unique_ptr<Tensor> x_;
  std::unique_ptr<PackedWeights> w_;
};
GOLDFINCH_ON_ALL_BACKENDS(PromptRowsTest);

TEST_P(PromptRowsTest, ProductIsWithinRoundingOfTheExactOne) {
  const Grid want = reference::Gemm(values_, weights_), tolerance = Tolerance();
  for (const std::int64_t rows : {1, 13, 97, 300}) {
    for (const std::int64_t prompts : {std::int64_t{1}, (rows + 1) / 2, rows}) {
      for (const Rows starts : {Rows::kAligned, Rows::kAnywhere}) {
        const Tensor x(backend(), values_.Rows(0, rows), DType::kBf16, starts);
        // Sums may have to go another way than y's.
        for (const Rows of_y : {Rows::kAligned, Rows::kAnywhere}) {
          const Tensor y(backend(), rows, kOut, DType::kF32, of_y);
          backend().Gemm({*x, w_.get(), *y, {}, prompts});
          ExpectClose(y.Read(), want.Rows(0, rows), tolerance.Rows(0, rows));
          ASSERT_TRUE(y.SurroundingsAreIntact());
        }
      }
    }
  }
}

TEST_P(PromptRowsTest, ARowOfAPromptHasTheSameBitsAmongAnyOthers) {
  const std::vector<RowBits> all = Run({}, 0, kRows);
  for (const std::size_t others : {0u, 1u, 7u, 80u}) {
    for (const std::int64_t prompts : {1, 2, 7, 63, 64, 65, 128, 200, 299}) {
      const std::int64_t first = (kRows - prompts) / 3;
      const std::vector<RowBits> some =
          Run(std::vector<std::int64_t>(others, 5), first, prompts);
      for (std::int64_t i = 0; i < prompts; ++i)
        ASSERT_EQ(some[others + static_cast<std::size_t>(i)],
                  all[static_cast<std::size_t>(first + i)])
            << "row " << i << " of " << prompts << " behind " << others;
    }
  }
}

TEST_P(PromptRowsTest, OtherRowsHaveTheBitsTheyHaveWithoutPrompts) {
  const std::vector<std::int64_t> others = {4, 0, 17, 250, 4};
  const std::vector<RowBits> alone = Run(others, 0, 0);
  for (const std::int64_t prompts : {1, 40, 300}) {
    const std::vector<RowBits> among = Run(others, 0, prompts);
    for (std::size_t i = 0; i < others.size(); ++i) ASSERT_EQ(among[i], alone[i]) << i;
  }
}

// More than go at once.
TEST_P(PromptRowsTest, ManyRowsOfPromptsAreThoseOfFew) {
  constexpr std::int64_t kMany = 2500;
  Grid many(kMany, kIn);
  for (std::int64_t i = 0; i < kMany; ++i)
    for (std::int64_t j = 0; j < kIn; ++j) many(i, j) = values_(i % kRows, j);
  const Tensor x(backend(), many, DType::kBf16, Rows::kAligned);
  for (const DType type : {DType::kF32, DType::kBf16}) {
    const Tensor y(backend(), kMany, kOut, type, Rows::kAligned);
    backend().Gemm({*x, w_.get(), *y, {}, kMany});
    EXPECT_TRUE(y.SurroundingsAreIntact());
    const std::vector<RowBits> bits = y.Bits();
    const Tensor few(backend(), kRows, kOut, type, Rows::kAligned);
    backend().Gemm({**x_, w_.get(), *few, {}, kRows});
    const std::vector<RowBits> want = few.Bits();
    for (std::size_t i = 0; i < bits.size(); ++i)
      ASSERT_EQ(bits[i], want[i % want.size()]) << i;
  }
}

// Of several shapes and storages, some of which only our own kernels know.
TEST_P(PromptRowsTest, ProductsSideBySideAreTheProductsAlone) {
  struct Case {
    std::int64_t in, out, rows, prompts;
    DType storage;
  };
  constexpr Case kCases[] = {
      {64, 104, 40, 30, DType::kBf16}, {33, 7, 97, 97, DType::kBf16},
      {24, 304, 0, 0, DType::kBf16},   {64, 72, 9, 0, DType::kBf16},
      {72, 64, 70, 69, DType::kI8},    {104, 80, 70, 70, DType::kBf16}};
  std::vector<std::unique_ptr<PackedWeights>> weights;
  std::vector<std::unique_ptr<Tensor>> inputs, alone, together;
  std::vector<Backend::Product> products;
  for (const Case& c : kCases) {
    const std::uint64_t seed = weights.size();
    weights.push_back(PackWeights(backend(), RandomGrid(c.out, c.in, seed, DType::kBf16),
                                  DType::kBf16, c.storage));
    inputs.push_back(std::make_unique<Tensor>(
        backend(), RandomGrid(c.rows, c.in, 9 + seed, DType::kBf16), DType::kBf16,
        Rows::kAligned));
    for (auto* tensors : {&alone, &together})
      tensors->push_back(std::make_unique<Tensor>(backend(), c.rows, c.out, DType::kF32,
                                                  Rows::kAligned));
    backend().Gemm(
        {**inputs.back(), weights.back().get(), **alone.back(), {}, c.prompts});
    products.push_back(
        {**inputs.back(), weights.back().get(), **together.back(), {}, c.prompts});
  }
  backend().Gemm(products);
  for (std::size_t i = 0; i < products.size(); ++i) {
    EXPECT_EQ(together[i]->Bits(), alone[i]->Bits()) << i;
    EXPECT_TRUE(together[i]->SurroundingsAreIntact()) << i;
  }
}

}  // namespace
}  // namespace goldfinch
