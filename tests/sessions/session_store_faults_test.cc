// Stores that refuse one kind of call, or have something else than what was put there:
// whose sessions stay what they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "sessions/session_manager.h"
#include "tests/sessions/replica.h"
#include "tests/sessions/samples.h"
#include "tests/sessions/warnings.h"

namespace goldfinch {
namespace {

class SessionStoreFaultsTest : public ReplicaTest {
 protected:
  // One whose warnings are kept; there are none yet.
  std::unique_ptr<Replica> MakeWarning() {
    ReplicaOptions options;
    options.sessions.warn = Warnings::Add;
    Warnings::Take();
    return Make("one", options);
  }
};

TEST_F(SessionStoreFaultsTest, WhatExpiresIsKeptWhileTheStoreCannotDeleteIt) {
  ReplicaOptions options;
  options.sessions.time_to_live = std::chrono::seconds(20);
  const auto one = Make("one", options);
  const std::string id = HeldAndStored(*one);
  medium_.FailDeletes(absl::UnavailableError("no answer"));
  clock_.Advance(std::chrono::seconds(21));
  one->sessions().Sweep();
  medium_.WaitForFailedDeletes(1);
  EXPECT_EQ(one->Get(id)->num_tokens, 50) << "not what is stored";
  EXPECT_EQ(one->sessions().stats().expired, 0u) << "it is there still";
  medium_.FailDeletes(absl::OkStatus());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (one->Get(id).ok() && std::chrono::steady_clock::now() < limit) {
    one->sessions().Sweep();
    std::this_thread::yield();
  }
  EXPECT_EQ(medium_.size(), 0u);
  EXPECT_EQ(one->sessions().stats().expired, 1u);
}

// Else nobody could use the session until the lease of who failed to delete it is over,
// and that lease is renewed.
TEST_F(SessionStoreFaultsTest, ADeleteThatFailsLeavesNoClaim) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = HeldAndStored(*one);
  ASSERT_TRUE(one->Park(id).ok());
  medium_.FailDeletes(absl::UnavailableError("no answer"));
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  ASSERT_EQ(two->Say(id, 20, 5, 3), absl::OkStatus());
  EXPECT_EQ(two->Get(id)->num_tokens, 75);
}

// As who can write to the store might wish: the store says one tenant, what is sealed
// says another.
TEST_F(SessionStoreFaultsTest, WhatIsSealedForAnotherTenantIsNotLoaded) {
  const auto one = Make("one");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  auto snapshot = Decode(medium_.BytesOf(id));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  ASSERT_EQ(snapshot->tenant, "a");
  snapshot->tenant = "b";
  const std::string foreign = Encode(*snapshot);
  medium_.Spoil(id, [&](std::string& bytes) { bytes = foreign; });
  EXPECT_TRUE(absl::IsNotFound(one->Acquire(id).status()));
  EXPECT_EQ(one->sessions().stats().loaded, 0u);
}

TEST_F(SessionStoreFaultsTest, ASnapshotBeyondTheLongestThereMayBeIsNotRead) {
  const auto one = Make("one");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  ReplicaOptions options;
  options.sessions.max_context_tokens = 100;
  const auto two = Make("two", options);
  const std::string whole = medium_.BytesOf(id);
  const std::int64_t limit = two->sessions().max_snapshot_bytes();
  medium_.Spoil(
      id, [&](std::string& bytes) { bytes.resize(static_cast<std::size_t>(limit) + 1); });
  EXPECT_EQ(two->Acquire(id).status(), OverReadersLimit(limit));
  EXPECT_EQ(two->sessions().stats().load_failures, 1u);
  medium_.Spoil(id, [&](std::string& bytes) { bytes = whole; });
  EXPECT_TRUE(two->Say(id, 20, 5, 2).ok());
}

// A history that was written over, put in its place again.
TEST_F(SessionStoreFaultsTest, AnOlderSnapshotOfTheSameSessionIsDataLoss) {
  const auto one = Make("one");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  const std::string old = medium_.BytesOf(id);
  ASSERT_TRUE(one->Say(id, 20, 5, 2).ok());
  ASSERT_TRUE(one->Park(id).ok());
  const std::string last = medium_.BytesOf(id);
  medium_.Spoil(id, [&](std::string& bytes) { bytes = old; });
  EXPECT_TRUE(absl::IsDataLoss(one->Acquire(id).status()));
  EXPECT_EQ(one->sessions().stats().load_failures, 1u);
  medium_.Spoil(id, [&](std::string& bytes) { bytes = last; });
  EXPECT_TRUE(one->Say(id, 20, 5, 3).ok());
  EXPECT_EQ(one->Get(id)->num_tokens, 75);
}

TEST_F(SessionStoreFaultsTest, WhatCannotBeLoadedOrParkedIsNamed) {
  const auto one = MakeWarning();
  const std::string id = HeldAndStored(*one);
  medium_.FailPuts(absl::ResourceExhaustedError("it is full"));
  EXPECT_FALSE(one->Park(id).ok());
  EXPECT_THAT(Warnings::Take(),
              testing::ElementsAre("session " + id +
                                   " of tenant a could not be parked: it is full"));
  medium_.FailPuts(absl::OkStatus());
  ASSERT_TRUE(one->Park(id).ok());
  medium_.Spoil(id, [](std::string& bytes) { bytes.back() ^= 1; });
  EXPECT_TRUE(absl::IsDataLoss(one->Acquire(id).status()));
  const std::vector<std::string> warnings = Warnings::Take();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], testing::StartsWith("session " + id +
                                               " of tenant a could not be loaded: "));
}

// That is not what the session has to be looked at for.
TEST_F(SessionStoreFaultsTest, AStoreThatDoesNotAnswerIsNoFailedLoad) {
  const auto one = MakeWarning();
  const std::string id = HeldAndStored(*one);
  ASSERT_TRUE(one->Park(id).ok());
  medium_.FailGets(absl::UnavailableError("no answer"));
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(id).status()));
  const SessionStats& stats = one->sessions().stats();
  EXPECT_EQ(stats.load_failures, 0u);
  EXPECT_EQ(stats.loads.failed.Read().cumulative.back(), 0u);
  EXPECT_THAT(Warnings::Take(), testing::IsEmpty());
  medium_.FailGets(absl::OkStatus());
  EXPECT_TRUE(one->Acquire(id).ok());
}

// It tries each of them several times a second.
TEST_F(SessionStoreFaultsTest, ADrainTellsOnceOfEachWayToFailAndThenOfItsEnd) {
  const auto one = MakeWarning();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(one->Say(one->Create(), 20, 5, 1).ok());
  const auto failures = [&] { return one->sessions().stats().park_failures.load(); };
  medium_.FailPuts(absl::UnavailableError("no answer"));
  auto left = std::async(std::launch::async, [&] {
    return one->sessions().ParkAll(std::chrono::steady_clock::now() +
                                   std::chrono::minutes(10));
  });
  while (failures() < 6) std::this_thread::yield();
  medium_.FailPuts(absl::ResourceExhaustedError("it is full"));
  for (const auto before = failures(); failures() < before + 6;) {
    std::this_thread::yield();
  }
  medium_.FailPuts(absl::OkStatus());
  EXPECT_EQ(left.get(), 0);
  EXPECT_THAT(
      Warnings::Take(),
      testing::UnorderedElementsAre(
          testing::MatchesRegex("session .* of tenant a could not be parked: no answer"),
          testing::MatchesRegex("session .* of tenant a could not be parked: it is full"),
          absl::StrCat(failures(),
                       " attempts to park sessions failed during the drain; "
                       "0 sessions are left")));
}

// By whatever clock the store thinks so.
TEST_F(SessionStoreFaultsTest, WhatTheSweepDeletesIsCountedAndTold) {
  ReplicaOptions options;
  options.sessions.note = Warnings::Add;
  Warnings::Take();
  medium_.Expire(3);
  const auto one = Make("one", options);
  Warnings::WaitForOne();
  EXPECT_THAT(Warnings::Take(),
              testing::ElementsAre("3 sessions in the store were deleted: nobody called "
                                   "for them within their time to live"));
  EXPECT_EQ(one->sessions().stats().expired_stored, 3u);
}

// In the order in which they came: small ones would else pass a large one for ever.
TEST_F(SessionStoreFaultsTest, NoCopyIsMadeBeforeOneThatWaitsForRoom) {
  constexpr std::int64_t kLarge = 60, kSmall = 5;
  ReplicaOptions options;
  options.sessions.max_image_bytes =
      (kLarge + kSmall) * (FakeEngine().info().key_bytes + std::int64_t{sizeof(TokenId)});
  const auto one = Make("one", options);
  const std::string first = one->Create(), second = one->Create(), small = one->Create();
  ASSERT_TRUE(one->Say(first, kLarge - 5, 5, 1).ok());
  ASSERT_TRUE(one->Say(second, kLarge - 5, 5, 2).ok());
  ASSERT_TRUE(one->Say(small, kSmall - 1, 1, 3).ok());
  const auto park = [&](const std::string& id) {
    auto promise = std::make_shared<std::promise<absl::Status>>();
    one->sessions().Park("a", id, [promise](const InfoOr& info) {
      promise->set_value(Detached(info.status()));
    });
    return promise->get_future();
  };
  medium_.CrossNextPuts();
  auto first_parked = park(first);
  medium_.WaitForFirstPut();
  EXPECT_TRUE(one->Export(small).ok()) << "there is room beside the first";
  auto second_parked = park(second);
  EXPECT_TRUE(absl::IsResourceExhausted(one->Export(small).status()));
  medium_.LetSecondPutGo();
  EXPECT_EQ(first_parked.get(), absl::OkStatus());
  EXPECT_EQ(second_parked.get(), absl::OkStatus());
}

}  // namespace
}  // namespace goldfinch
