#include "engine/sync/atomic_histogram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace goldfinch {
namespace {

using ::testing::ElementsAre;

TEST(AtomicHistogramTest, CountsEachValueInItsBucketAndAllAbove) {
  AtomicHistogram histogram({1, 2, 4});
  for (const double value : {0.5, 1.0, 1.5, 4.0, 100.0}) histogram.Observe(value);
  const AtomicHistogram::Snapshot snapshot = histogram.Read();
  EXPECT_THAT(snapshot.cumulative, ElementsAre(2, 3, 4, 5));
  EXPECT_EQ(snapshot.sum, 107);
}

TEST(AtomicHistogramTest, TimesAreSeconds) {
  AtomicHistogram histogram({1});
  histogram.ObserveSeconds(std::chrono::milliseconds(500));
  histogram.ObserveSeconds(std::chrono::seconds(2));
  const AtomicHistogram::Snapshot snapshot = histogram.Read();
  EXPECT_THAT(snapshot.cumulative, ElementsAre(1, 2));
  EXPECT_DOUBLE_EQ(snapshot.sum, 2.5);
}

}  // namespace
}  // namespace goldfinch
