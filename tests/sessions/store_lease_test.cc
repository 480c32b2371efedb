// By whose clock a lease is good: its owner's ends before the others', and a machine that
// was started anew counts from zero.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "sessions/directory_store.h"
#include "sessions/redis_store.h"
#include "tests/sessions/moved_clock.h"
#include "tests/sessions/redis_server.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;

constexpr seconds kLease{30};

// The margin is for what may lie between the answer to a look at the lease and what is
// done because of it.
void ExpectMargin(SnapshotStore& one, SnapshotStore& two, MovedClock& clock) {
  const auto claim = one.Acquire(kSampleId, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok()) << claim.status();
  clock.Advance(seconds(26));
  EXPECT_TRUE(one.lease_is_good());
  EXPECT_TRUE(one.is_good(*claim));
  clock.Advance(seconds(2));
  EXPECT_FALSE(one.lease_is_good());
  EXPECT_FALSE(one.is_good(*claim));
  EXPECT_TRUE(
      absl::IsUnavailable(two.Acquire(kSampleId, "t", AcquireMode::kNew).status()))
      << "to others it is good still";
}

class DirectoryLeaseTest : public testing::Test {
 protected:
  DirectoryLeaseTest() {
    std::string name = testing::TempDir() + "/store_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~DirectoryLeaseTest() override { std::filesystem::remove_all(path_); }

  std::unique_ptr<DirectoryStore> Open(std::shared_ptr<const LeaseClock> clock) const {
    DirectoryStoreOptions options;
    options.path = path_;
    options.lease = kLease;
    options.clock = std::move(clock);
    auto store = DirectoryStore::Open(std::move(options));
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }

  std::string path_;
};

TEST_F(DirectoryLeaseTest, ItsOwnerHoldsItForOverBeforeOthersDo) {
  const auto clock = std::make_shared<MovedClock>();
  ExpectMargin(*Open(clock), *Open(clock), *clock);
}

TEST(RedisLeaseTest, ItsOwnerHoldsItForOverBeforeOthersDo) {
  if (!RedisServer::Available()) GTEST_SKIP() << "redis-server is not installed";
  RedisServer server;
  const auto clock = std::make_shared<MovedClock>();
  RedisStoreOptions options;
  options.address.path = server.socket();
  options.lease = kLease;
  options.clock = clock;
  const auto one = RedisStore::Open(options).value();
  const auto two = RedisStore::Open(options).value();
  ExpectMargin(*one, *two, *clock);
}

// What counts since a machine was started says nothing after it was started again: then
// the clock of the world decides.
TEST_F(DirectoryLeaseTest, AfterARestartOfTheMachineTheWorldsClockDecides) {
  const auto before = std::make_shared<MovedClock>();
  const auto one = Open(before);
  ASSERT_TRUE(one->Acquire(kSampleId, "t", AcquireMode::kNew).ok());
  const auto restarted = [&](seconds later) {
    auto clock = std::make_shared<MovedClock>("another boot");
    clock->Advance(seconds(5) - clock->Uptime());
    clock->JumpWorld(before->World() + later - clock->World());
    return clock;
  };
  const auto soon = Open(restarted(seconds(29)));
  EXPECT_TRUE(
      absl::IsUnavailable(soon->Acquire(kSampleId, "t", AcquireMode::kNew).status()));
  const auto late = Open(restarted(seconds(31)));
  EXPECT_TRUE(late->Acquire(kSampleId, "t", AcquireMode::kNew).ok());
}

// Nor does it of another machine, which has run for longer.
TEST_F(DirectoryLeaseTest, ToAMachineThatRunsForLongerItIsGoodStill) {
  const auto here = std::make_shared<MovedClock>();
  const auto there = std::make_shared<MovedClock>("another boot");
  there->Advance(std::chrono::hours(1));
  there->JumpWorld(here->World() - there->World());
  const auto one = Open(here);
  ASSERT_TRUE(one->Acquire(kSampleId, "t", AcquireMode::kNew).ok());
  EXPECT_TRUE(absl::IsUnavailable(
      Open(there)->Acquire(kSampleId, "t", AcquireMode::kNew).status()));
}

// A clock that is set forward takes no session from who holds it on the same machine.
TEST_F(DirectoryLeaseTest, OnOneMachineTheWorldsClockMayBeSet) {
  const auto clock = std::make_shared<MovedClock>();
  const auto one = Open(clock), two = Open(clock);
  ASSERT_TRUE(one->Acquire(kSampleId, "t", AcquireMode::kNew).ok());
  clock->JumpWorld(std::chrono::hours(1));
  EXPECT_TRUE(
      absl::IsUnavailable(two->Acquire(kSampleId, "t", AcquireMode::kNew).status()));
}

}  // namespace
}  // namespace goldfinch
