#include "bench/load/timetable.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <vector>

namespace goldfinch {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

TEST(TimetableTest, WhatIsDueFirstRunsFirstAndNothingRunsEarly) {
  Timetable timetable;
  const Clock::time_point start = Clock::now();
  std::vector<int> order;
  std::promise<Clock::time_point> last;
  timetable.At(start + milliseconds(30), [&] { last.set_value(Clock::now()); });
  timetable.At(start + milliseconds(20), [&] { order.push_back(2); });
  timetable.At(start + milliseconds(10), [&] {
    order.push_back(1);
    timetable.At(start + milliseconds(15), [&] { order.push_back(3); });
  });
  EXPECT_GE(last.get_future().get(), start + milliseconds(30));
  EXPECT_THAT(order, testing::ElementsAre(1, 3, 2));
}

TEST(TimetableTest, AfterStopNothingBegins) {
  Timetable timetable;
  bool ran = false;
  timetable.At(Clock::now() + std::chrono::hours(1), [&] { ran = true; });
  timetable.Stop();
  timetable.At(Clock::now(), [&] { ran = true; });
  timetable.Stop();
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace goldfinch
