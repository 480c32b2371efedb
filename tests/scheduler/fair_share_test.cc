#include "scheduler/fair_share.h"

#include <gtest/gtest.h>

#include <vector>

namespace goldfinch {
namespace {

TEST(FairShareTest, WhoComesBackStartsAtTheLowestThatCompetes) {
  FairShare shares;
  ServiceCounter a, b, late;
  shares.Update(std::vector<FairShare::Competitor>{{&a, true}, {&b, true}});
  a.service = 50;
  b.service = 80;
  shares.Update(std::vector<FairShare::Competitor>{{&a, true}, {&b, true}, {&late, true}});
  EXPECT_EQ(late.service, 50);
  EXPECT_EQ(a.service, 50);
  EXPECT_EQ(b.service, 80);
}

TEST(FairShareTest, ADebtOutlivesAnIdleTime) {
  FairShare shares;
  ServiceCounter a, b;
  shares.Update(std::vector<FairShare::Competitor>{{&a, true}, {&b, true}});
  a.service = 100;
  b.service = 10;
  shares.Update(std::vector<FairShare::Competitor>{{&a, false}, {&b, true}});
  shares.Update(std::vector<FairShare::Competitor>{{&a, true}, {&b, true}});
  EXPECT_EQ(a.service, 100);
}

TEST(FairShareTest, WhoWasServedAloneLeavesNothingToCatchUpWith) {
  FairShare shares;
  ServiceCounter alone, late;
  shares.Update(std::vector<FairShare::Competitor>{{&alone, true}});
  alone.service = 1000;
  shares.Update(std::vector<FairShare::Competitor>{{&alone, false}});
  shares.Update(std::vector<FairShare::Competitor>{{&late, true}});
  EXPECT_EQ(late.service, 1000);
}

// Who only decodes does not compete: it must not hold the start of others down.
TEST(FairShareTest, ACounterThatDoesNotCompeteIsNoMeasure) {
  FairShare shares;
  ServiceCounter decodes, busy, late;
  shares.Update(std::vector<FairShare::Competitor>{{&decodes, false}, {&busy, true}});
  busy.service = 500;
  shares.Update(std::vector<FairShare::Competitor>{
      {&decodes, false}, {&busy, true}, {&late, true}});
  EXPECT_EQ(late.service, 500);
  EXPECT_EQ(decodes.service, 0);
}

}  // namespace
}  // namespace goldfinch
