#include "bench/load/arrivals.h"

#include <gtest/gtest.h>

namespace goldfinch {
namespace {

TEST(ArrivalsTest, GapsAreExponential) {
  Arrivals arrivals(/*rate=*/4, /*seed=*/7);
  constexpr int kCount = 200000;
  double sum = 0, squares = 0;
  int above_mean = 0;
  for (int i = 0; i < kCount; ++i) {
    const double gap = arrivals.NextGap();
    ASSERT_GE(gap, 0);
    sum += gap;
    squares += gap * gap;
    if (gap > 0.25) ++above_mean;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean, 0.25, 0.003);
  EXPECT_NEAR(squares / kCount - mean * mean, 0.0625, 0.002);  // the mean, squared
  EXPECT_NEAR(static_cast<double>(above_mean) / kCount, 0.3679, 0.005);  // 1/e
}

TEST(ArrivalsTest, TheSameSeedGivesTheSameMoments) {
  Arrivals one(2, 5), same(2, 5), other(2, 6);
  const double first = one.NextGap();
  EXPECT_EQ(same.NextGap(), first);
  EXPECT_NE(other.NextGap(), first);
  EXPECT_NE(one.NextGap(), first);
}

}  // namespace
}  // namespace goldfinch
