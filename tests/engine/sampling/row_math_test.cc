#include "engine/sampling/row_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/sampling/sampler.h"

namespace goldfinch {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

float Weight(float exponent) {
  RowBlockValues weights;
  ComputeWeights(std::span(&exponent, 1), {0.0f, 1.0f}, kLowestExponent, weights);
  return weights[0];
}

TEST(RowMathTest, ExpIsWithinTwoUnitsOfTheTruth) {
  double worst = 0.0;
  for (float x = 0.0f; x >= -87.0f; x -= 0.00137f) {
    const double truth = std::exp(static_cast<double>(x));
    const auto nearest = static_cast<float>(truth);
    const double unit = static_cast<double>(std::nextafter(nearest, 1e9f) - nearest);
    worst = std::max(worst, std::abs(static_cast<double>(Weight(x)) - truth) / unit);
  }
  EXPECT_LT(worst, 2.0);
}

TEST(RowMathTest, ExpIsExactlyOneAtZeroAndZeroBelowItsRange) {
  EXPECT_EQ(Weight(0.0f), 1.0f);
  EXPECT_EQ(Weight(-0.0f), 1.0f);
  EXPECT_GT(Weight(-87.0f), 0.0f);
  EXPECT_EQ(Weight(-87.001f), 0.0f);
  EXPECT_EQ(Weight(kMinusInfinity), 0.0f);
  EXPECT_EQ(Weight(kNaN), 0.0f);
}

// Bits of exp at a few places, which no compiler, flag or machine may change.
TEST(RowMathTest, ExpHasFixedBits) {
  std::uint64_t hash = 0;
  for (float x = 0.0f; x >= -87.0f; x -= 0.0371f) {
    hash = hash * 0x9E3779B97F4A7C15 + std::bit_cast<std::uint32_t>(Weight(x));
  }
  EXPECT_EQ(hash, 0x3eb5065671d8a55d);
}

TEST(RowMathTest, SumIsTheSumOfItsBlocksForAnyLength) {
  for (const std::size_t size : {1u, 5u, 127u, 128u, 129u, 1000u, 65536u}) {
    const std::vector<float> row = RandomRow(size, 3.0, size);
    std::vector<double> blocks(NumRowBlocks(size));
    const RowMax max = FindRowMax(row, {});
    const double sum = SumWeights(row, {max.value, 1.0f}, blocks);
    double truth = 0.0;
    for (const float x : row) {
      truth += std::exp(static_cast<double>(x) - static_cast<double>(max.value));
    }
    EXPECT_NEAR(sum / truth, 1.0, 1e-6) << size;
    double sum_of_blocks = 0.0;
    for (const double block : blocks) sum_of_blocks += block;
    EXPECT_EQ(sum, sum_of_blocks) << size;
    EXPECT_EQ(sum, SumWeights(row, {max.value, 1.0f}, {})) << size;
  }
}

TEST(RowMathTest, MaxIsTheFirstHighestForAnyLength) {
  for (const std::size_t size : {1u, 5u, 16u, 127u, 128u, 129u, 1000u}) {
    for (std::size_t at = 0; at < size; at += 1 + size / 13) {
      std::vector<float> row(size, -2.0f);
      row[at] = 3.0f;
      row[size - 1] = 3.0f;
      row[0] = at == 0 ? 3.0f : kNaN;
      std::vector<float> blocks(NumRowBlocks(size));
      const RowMax max = FindRowMax(row, blocks);
      EXPECT_EQ(max.value, 3.0f);
      EXPECT_EQ(FirstAtMax(row, max), static_cast<TokenId>(at)) << size;
      EXPECT_EQ(blocks[at / kRowBlock], 3.0f);
      EXPECT_EQ(blocks.back(), 3.0f);
    }
  }
}

TEST(RowMathTest, MaxOfNothingButNaNIsMinusInfinity) {
  const std::vector<float> row(200, kNaN);
  EXPECT_EQ(FindRowMax(row, {}).value, kMinusInfinity);
}

TEST(RowMathTest, InfinityIsTheLargestFloat) {
  std::vector<float> row(200, 0.0f);
  row[150] = std::numeric_limits<float>::infinity();
  row[160] = kLargest;
  const RowMax max = FindRowMax(row, {});
  EXPECT_EQ(max.value, kLargest);
  EXPECT_EQ(FirstAtMax(row, max), 150);
  EXPECT_EQ(SumWeights(row, {max.value, 1.0f}, {}), 2.0);
}

}  // namespace
}  // namespace goldfinch
