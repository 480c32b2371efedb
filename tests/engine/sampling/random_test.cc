#include "engine/sampling/random.h"

#include <cmath>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

TEST(RandomTest, PhiloxGivesThePublishedAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                       {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, DrawIsTheTop53BitsOfTheFirstTwoWords) {
  const std::uint64_t bits = 0xe169c58d6627e8d5;
  EXPECT_EQ(UniformDraw(0, 0, 0), static_cast<double>(bits >> 11) / 9007199254740992.0);
}

TEST(RandomTest, EveryBitOfEveryArgumentChangesTheDraw) {
  std::set<double> draws = {UniformDraw(0, 0, 0)};
  for (int bit = 0; bit < 64; ++bit) {
    draws.insert(UniformDraw(std::uint64_t{1} << bit, 0, 0));
    draws.insert(UniformDraw(0, 0, std::uint64_t{1} << bit));
    if (bit < 32) draws.insert(UniformDraw(0, std::uint32_t{1} << bit, 0));
  }
  EXPECT_EQ(draws.size(), 1u + 64 + 64 + 32);
}

constexpr int kNumDraws = 100000;

// Chi-square of 100 equal bins, and the first two moments, along one argument.
template <typename Draw>
void ExpectUniform(const Draw& draw) {
  std::vector<int> bins(100);
  double sum = 0.0;
  double sum_of_squares = 0.0;
  for (int i = 0; i < kNumDraws; ++i) {
    const double u = draw(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[static_cast<std::size_t>(u * 100.0)];
    sum += u;
    sum_of_squares += u * u;
  }
  double chi_square = 0.0;
  for (const int count : bins) chi_square += std::pow(count - 1000.0, 2) / 1000.0;
  EXPECT_LT(chi_square, 99.0 + 4.0 * std::sqrt(2.0 * 99.0));
  EXPECT_GT(chi_square, 99.0 - 4.0 * std::sqrt(2.0 * 99.0));
  EXPECT_NEAR(sum / kNumDraws, 0.5, 0.004);
  EXPECT_NEAR(sum_of_squares / kNumDraws, 1.0 / 3.0, 0.004);
}

TEST(RandomTest, DrawsAreUniformAlongEveryArgument) {
  ExpectUniform([](int i) { return UniformDraw(7, 0, static_cast<std::uint64_t>(i)); });
  ExpectUniform([](int i) { return UniformDraw(static_cast<std::uint64_t>(i), 0, 5); });
  ExpectUniform([](int i) { return UniformDraw(7, static_cast<std::uint32_t>(i), 5); });
}

template <typename First, typename Second>
double Correlation(const First& first, const Second& second) {
  double sum = 0.0;
  for (int i = 0; i < kNumDraws; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    sum += (first(index) - 0.5) * (second(index) - 0.5);
  }
  return sum / kNumDraws * 12.0;
}

TEST(RandomTest, NeighboursAreUncorrelated) {
  const auto base = [](std::uint64_t i) { return UniformDraw(7, 0, i); };
  const auto next_index = [](std::uint64_t i) { return UniformDraw(7, 0, i + 1); };
  const auto next_candidate = [](std::uint64_t i) { return UniformDraw(7, 1, i); };
  const auto next_seed = [](std::uint64_t i) { return UniformDraw(8, 0, i); };
  const double bound = 4.0 / std::sqrt(kNumDraws);
  EXPECT_LT(std::abs(Correlation(base, next_index)), bound);
  EXPECT_LT(std::abs(Correlation(base, next_candidate)), bound);
  EXPECT_LT(std::abs(Correlation(base, next_seed)), bound);
}

}  // namespace
}  // namespace goldfinch
