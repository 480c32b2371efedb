#include "scheduler/admission.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

namespace goldfinch {
namespace {

TenantDemand Waits(double service, double held, std::uint64_t arrival) {
  return {.service = service, .waits = true, .arrival = arrival, .held = held};
}

TEST(AdmissionTest, NobodyIsNextWhenNobodyWaits) {
  EXPECT_EQ(NextTenant({}), std::nullopt);
  const std::vector<TenantDemand> tenants = {{.service = 1, .held = 0.5}, {.service = 2}};
  EXPECT_EQ(NextTenant(tenants), std::nullopt);
}

TEST(AdmissionTest, TheLeastServedTenantThatWaitsIsNext) {
  std::vector<TenantDemand> tenants = {Waits(3, 0, 1), Waits(2, 0.9, 2), Waits(4, 0, 3)};
  EXPECT_EQ(NextTenant(tenants), 1);
  tenants[1].waits = false;
  EXPECT_EQ(NextTenant(tenants), 0);
}

TEST(AdmissionTest, EquallyServedTheOneThatHoldsLessAndThenTheFirstIsNext) {
  EXPECT_EQ(NextTenant(std::vector{Waits(2, 0.3, 1), Waits(2, 0.2, 2)}), 1);
  EXPECT_EQ(NextTenant(std::vector{Waits(2, 0.2, 8), Waits(2, 0.2, 2)}), 1);
}

TEST(AdmissionTest, AnEquallyServedHolderGivesUpItsExcess) {
  const TenantDemand holder{.service = 10, .held = 1.0};
  EXPECT_EQ(HasToYield(holder, Waits(10, 0, 1), 0.25, 100), Yield::kExcess);
  EXPECT_EQ(HasToYield(holder, Waits(10, 0.75, 1), 1.0, 100), Yield::kNo);
}

TEST(AdmissionTest, AnExcessIsKeptByWhoWasServedLess) {
  const TenantDemand holder{.service = 9, .held = 1.0};
  EXPECT_EQ(HasToYield(holder, Waits(10, 0, 1), 0.25, 100), Yield::kNo);
}

TEST(AdmissionTest, WhoIsFarAheadYieldsWhateverItHolds) {
  const TenantDemand holder{.service = 110, .held = 0.1};
  EXPECT_EQ(HasToYield(holder, Waits(10, 0.5, 1), 0.75, 100), Yield::kDrift);
  EXPECT_EQ(HasToYield(holder, Waits(11, 0.5, 1), 0.75, 100), Yield::kNo);
}

// Else they would swap places step by step, each time with two copies of a state.
TEST(AdmissionTest, AYieldIsNotUndoneByTheSameServices) {
  std::mt19937_64 random(7);
  const auto between0And1 = [&] { return static_cast<double>(random() % 1000) / 1000; };
  int yields = 0;
  for (int round = 0; round < 10000; ++round) {
    const double slack = 1 + between0And1();
    TenantDemand holder = Waits(between0And1() * 3, between0And1(), 1);
    TenantDemand newcomer = Waits(between0And1() * 3, between0And1(), 2);
    const double before = holder.held;
    const double after = newcomer.held + between0And1();
    if (HasToYield(holder, newcomer, after, slack) == Yield::kNo) continue;
    ++yields;
    newcomer.held = after;
    holder.held -= between0And1() * holder.held;
    const bool drifted = holder.service - newcomer.service >= slack;
    // Back to what it held.
    const Yield undone = HasToYield(newcomer, holder, before, slack);
    EXPECT_EQ(undone, Yield::kNo) << "drifted: " << drifted;
  }
  EXPECT_GT(yields, 1000);
}

}  // namespace
}  // namespace goldfinch
