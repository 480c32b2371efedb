// What each tenant may have of sessions, in memory and in the store, and that to the
// others it has none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/sessions/replica.h"

namespace goldfinch {
namespace {

using ::testing::HasSubstr;

constexpr auto kPatience = std::chrono::seconds(20);

class SessionQuotaTest : public testing::Test {
 protected:
  // Replicas on one store; tenant "a" has the quota below, the others have none.
  std::unique_ptr<Replica> Make(const std::string& name, ReplicaOptions options = {}) {
    options.sessions.quota_of = [this](const std::string& tenant) {
      if (tenant != "a") return kNoQuota;
      return SessionQuota{.max_sessions = max_sessions_,
                          .max_resident_bytes = max_resident_,
                          .max_parked_bytes = max_parked_};
    };
    return std::make_unique<Replica>(name, &medium_, clock_, options);
  }
  // One that has said something; all are of the same size.
  static std::string Session(Replica& replica, const std::string& tenant = "a") {
    const std::string id = replica.Create(tenant);
    EXPECT_EQ(replica.Say(id, 20, 5, 1, tenant), absl::OkStatus());
    return id;
  }
  std::int64_t Stored(Replica& replica) {
    return replica.store().TenantBytes("a").value_or(-1);
  }
  // Sweeps until `condition`.
  template <typename Condition>
  static bool Becomes(Replica& replica, const Condition& condition) {
    const auto limit = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      replica.sessions().Sweep();
      std::this_thread::yield();
    }
    return true;
  }

  std::atomic<std::int64_t> max_sessions_ = kNoQuota.max_sessions;
  std::atomic<std::int64_t> max_resident_ = kNoQuota.max_resident_bytes;
  std::atomic<std::int64_t> max_parked_ = kNoQuota.max_parked_bytes;
  FakeClock clock_;
  MemoryMedium medium_{clock_};
};

TEST_F(SessionQuotaTest, AParkBeyondTheStoresShareIsRefusedAndTheSessionStays) {
  const auto replica = Make("one");
  const std::string first = Session(*replica), second = Session(*replica);
  ASSERT_TRUE(replica->Park(first).ok());
  const std::int64_t one = Stored(*replica);
  // Once it is clear before anything is copied, once only the store itself knows.
  for (const std::int64_t limit : {one, 2 * one - 1}) {
    max_parked_ = limit;
    const absl::Status refused = replica->Park(second).status();
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    EXPECT_THAT(refused.message(), HasSubstr("limit is " + std::to_string(limit)));
    EXPECT_EQ(replica->Get(second)->place, SessionPlace::kAlive);
    EXPECT_FALSE(replica->Get(second)->busy);
  }
  EXPECT_EQ(replica->sessions().stats().over_quota, 2u);
  EXPECT_EQ(replica->sessions().stats().park_failures, 0u);
  EXPECT_EQ(Stored(*replica), one);
  max_parked_ = 2 * one;
  ASSERT_TRUE(replica->Park(second).ok()) << "the limit itself is allowed";
  EXPECT_EQ(Stored(*replica), 2 * one);
  EXPECT_TRUE(replica->Say(second, 20, 5, 2).ok());
}

TEST_F(SessionQuotaTest, OfASessionParkedAgainTheDifferenceCounts) {
  const auto replica = Make("one");
  const std::string id = Session(*replica);
  ASSERT_TRUE(replica->Park(id).ok());
  const std::int64_t before = Stored(*replica);
  ASSERT_TRUE(replica->Say(id, 1, 1, 2).ok());
  max_parked_ = before;
  EXPECT_TRUE(absl::IsResourceExhausted(replica->Park(id).status()));
  max_parked_ = before + before / 2;
  ASSERT_TRUE(replica->Park(id).ok());
  EXPECT_GT(Stored(*replica), before);
  EXPECT_LE(Stored(*replica), max_parked_);
  EXPECT_TRUE(replica->Say(id, 1, 1, 3).ok());
}

TEST_F(SessionQuotaTest, ReplicasShareOneAccount) {
  const auto one = Make("one"), two = Make("two");
  ASSERT_TRUE(one->Park(Session(*one)).ok());
  const std::string first = Session(*one), second = Session(*two);
  max_parked_ = 2 * Stored(*one);
  EXPECT_TRUE(one->Park(first).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(two->Park(second).status()));
  ASSERT_TRUE(two->Delete(first).ok());
  EXPECT_TRUE(two->Park(second).ok());
}

TEST_F(SessionQuotaTest, WhatIsIdleRestsWhileTheStoreIsFullForItsTenant) {
  ReplicaOptions options;
  options.sessions.idle_to_park = std::chrono::seconds(10);
  const auto replica = Make("one", options);
  max_parked_ = 0;
  const std::string id = Session(*replica), foreign = Session(*replica, "b");
  clock_.Advance(std::chrono::seconds(11));
  EXPECT_TRUE(Becomes(*replica, [&] {
    return replica->Get(id)->place == SessionPlace::kResting &&
           replica->Get(foreign, "b")->place == SessionPlace::kParked;
  }));
  EXPECT_EQ(replica->sessions().stats().over_quota, 1u);
  for (int i = 0; i < 100; ++i) replica->sessions().Sweep();
  EXPECT_EQ(replica->sessions().stats().over_quota, 1u) << "it is not tried all the time";
  EXPECT_EQ(replica->sessions().stats().park_failures, 0u);
  max_parked_ = 1 << 20;
  clock_.Advance(std::chrono::seconds(6));
  EXPECT_TRUE(Becomes(*replica,
                      [&] { return replica->Get(id)->place == SessionPlace::kParked; }));
  EXPECT_TRUE(replica->Say(id, 5, 5, 2).ok());
}

// Neither its tenant nor others would have memory else.
TEST_F(SessionQuotaTest, WhenNothingOfATenantCanMoveFullMemoryIsItsOwnAffair) {
  ReplicaOptions options;
  options.sessions.host_bytes = 150;  // one and a bit
  const auto replica = Make("one", options);
  max_parked_ = 0;
  Session(*replica);
  Session(*replica);
  EXPECT_TRUE(
      Becomes(*replica, [&] { return replica->sessions().stats().over_quota > 0; }));
  replica->sessions().Sweep();
  EXPECT_THAT(replica->TryCreate().status().message(),
              HasSubstr("bytes of memory; the limit is 150"));
  EXPECT_TRUE(replica->TryCreate("b").ok());
}

// It would else be asked again and again, and memory grow beyond its limit meanwhile.
TEST_F(SessionQuotaTest, AStoreThatTakesNothingPausesParkingByItself) {
  ReplicaOptions options;
  options.sessions.host_bytes = 150;
  const auto replica = Make("one", options);
  medium_.FailPuts(absl::UnavailableError("no answer"));
  Session(*replica);
  Session(*replica);
  EXPECT_TRUE(
      Becomes(*replica, [&] { return replica->sessions().stats().park_failures > 0; }));
  EXPECT_THAT(replica->TryCreate("b").status().message(),
              HasSubstr("bytes of memory; the limit is 150"));
  medium_.FailPuts(absl::OkStatus());
  EXPECT_FALSE(replica->TryCreate("b").ok()) << "for five seconds";
  clock_.Advance(std::chrono::seconds(6));
  EXPECT_TRUE(replica->TryCreate("b").ok());
}

TEST_F(SessionQuotaTest, ADrainLosesNothing) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = Session(*one), other = Session(*one);
  max_parked_ = 0;
  EXPECT_TRUE(absl::IsResourceExhausted(one->Park(id).status()));
  EXPECT_EQ(one->sessions().ParkAll(std::chrono::steady_clock::now() + kPatience), 0);
  EXPECT_TRUE(two->Say(id, 5, 5, 2).ok());
  EXPECT_TRUE(two->Say(other, 5, 5, 2).ok());
}

TEST_F(SessionQuotaTest, WhatIsInterruptedIsParkedAllTheSame) {
  const auto one = Make("one"), two = Make("two");
  max_parked_ = 0;
  const auto use = one->sessions().Anonymous("a");
  ASSERT_NO_FATAL_FAILURE(one->RunInterrupted(*use, 5));
  EXPECT_EQ(Await<absl::Status>([&](auto done) {
              one->sessions().ParkInterrupted(use, std::move(done));
            }),
            absl::OkStatus());
  EXPECT_TRUE(two->Get(use->id())->interrupted ||
              two->Get(use->id())->place == SessionPlace::kParked);
}

TEST_F(SessionQuotaTest, BeyondItsMemoryATenantsOldestSessionsMakeRoom) {
  const auto replica = Make("one");
  std::vector<std::string> ids;
  const std::string foreign = Session(*replica, "b");
  for (int i = 0; i < 4; ++i) {
    ids.push_back(Session(*replica));
    clock_.Advance(std::chrono::seconds(1));
  }
  const std::int64_t each = replica->Get(ids[0])->bytes;
  max_resident_ = 4 * each;
  ids.push_back(replica->Create());
  EXPECT_EQ(replica->Get(ids[0])->place, SessionPlace::kParked);
  for (std::size_t i = 1; i < 5; ++i) {
    EXPECT_NE(replica->Get(ids[i])->place, SessionPlace::kParked) << i;
  }
  EXPECT_EQ(replica->sessions().stats().parked, 1u);

  // The same for one that comes back.
  clock_.Advance(std::chrono::seconds(1));
  ASSERT_TRUE(replica->Say(ids[4], 20, 5, 1).ok());
  clock_.Advance(std::chrono::seconds(1));
  ASSERT_TRUE(replica->Say(ids[0], 5, 5, 2).ok());
  EXPECT_EQ(replica->Get(ids[1])->place, SessionPlace::kParked);
  EXPECT_NE(replica->Get(ids[4])->place, SessionPlace::kParked);
  EXPECT_EQ(replica->Get(foreign, "b")->place, SessionPlace::kAlive);
}

TEST_F(SessionQuotaTest, SessionsThatGrewBeyondTheirTenantsMemoryAreParked) {
  const auto replica = Make("one");
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(Session(*replica));
    clock_.Advance(std::chrono::seconds(1));
  }
  const std::string foreign = Session(*replica, "b");
  max_resident_ = 3 * replica->Get(ids[0])->bytes - 1;
  EXPECT_TRUE(Becomes(
      *replica, [&] { return replica->Get(ids[0])->place == SessionPlace::kParked; }));
  replica->sessions().Sweep();
  EXPECT_EQ(replica->Get(ids[1])->place, SessionPlace::kAlive);
  EXPECT_EQ(replica->Get(ids[2])->place, SessionPlace::kAlive);
  EXPECT_EQ(replica->Get(foreign, "b")->place, SessionPlace::kAlive);
}

TEST_F(SessionQuotaTest, WithoutRoomANewSessionIsRefused) {
  const auto replica = Make("one");
  const std::string id = Session(*replica), foreign = Session(*replica, "b");
  const UseOr use = replica->Acquire(id);
  ASSERT_TRUE(use.ok());
  max_resident_ = 1;
  const absl::Status busy = replica->TryCreate().status();
  EXPECT_TRUE(absl::IsResourceExhausted(busy)) << busy << ": its only one is in use";
  EXPECT_THAT(busy.message(), HasSubstr("limit is 1"));
  max_parked_ = 0;
  (*use)->Release();
  EXPECT_TRUE(absl::IsResourceExhausted(replica->TryCreate().status()))
      << "the store has no room for it";
  EXPECT_EQ(replica->Get(id)->place, SessionPlace::kAlive);
  max_parked_ = 1 << 20;
  clock_.Advance(std::chrono::seconds(6));
  const auto limit = std::chrono::steady_clock::now() + kPatience;
  while (!replica->TryCreate().ok() && std::chrono::steady_clock::now() < limit) {
    std::this_thread::yield();  // a park that failed is not tried again at once
  }
  EXPECT_EQ(replica->Get(id)->place, SessionPlace::kParked);
  EXPECT_EQ(replica->Get(foreign, "b")->place, SessionPlace::kAlive);
}

TEST_F(SessionQuotaTest, AfterALapseRoomIsMadeAllTheSame) {
  const auto replica = Make("one");
  const std::string id = Session(*replica);
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(replica->store().Renew().ok());
  max_resident_ = 1;
  EXPECT_TRUE(replica->TryCreate().ok());
  EXPECT_EQ(replica->Get(id)->place, SessionPlace::kParked);
}

// Clients on threads of their own with room for ten sessions of a hundred.
TEST_F(SessionQuotaTest, ManyCallsWithRoomForFewSessionsAllGetTheirTurn) {
  constexpr std::size_t kThreads = 6, kEach = 20;
  const auto replica = Make("one");
  const std::int64_t each = replica->Get(Session(*replica))->bytes;
  max_resident_ = 10 * each;
  std::vector<std::thread> clients;
  for (std::size_t t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      // A refusal says that nothing could move at that moment.
      const auto insist = [](const auto& call) {
        const auto limit = std::chrono::steady_clock::now() + kPatience;
        absl::Status status = call();
        while (absl::IsResourceExhausted(status) &&
               std::chrono::steady_clock::now() < limit) {
          std::this_thread::yield();
          status = call();
        }
        ASSERT_EQ(status, absl::OkStatus());
      };
      std::vector<std::string> ids;
      for (std::size_t i = 0; i < kEach; ++i) {
        insist([&] {
          const UseOr use = replica->TryCreate();
          if (use.ok()) ids.push_back((*use)->id());
          return use.status();
        });
      }
      for (std::uint64_t turn = 0; turn < 2; ++turn) {
        for (const std::string& id : ids) {
          insist([&] { return replica->Say(id, 20, 5, t * 100 + turn); });
          replica->sessions().Sweep();
        }
      }
      for (const std::string& id : ids) EXPECT_EQ(replica->Get(id)->num_tokens, 50);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(replica->sessions().stats().loaded, kThreads * kEach / 2);
  EXPECT_TRUE(Becomes(*replica, [&] {
    std::int64_t resident = 0;
    for (const SessionInfo& info : replica->List()) {
      if (info.place != SessionPlace::kParked) resident += info.bytes;
    }
    return resident <= max_resident_;
  }));
}

TEST_F(SessionQuotaTest, CallsAtOnceDoNotExceedTheNumberOfSessions) {
  const auto replica = Make("one");
  max_sessions_ = 2;
  medium_.HoldClaims();
  std::vector<std::future<absl::Status>> created;
  std::vector<std::shared_ptr<std::promise<absl::Status>>> promises;
  for (int i = 0; i < 10; ++i) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    created.push_back(promise->get_future());
    replica->sessions().Create(
        "a", [promise](const UseOr& use) { promise->set_value(Detached(use.status())); });
  }
  medium_.WaitForHeldClaims(3);
  medium_.LetClaimsGo();
  int accepted = 0;
  for (std::future<absl::Status>& one : created) {
    const absl::Status status = one.get();
    accepted += status.ok() ? 1 : 0;
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
  }
  EXPECT_EQ(accepted, 2);
  EXPECT_EQ(replica->List().size(), 2u);
}

TEST_F(SessionQuotaTest, OfATenantsCallsSoManyWaitForTheStore) {
  constexpr int kRunning = 3, kWaiting = 2;  // a thread is left to the background
  ReplicaOptions options;
  options.sessions.max_waiting_calls = kWaiting;
  const auto replica = Make("one", options);
  const std::string held = Session(*replica), unknown(32, 'f');
  const auto create = [&](const std::string& tenant) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    replica->sessions().Create(tenant, [promise](const UseOr& use) {
      promise->set_value(Detached(use.status()));
    });
    return promise->get_future();
  };
  medium_.HoldClaims();
  std::vector<std::future<absl::Status>> accepted;
  for (int i = 1; i <= kRunning; ++i) {
    accepted.push_back(create("a"));
    medium_.WaitForHeldClaims(i);
  }
  for (int i = 0; i < kWaiting; ++i) accepted.push_back(create("a"));
  const auto list = Await<absl::StatusOr<std::vector<SessionInfo>>>(
      [&](auto done) { replica->sessions().List("a", "", 9, std::move(done)); });
  for (const absl::Status& refused :
       {replica->TryCreate().status(), replica->Acquire(unknown).status(),
        replica->Get(unknown).status(), replica->Park(unknown).status(),
        replica->Delete(unknown), replica->Import("x").status(), list.status()}) {
    EXPECT_EQ(refused, absl::ResourceExhaustedError(
                           "2 calls of this tenant wait for the session store; the "
                           "limit is 2"));
  }
  EXPECT_TRUE(replica->Acquire(held).ok()) << "it is here, and waits for nothing";
  accepted.push_back(create("b"));
  medium_.LetClaimsGo();
  for (std::future<absl::Status>& one : accepted) EXPECT_EQ(one.get(), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(replica->Delete(unknown)));
}

// Whoever deletes what nobody has would else take everybody's places.
TEST_F(SessionQuotaTest, WhatIsToBeForgottenTakesNoPlace) {
  ReplicaOptions options;
  options.sessions.max_sessions = 5;
  const auto replica = Make("one", options);
  max_sessions_ = 1;
  std::vector<std::future<absl::Status>> created, deleted;
  const auto create = [&](const std::string& tenant) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    replica->sessions().Create(tenant, [promise](const UseOr& use) {
      promise->set_value(Detached(use.status()));
    });
    created.push_back(promise->get_future());
  };
  medium_.HoldClaims();
  for (int i = 1; i <= 3; ++i) {  // all threads for calls
    create("c");
    medium_.WaitForHeldClaims(i);
  }
  for (const char digit : {'1', '2', '3', '4', '5'}) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    replica->sessions().Delete(
        "a", std::string(32, digit),
        [promise](const absl::Status& status) { promise->set_value(Detached(status)); });
    deleted.push_back(promise->get_future());
  }
  replica->sessions().Sweep();
  EXPECT_EQ(replica->sessions().stats().resting, 0);
  EXPECT_EQ(replica->sessions().stats().busy, 0);
  create("b");
  create("a");
  medium_.LetClaimsGo();
  for (std::future<absl::Status>& one : created) EXPECT_EQ(one.get(), absl::OkStatus());
  for (std::future<absl::Status>& one : deleted) {
    EXPECT_TRUE(absl::IsNotFound(one.get()));
  }
}

TEST_F(SessionQuotaTest, WhoMayHaveNoMoreSessionsMayDeleteParkedOnes) {
  const auto replica = Make("one");
  const std::string parked = Session(*replica);
  ASSERT_TRUE(replica->Park(parked).ok());
  max_sessions_ = 1;
  const UseOr held = replica->Acquire(Session(*replica));
  ASSERT_TRUE(held.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(replica->Acquire(parked).status()));
  EXPECT_EQ(replica->Delete(parked), absl::OkStatus());
}

// It has them still, and what it calls for comes back: its others go meanwhile.
TEST_F(SessionQuotaTest, AtTheLimitOneThatIsCalledForTakesThePlaceOfTheOldest) {
  const auto replica = Make("one");
  const std::string parked = Session(*replica), foreign = Session(*replica, "b");
  ASSERT_TRUE(replica->Park(parked).ok());
  clock_.Advance(std::chrono::seconds(1));
  // What was said nothing in has no bytes, but a place.
  const std::string oldest = replica->Create();
  clock_.Advance(std::chrono::seconds(1));
  const std::string younger = Session(*replica);
  max_sessions_ = 2;
  EXPECT_TRUE(absl::IsResourceExhausted(replica->TryCreate().status()));
  EXPECT_TRUE(absl::IsResourceExhausted(replica->Fork(younger).status()));
  clock_.Advance(std::chrono::seconds(1));
  EXPECT_EQ(replica->Say(parked, 5, 5, 2), absl::OkStatus());
  EXPECT_EQ(replica->Get(oldest)->place, SessionPlace::kParked);
  EXPECT_EQ(replica->Get(younger)->place, SessionPlace::kAlive);
  clock_.Advance(std::chrono::seconds(1));
  EXPECT_TRUE(replica->Export(oldest).ok());
  EXPECT_EQ(replica->Get(younger)->place, SessionPlace::kParked);
  EXPECT_EQ(replica->Get(foreign, "b")->place, SessionPlace::kAlive);
  EXPECT_EQ(replica->sessions().stats().parked, 3u);

  // So it is when the limit is lowered below what is held.
  max_sessions_ = 1;
  EXPECT_EQ(replica->Say(younger, 5, 5, 2), absl::OkStatus());
  EXPECT_EQ(replica->Get(parked)->place, SessionPlace::kParked);
  EXPECT_EQ(replica->Get(oldest)->place, SessionPlace::kParked);
  max_sessions_ = 0;
  EXPECT_TRUE(absl::IsResourceExhausted(replica->Acquire(parked).status()));
  EXPECT_NE(replica->Get(younger)->place, SessionPlace::kParked) << "it would not help";
}

TEST_F(SessionQuotaTest, WithoutAPlaceAnUnknownSessionIsUnknownAndNothingMoves) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = Session(*one), elsewhere = Session(*two);
  const std::string unknown(32, 'f');
  const auto expect_no_move = [&] {
    EXPECT_TRUE(absl::IsNotFound(one->Acquire(unknown).status()));
    EXPECT_TRUE(absl::IsNotFound(one->Export(unknown).status()));
    EXPECT_TRUE(absl::IsUnavailable(one->Acquire(elsewhere).status()));
    EXPECT_EQ(one->Get(id)->place, SessionPlace::kAlive);
  };
  max_sessions_ = 1;
  expect_no_move();
  max_sessions_ = 2;
  max_resident_ = 1;
  const UseOr use = one->Acquire(id);  // nor does a sweep of its own park it
  ASSERT_TRUE(use.ok());
  expect_no_move();
}

TEST_F(SessionQuotaTest, WithoutAPlaceThatCanBeMadeWhatIsCalledForIsRefused) {
  const auto replica = Make("one");
  const std::string parked = Session(*replica);
  ASSERT_TRUE(replica->Park(parked).ok());
  const std::string id = Session(*replica);
  max_sessions_ = 1;
  {
    const UseOr use = replica->Acquire(id);
    ASSERT_TRUE(use.ok());
    const absl::Status busy = replica->Acquire(parked).status();
    EXPECT_TRUE(absl::IsResourceExhausted(busy)) << busy;
    EXPECT_THAT(busy.message(), HasSubstr("holds 1 sessions; the limit is 1"));
    (*use)->Release();
  }
  max_parked_ = 1;
  EXPECT_TRUE(absl::IsResourceExhausted(replica->Acquire(parked).status()))
      << "the store has no room for the other one";
  EXPECT_EQ(replica->Get(id)->place, SessionPlace::kAlive);
}

TEST_F(SessionQuotaTest, AtTheServersLimitTheOldestOfAnybodyMakesRoom) {
  ReplicaOptions options;
  options.sessions.max_sessions = 3;
  const auto replica = Make("one", options);
  const std::string parked = Session(*replica);
  ASSERT_TRUE(replica->Park(parked).ok());
  std::vector<std::string> foreign;
  for (int i = 0; i < 2; ++i) {
    foreign.push_back(Session(*replica, "b"));
    clock_.Advance(std::chrono::seconds(1));
  }
  const std::string id = Session(*replica);
  clock_.Advance(std::chrono::seconds(1));
  const auto places = [&] {
    return std::vector<SessionPlace>{
        replica->Get(foreign[0], "b")->place, replica->Get(foreign[1], "b")->place,
        replica->Get(id)->place, replica->Get(parked)->place};
  };
  EXPECT_TRUE(absl::IsResourceExhausted(replica->TryCreate().status()));
  EXPECT_TRUE(absl::IsNotFound(replica->Acquire(std::string(32, 'f')).status()));
  EXPECT_EQ(places(), (std::vector{SessionPlace::kAlive, SessionPlace::kAlive,
                                   SessionPlace::kAlive, SessionPlace::kParked}));
  EXPECT_EQ(replica->Say(parked, 5, 5, 2), absl::OkStatus());
  EXPECT_EQ(places(), (std::vector{SessionPlace::kParked, SessionPlace::kAlive,
                                   SessionPlace::kAlive, SessionPlace::kAlive}));
  // A tenant's own limit comes first.
  max_sessions_ = 2;
  clock_.Advance(std::chrono::seconds(1));
  EXPECT_EQ(replica->Say(foreign[0], 5, 5, 2, "b"), absl::OkStatus());
  EXPECT_EQ(places(), (std::vector{SessionPlace::kAlive, SessionPlace::kParked,
                                   SessionPlace::kAlive, SessionPlace::kAlive}));
}

// Clients on threads of their own with places for four sessions of forty-eight; beside
// them the server has one more, which is taken.
TEST_F(SessionQuotaTest, ManyCallsWithFewPlacesAllGetTheirTurn) {
  constexpr std::size_t kThreads = 6, kEach = 8;
  ReplicaOptions options;
  options.sessions.max_sessions = 5;
  const auto replica = Make("one", options);
  const std::string foreign = Session(*replica, "b");
  std::vector<std::string> ids;
  for (std::size_t i = 0; i < kThreads * kEach; ++i) {
    ids.push_back(Session(*replica));
    ASSERT_TRUE(replica->Park(ids.back()).ok());
  }
  max_sessions_ = 4;
  std::vector<std::thread> clients;
  for (std::size_t t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (std::size_t i = t; i < ids.size(); i += kThreads) {
        const auto limit = std::chrono::steady_clock::now() + kPatience;
        absl::Status status = replica->Say(ids[i], 20, 5, 2);
        // All four are in use at that moment.
        while (absl::IsResourceExhausted(status) &&
               std::chrono::steady_clock::now() < limit) {
          std::this_thread::yield();
          status = replica->Say(ids[i], 20, 5, 2);
        }
        EXPECT_EQ(status, absl::OkStatus());
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(replica->sessions().stats().loaded, ids.size());
  EXPECT_EQ(replica->sessions().stats().park_failures, 0u);
  EXPECT_EQ(replica->Get(foreign, "b")->place, SessionPlace::kAlive);
  std::int64_t held = 0;
  for (const SessionInfo& info : replica->List()) {
    EXPECT_EQ(info.num_tokens, 50);
    held += info.place == SessionPlace::kParked ? 0 : 1;
  }
  EXPECT_LE(held, 4);
}

// Whatever becomes of a session, to another tenant it is an unknown one.
TEST_F(SessionQuotaTest, ASessionOfAnotherTenantDoesNotExist) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = Session(*two), unknown(32, 'f');
  const auto expect_unknown = [&](const char* when) {
    const std::uint64_t epoch = medium_.EpochOf(id);
    for (Replica* replica : {one.get(), two.get()}) {
      const absl::Status known = replica->Acquire(unknown, "b").status();
      EXPECT_TRUE(absl::IsNotFound(known));
      EXPECT_EQ(replica->Acquire(id, "b").status(), known) << when;
      EXPECT_EQ(replica->Get(id, "b").status(), known) << when;
      EXPECT_EQ(replica->Park(id, "b").status(), known) << when;
      EXPECT_EQ(replica->Fork(id, "b").status(), known) << when;
      EXPECT_EQ(replica->Export(id, "b").status(), known) << when;
      EXPECT_EQ(replica->Delete(id, "b"), known) << when;
    }
    EXPECT_EQ(medium_.EpochOf(id), epoch) << when << ": nobody else has claimed it";
  };
  expect_unknown("held by the other, never parked");
  {
    const UseOr use = two->Acquire(id);
    ASSERT_TRUE(use.ok());
    expect_unknown("in use");
  }
  ASSERT_TRUE(two->Park(id).ok());
  expect_unknown("in the store");
  clock_.Advance(std::chrono::seconds(10));
  ASSERT_TRUE(two->Say(id, 5, 5, 2).ok());
  clock_.Advance(std::chrono::seconds(10));
  expect_unknown("in the store and held");
  EXPECT_EQ(two->Get(id)->idle, std::chrono::seconds(10)) << "nor was it used";
  medium_.Spoil(id, [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; });
  expect_unknown("damaged");
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(one->store().Renew().ok());
  ASSERT_TRUE(two->store().Renew().ok());
  expect_unknown("claimed by a lease that lapsed");
  EXPECT_TRUE(two->Say(id, 5, 5, 3).ok());
}

// A stranger's call that waits for the store does not hide the session from its owner.
TEST_F(SessionQuotaTest, AForeignCallIsInNobodysWay) {
  const auto replica = Make("one");
  const std::string id = Session(*replica);
  ASSERT_TRUE(replica->Park(id).ok());
  medium_.HoldClaims();
  std::promise<absl::Status> foreign, owner;
  replica->sessions().Acquire(
      "b", id, [&](const UseOr& use) { foreign.set_value(Detached(use.status())); });
  medium_.WaitForHeldClaims(1);
  replica->sessions().Acquire(
      "a", id, [&](const UseOr& use) { owner.set_value(Detached(use.status())); });
  medium_.WaitForHeldClaims(2);
  medium_.LetClaimsGo();
  EXPECT_TRUE(absl::IsNotFound(foreign.get_future().get()));
  EXPECT_EQ(owner.get_future().get(), absl::OkStatus());
}

}  // namespace
}  // namespace goldfinch
