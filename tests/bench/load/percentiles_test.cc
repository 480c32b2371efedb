#include "bench/load/percentiles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace goldfinch {
namespace {

using testing::ElementsAre;

TEST(PercentilesTest, APercentileIsAMeasurement) {
  std::vector<double> ten;
  for (int i = 1; i <= 10; ++i) ten.push_back(i);
  EXPECT_EQ(Percentile(ten, 0), 1);
  EXPECT_EQ(Percentile(ten, 0.1), 1);
  EXPECT_EQ(Percentile(ten, 0.5), 5);
  EXPECT_EQ(Percentile(ten, 0.51), 6);
  EXPECT_EQ(Percentile(ten, 0.9), 9);
  EXPECT_EQ(Percentile(ten, 0.99), 10);
  EXPECT_EQ(Percentile(ten, 1), 10);
  EXPECT_EQ(Percentile(std::vector<double>{3}, 0.5), 3);
}

TEST(PercentilesTest, OneInAHundredIsJustNotInTheNinetyNinth) {
  std::vector<double> values(99, 1.0);
  values.push_back(1000);
  EXPECT_EQ(Percentile(values, 0.99), 1);
  values[98] = 1000;
  EXPECT_EQ(Percentile(values, 0.99), 1000);
}

TEST(PercentilesTest, ASummaryNeedsNoOrder) {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back((i * 617 % 1000 + 1) * 0.001);
  const LatencySummary summary = Summarize(values);
  EXPECT_EQ(summary.count, 1000);
  EXPECT_DOUBLE_EQ(summary.p50, 0.5);
  EXPECT_DOUBLE_EQ(summary.p90, 0.9);
  EXPECT_DOUBLE_EQ(summary.p99, 0.99);
  EXPECT_DOUBLE_EQ(summary.max, 1);
}

TEST(PercentilesTest, NothingSumsUpToNothing) {
  const LatencySummary summary = Summarize({});
  EXPECT_EQ(summary.count, 0);
  EXPECT_EQ(summary.p99, 0);
}

TEST(PercentilesTest, SharesAreOfTheSum) {
  EXPECT_THAT(Shares(std::vector<std::int64_t>{1, 3, 0}), ElementsAre(0.25, 0.75, 0));
  EXPECT_THAT(Shares(std::vector<std::int64_t>{0, 0}), ElementsAre(0, 0));
}

}  // namespace
}  // namespace goldfinch
