#include "sessions/sweep_demand.h"

#include <gtest/gtest.h>

namespace goldfinch {
namespace {

// As many parks as may be under way.
SweepDemand Parking(int parks) {
  SweepDemand demand(16);
  for (int i = 0; i < parks; ++i) {
    EXPECT_TRUE(demand.MayPark());
    demand.BeginPark();
  }
  return demand;
}

TEST(SweepDemandTest, FullMemoryIsSweptAtOnce) {
  SweepDemand demand(16);
  EXPECT_FALSE(demand.due());
  demand.NoteFull();
  EXPECT_TRUE(demand.due());
  demand.BeginSweep();
  EXPECT_FALSE(demand.due());
}

// However many turns end meanwhile.
TEST(SweepDemandTest, WhileASweepCouldStartNothingNoneIsDue) {
  SweepDemand demand = Parking(16);
  EXPECT_FALSE(demand.MayPark());
  for (int i = 0; i < 1000; ++i) {
    demand.NoteFull();
    ASSERT_FALSE(demand.due());
  }
  for (int ended = 1; ended < 8; ++ended) {
    demand.EndPark();
    demand.NoteFull();
    ASSERT_FALSE(demand.due()) << ended;
  }
  demand.EndPark();
  EXPECT_TRUE(demand.due());
}

TEST(SweepDemandTest, MemoryThatFillsWhileOthersAreParkedIsNotForgotten) {
  SweepDemand demand = Parking(16);
  demand.NoteFull();
  for (int i = 0; i < 8; ++i) demand.EndPark();
  EXPECT_TRUE(demand.due());
}

TEST(SweepDemandTest, WithNothingMoreToParkEndsOfParksAreNoReason) {
  SweepDemand demand = Parking(16);
  for (int i = 0; i < 16; ++i) demand.EndPark();
  EXPECT_FALSE(demand.due());
  // What was more has been found by the sweep in between.
  SweepDemand swept = Parking(16);
  EXPECT_FALSE(swept.MayPark());
  swept.BeginSweep();
  for (int i = 0; i < 16; ++i) swept.EndPark();
  EXPECT_FALSE(swept.due());
}

}  // namespace
}  // namespace goldfinch
