// Replicas around one store: who has a session when leases lapse, claims are lost, stores
// are full or silent, and servers go.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <random>
#include <thread>

#include "sessions/session_manager.h"
#include "tests/sessions/replica.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

class SessionReplicasTest : public ReplicaTest {};

TEST_F(SessionReplicasTest, AnotherReplicaGoesOnAfterAPark) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  // Never parked: there is no telling of it, but that it is not here.
  EXPECT_TRUE(absl::IsUnavailable(two->Get(id).status()));
  EXPECT_TRUE(absl::IsUnavailable(two->Park(id).status()));
  EXPECT_TRUE(absl::IsUnavailable(two->Delete(id)));
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(id).status())) << "held by one";
  ASSERT_TRUE(one->Park(id).ok());
  EXPECT_EQ(two->Get(id)->place, SessionPlace::kParked);
  ASSERT_TRUE(two->Say(id, 20, 5, 2).ok());
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(id).status())) << "held by two";
  ASSERT_TRUE(two->Park(id).ok());
  ASSERT_TRUE(one->Say(id, 20, 5, 3).ok());
  EXPECT_EQ(one->Get(id)->num_tokens, 75);
}

// What the store has of a session that goes on elsewhere is not the session.
TEST_F(SessionReplicasTest, ParkIsNotAnsweredForAnotherReplica) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  EXPECT_EQ(two->Park(id)->num_tokens, 25) << "parked, whoever did it";
  ASSERT_TRUE(one->Say(id, 20, 5, 2).ok());
  EXPECT_TRUE(absl::IsUnavailable(two->Park(id).status()));
  EXPECT_TRUE(absl::IsUnavailable(two->Get(id).status()));
  EXPECT_TRUE(absl::IsUnavailable(two->Delete(id)));
  EXPECT_EQ(one->Get(id)->num_tokens, 50) << "and nothing has happened to it";
  // The server that had it is gone, and what it had not parked with it.
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(two->store().Renew().ok());
  EXPECT_EQ(two->Park(id)->num_tokens, 25);
  EXPECT_TRUE(two->Delete(id).ok());
  EXPECT_TRUE(absl::IsNotFound(two->Get(id).status()));
}

TEST_F(SessionReplicasTest, AParkIsDoneThoughAnotherReplicaGoesOnAtOnce) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  UseOr use;
  medium_.AfterNextRelease([&] { use = two->Acquire(id); });
  const InfoOr info = one->Park(id);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_TRUE(use.ok()) << use.status();
  EXPECT_EQ(info->id, id);
  EXPECT_EQ(info->place, SessionPlace::kParked);
  EXPECT_EQ(info->num_tokens, 25);
  EXPECT_EQ(info->bytes, std::ssize(medium_.BytesOf(id)));
  EXPECT_TRUE(absl::IsUnavailable(one->Park(id).status())) << "it is not here any more";
}

TEST_F(SessionReplicasTest, AfterALapseAnotherTakesOverAndTheOldCopyIsForgotten) {
  const auto one = Make("one");
  const auto two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  ASSERT_TRUE(one->Say(id, 20, 5, 2).ok());  // 50 tokens, of which 25 are stored
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(two->store().Renew().ok());
  ASSERT_TRUE(two->Say(id, 10, 5, 7).ok());
  EXPECT_EQ(two->Get(id)->num_tokens, 40);

  // While two holds it, one can neither go on nor write.
  ASSERT_TRUE(one->store().Renew().ok());
  EXPECT_TRUE(absl::IsUnavailable(one->Say(id, 1, 1, 8)));
  EXPECT_TRUE(absl::IsUnavailable(one->Park(id).status()));
  EXPECT_EQ(medium_.GenerationOf(id), 1u);
  ASSERT_TRUE(two->Park(id).ok());
  // Now it can, with what two has made of it.
  ASSERT_TRUE(one->Say(id, 10, 5, 9).ok());
  EXPECT_EQ(one->Get(id)->num_tokens, 55);
  EXPECT_EQ(one->sessions().stats().stale, 1u);
}

// However it comes that the other one looks at its copy again.
TEST_F(SessionReplicasTest, WhatAnotherReplicaDeletedAfterALapseStaysDeleted) {
  ReplicaOptions options;
  options.sessions.idle_to_park = std::chrono::seconds(10);
  const auto one = Make("one", options), two = Make("two");
  const std::vector<std::function<void(const std::string&)>> looks = {
      [&](const std::string& id) {
        EXPECT_TRUE(absl::IsNotFound(one->Say(id, 20, 5, 3)));
      },
      [&](const std::string& id) {
        EXPECT_TRUE(absl::IsNotFound(one->Park(id).status()));
      },
      [&](const std::string& id) {
        const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (one->Get(id).ok() && std::chrono::steady_clock::now() < limit) {
          one->sessions().Sweep();
        }
      },
      [&](const std::string& id) {
        const absl::Status deleted = one->Delete(id);
        EXPECT_TRUE(deleted.ok() || absl::IsNotFound(deleted)) << deleted;
      },
  };
  for (const auto& look : looks) {
    const std::string id = one->Create();
    ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
    ASSERT_TRUE(one->Park(id).ok());
    ASSERT_TRUE(one->Say(id, 20, 5, 2).ok());
    clock_.Advance(kLease + std::chrono::seconds(1));
    ASSERT_TRUE(two->store().Renew().ok());
    ASSERT_EQ(two->Delete(id), absl::OkStatus());
    ASSERT_TRUE(one->store().Renew().ok());
    look(id);
    EXPECT_TRUE(absl::IsNotFound(one->Get(id).status()));
    EXPECT_TRUE(absl::IsNotFound(two->Acquire(id).status()));
    EXPECT_EQ(medium_.size(), 0u);
  }
  EXPECT_EQ(one->sessions().stats().park_failures, 0u);
}

TEST_F(SessionReplicasTest, AStaleCopyThatExpiresLeavesWhatAnotherWrote) {
  ReplicaOptions options;
  options.sessions.time_to_live = std::chrono::seconds(20);
  const auto one = Make("one", options);
  const auto two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  ASSERT_TRUE(one->Say(id, 20, 5, 2).ok());
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(two->store().Renew().ok());
  ASSERT_TRUE(two->Say(id, 10, 5, 7).ok());
  ASSERT_TRUE(two->Park(id).ok());
  ASSERT_TRUE(one->store().Renew().ok());
  one->sessions().Sweep();
  EXPECT_EQ(one->sessions().stats().expired, 1u);
  EXPECT_EQ(one->sessions().stats().deleted, 0u);
  EXPECT_EQ(one->Get(id)->num_tokens, 40) << "as two has stored it";
}

TEST_F(SessionReplicasTest, AfterALapseWhatIsIdleIsParkedAllTheSame) {
  ReplicaOptions options;
  options.sessions.idle_to_park = std::chrono::seconds(10);
  const auto one = Make("one", options);
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(one->store().Renew().ok());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (medium_.size() == 0 && std::chrono::steady_clock::now() < limit) {
    one->sessions().Sweep();
  }
  EXPECT_EQ(medium_.GenerationOf(id), 1u);
}

TEST_F(SessionReplicasTest, ParkAllTakesItsTimeBetweenAttempts) {
  const auto one = Make("one");
  const std::string id = one->Create();
  clock_.Advance(kLease + std::chrono::seconds(1));
  medium_.Fail(true);
  EXPECT_EQ(one->sessions().ParkAll(std::chrono::steady_clock::now() +
                                    std::chrono::milliseconds(600)),
            1);
  EXPECT_GE(one->sessions().stats().park_failures, 1u);
  EXPECT_LE(one->sessions().stats().park_failures, 4u);
}

TEST_F(SessionReplicasTest, AClaimThatCouldNotBeGivenUpIsGivenUpLater) {
  const auto one = Make("one"), two = Make("two");
  for (const absl::Status& failure :
       {absl::UnavailableError("no answer"), absl::ResourceExhaustedError("no room")}) {
    const std::string id = one->Create();
    ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
    medium_.FailReleases(failure);
    ASSERT_TRUE(one->Park(id).ok());
    EXPECT_TRUE(absl::IsUnavailable(two->Say(id, 20, 5, 2)));
    medium_.FailReleases(absl::OkStatus());
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    absl::Status said;
    do {
      one->sessions().Sweep();
      said = two->Say(id, 20, 5, 2);
    } while (!said.ok() && std::chrono::steady_clock::now() < limit);
    EXPECT_TRUE(said.ok()) << failure << ": " << said;
  }
}

// The store has given the claim, and its answer did not come.
TEST_F(SessionReplicasTest, AClaimThatWasNotHeardOfIsGivenUp) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  const std::vector<std::function<absl::Status()>> calls = {
      [&] { return one->Acquire(id).status(); }, [&] { return one->Delete(id); }};
  for (const auto& call : calls) {
    const std::uint64_t epoch = medium_.EpochOf(id);
    medium_.LoseNextClaim();
    EXPECT_TRUE(absl::IsUnavailable(call()));
    EXPECT_EQ(medium_.EpochOf(id), epoch + 1) << "it was given";
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    UseOr use = absl::UnknownError("");
    do {
      one->sessions().Sweep();
      use = two->Acquire(id);
    } while (!use.ok() && std::chrono::steady_clock::now() < limit);
    ASSERT_TRUE(use.ok()) << use.status();
    (*use)->Release();
    ASSERT_TRUE(two->Park(id).ok());
  }
  // One that goes on with it here keeps it.
  medium_.LoseNextClaim();
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(id).status()));
  absl::Status said;
  do {
    said = one->Say(id, 20, 5, 2);
  } while (absl::IsUnavailable(said));  // a sweep may be giving it up just now
  ASSERT_EQ(said, absl::OkStatus());
  for (int i = 0; i < 10; ++i) one->sessions().Sweep();
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(id).status()));
  ASSERT_TRUE(one->Say(id, 20, 5, 3).ok());
  EXPECT_EQ(one->Park(id)->num_tokens, 75);
}

// Deleting is what makes room.
TEST_F(SessionReplicasTest, WhatIsHeldIsDeletedThoughTheStoreHasNoRoomForAClaim) {
  const auto one = Make("one");
  const std::string stored = one->Create(), fresh = one->Create();
  for (const std::string& id : {stored, fresh}) {
    ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  }
  ASSERT_TRUE(one->Park(stored).ok());
  ASSERT_TRUE(one->Say(stored, 20, 5, 2).ok());
  medium_.FailClaims(absl::ResourceExhaustedError("no room"));
  for (const std::string& id : {stored, fresh}) {
    EXPECT_EQ(one->Delete(id), absl::OkStatus());
    EXPECT_TRUE(absl::IsNotFound(one->Get(id).status()));
  }
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionReplicasTest, AClaimThatIsVoidIsMadeAnewToDelete) {
  const auto one = Make("one");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->store().Acquire(id, "a", AcquireMode::kNew).ok());
  EXPECT_EQ(one->Delete(id), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(one->Get(id).status()));
}

// The sweep parks a session, and a call parks it, too; what the call wrote is stored
// first. The sweep's write, which is old then, says nothing of the claim.
TEST_F(SessionReplicasTest, TwoParksOfOneSessionThatCrossLeaveNoClaim) {
  ReplicaOptions options;
  options.sessions.idle_to_park = std::chrono::seconds(10);
  options.sessions.max_image_bytes = 1000;
  const auto one = Make("one", options), two = Make("two");
  const std::string id = one->Create(), other = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Say(other, 20, 5, 1).ok());
  const UseOr use = one->Acquire(other);  // not parked by the sweep
  ASSERT_TRUE(use.ok());
  medium_.CrossNextPuts();
  clock_.Advance(std::chrono::seconds(11));
  one->sessions().Sweep();
  medium_.WaitForFirstPut();
  std::promise<absl::Status> parked;
  one->sessions().Park(
      "a", id, [&](const InfoOr& info) { parked.set_value(Detached(info.status())); });
  medium_.WaitForSecondPut();
  (*use)->Release();
  // There is room for this copy when that of the sweep is gone.
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!one->Export(other).ok() && std::chrono::steady_clock::now() < limit) {
    std::this_thread::yield();
  }
  medium_.LetSecondPutGo();
  EXPECT_EQ(parked.get_future().get(), absl::OkStatus());
  EXPECT_EQ(one->sessions().stats().park_failures, 0u);
  EXPECT_EQ(two->Say(id, 20, 5, 2), absl::OkStatus());
}

TEST_F(SessionReplicasTest, InterruptedCallsWaitForRoomToBeCopied) {
  ReplicaOptions options;
  options.sessions.max_image_bytes = 1;  // one at a time
  options.sessions.host_bytes = 1;
  const auto one = Make("one", options), two = Make("two");
  std::vector<std::shared_ptr<SessionUse>> uses;
  std::vector<std::future<absl::Status>> parked;
  for (std::uint64_t i = 0; i < 4; ++i) {
    uses.push_back(one->sessions().Anonymous("a"));
    ASSERT_NO_FATAL_FAILURE(one->RunInterrupted(*uses.back(), i));
    ASSERT_TRUE(uses.back()->interrupted());
  }
  medium_.HoldClaims();
  for (const auto& use : uses) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    parked.push_back(promise->get_future());
    one->sessions().ParkInterrupted(use, [promise](const absl::Status& status) {
      promise->set_value(Detached(status));
    });
  }
  medium_.WaitForHeldClaims(1);
  medium_.LetClaimsGo();
  for (std::size_t i = 0; i < uses.size(); ++i) {
    EXPECT_EQ(parked[i].get(), absl::OkStatus());
    EXPECT_TRUE(two->Acquire(uses[i]->id()).ok());
  }
  EXPECT_EQ(one->sessions().stats().park_failures, 0u);
}

// What is refused for want of room to copy it tells nothing of the store.
TEST_F(SessionReplicasTest, WithoutRoomToCopyNobodysParkingPauses) {
  ReplicaOptions options;
  options.sessions.max_image_bytes = 1;
  options.sessions.idle_to_park = std::chrono::seconds(10);
  const auto one = Make("one", options);
  const std::string first = one->Create(), second = one->Create();
  ASSERT_TRUE(one->Say(first, 20, 5, 1).ok());
  ASSERT_TRUE(one->Say(second, 20, 5, 1).ok());
  medium_.CrossNextPuts();
  std::promise<absl::Status> parked;
  one->sessions().Park(
      "a", first, [&](const InfoOr& info) { parked.set_value(Detached(info.status())); });
  medium_.WaitForFirstPut();
  EXPECT_TRUE(absl::IsResourceExhausted(one->Export(second).status()));
  clock_.Advance(std::chrono::seconds(11));
  one->sessions().Sweep();
  medium_.LetSecondPutGo();
  EXPECT_EQ(parked.get_future().get(), absl::OkStatus());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (one->Get(second)->place != SessionPlace::kParked &&
         std::chrono::steady_clock::now() < limit) {
    one->sessions().Sweep();
    std::this_thread::yield();
  }
  EXPECT_EQ(one->Get(second)->place, SessionPlace::kParked);
  EXPECT_EQ(one->sessions().stats().park_failures, 0u);
}

// Of the looks at the lease, each twelfth of it, each is followed by an attempt after a
// failure.
TEST_F(SessionReplicasTest, ARenewalThatFailedIsTriedAgainAtTheNextLook) {
  class Store final : public MemoryStore {
   public:
    using MemoryStore::MemoryStore;
    absl::Status Renew() override {
      absl::Status renewed = MemoryStore::Renew();
      const MutexLock lock(mu_);
      keeper_ = std::this_thread::get_id();
      attempts_.push_back(renewed.ok());
      looks_ = 0;
      changed_.NotifyAll();
      return renewed;
    }
    bool lease_is_good() const override {
      {
        const MutexLock lock(mu_);
        const bool waits = keeper_ == std::this_thread::get_id();
        if (waits && !attempts_.empty() && !attempts_.back() && ++looks_ > 1) {
          ++waits_after_failure_;
        }
      }
      return MemoryStore::lease_is_good();
    }
    void WaitForAttempts(std::size_t count) {
      const MutexLock lock(mu_);
      while (attempts_.size() < count) changed_.Wait(mu_);
    }
    int waits_after_failure() const {
      const MutexLock lock(mu_);
      return waits_after_failure_;
    }

   private:
    mutable Mutex mu_;
    CondVar changed_;
    std::thread::id keeper_ ABSL_GUARDED_BY(mu_);
    std::vector<bool> attempts_ ABSL_GUARDED_BY(mu_);
    mutable int looks_ ABSL_GUARDED_BY(mu_) = 0;  // since the last attempt
    mutable int waits_after_failure_ ABSL_GUARDED_BY(mu_) = 0;
  };
  RecordingObserver observer;
  FakeEngine engine{FakeEngineOptions()};
  Store store(medium_, "one", kLease);
  Scheduler scheduler(engine, {}, clock_, observer);
  SessionOptions options;
  options.lease = std::chrono::seconds(1);
  {
    SessionManager sessions(scheduler, engine, &store, clock_, options);
    medium_.FailRenewals(2);
    store.WaitForAttempts(4);  // at the start, two that fail, one that does not
    EXPECT_EQ(store.waits_after_failure(), 0);
    EXPECT_EQ(sessions.stats().lease_lapses, 0u);
  }
  scheduler.Shutdown();
}

TEST_F(SessionReplicasTest, AStoreThatLostItsMemoryDoesNotTakeSessionsAlong) {
  const auto one = Make("one");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  ASSERT_TRUE(one->Say(id, 20, 5, 2).ok());
  medium_.Forget();
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(one->store().Renew().ok());
  ASSERT_TRUE(one->Say(id, 20, 5, 3).ok());
  EXPECT_EQ(one->Get(id)->num_tokens, 75);
  const InfoOr parked = one->Park(id);
  EXPECT_TRUE(parked.ok()) << parked.status();
  EXPECT_EQ(one->Get(id)->num_tokens, 75);
}

TEST_F(SessionReplicasTest, ParkAllDoesNotWaitForCallsToParkTheRest) {
  const auto one = Make("one");
  std::vector<std::shared_ptr<SessionUse>> busy;
  for (int i = 0; i < 20; ++i) {
    one->Create();
    busy.push_back(*one->Acquire(one->Create()));
  }
  auto left = std::async(std::launch::async, [&] {
    return one->sessions().ParkAll(std::chrono::steady_clock::now() +
                                   std::chrono::seconds(60));
  });
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (medium_.size() < 20 && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(medium_.size(), 20u);
  EXPECT_EQ(left.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  const UseOr late =
      Await<UseOr>([&](auto done) { one->sessions().Create("a", std::move(done)); });
  EXPECT_TRUE(absl::IsUnavailable(late.status())) << "nobody would park it";
  busy.clear();
  EXPECT_EQ(left.get(), 0);
}

TEST_F(SessionReplicasTest, ALapseInWhichNobodyWroteLosesNothing) {
  const auto one = Make("one");
  const std::string id = one->Create(), stored = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Say(stored, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(stored).ok());
  ASSERT_TRUE(one->Say(stored, 20, 5, 2).ok());
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(one->store().Renew().ok());
  EXPECT_TRUE(one->Say(id, 10, 5, 2).ok());
  EXPECT_TRUE(one->Say(stored, 10, 5, 3).ok());
  EXPECT_EQ(one->Get(id)->num_tokens, 40);
  EXPECT_EQ(one->Get(stored)->num_tokens, 65);
  EXPECT_EQ(one->sessions().stats().stale, 0u);
}

// The lease keeper looks every lease / 12, which real time never reaches here; what it
// does is in the manager's own hands when a call comes.
TEST_F(SessionReplicasTest, InterruptedCallsAreParkedAndGoOnElsewhere) {
  const auto one = Make("one"), two = Make("two");
  for (const bool anonymous : {true, false}) {
    std::shared_ptr<SessionUse> use;
    if (anonymous) {
      use = one->sessions().Anonymous("a");
    } else {
      use = one->Acquire(one->Create()).value();
    }
    const Request request = one->RequestOn(*use, 20, 1000, 5);
    one->BlockInStep(8);
    const auto submission = one->scheduler().Submit(request);
    ASSERT_TRUE(submission.ok());
    one->InterruptInStep(submission->id);
    Reader reader(submission->stream);
    reader.TakeUntilEnd();
    ASSERT_TRUE(use->interrupted());
    EXPECT_GE(reader.tokens().size(), 5u);
    const std::string id = use->id();
    ASSERT_TRUE(IsSessionId(id));
    ASSERT_TRUE(Await<absl::Status>([&](auto done) {
                  one->sessions().ParkInterrupted(use, std::move(done));
                }).ok());
    // What is parked tells of it before anybody loads it.
    const InfoOr parked = two->Get(id);
    ASSERT_TRUE(parked.ok()) << parked.status();
    EXPECT_EQ(parked->place, SessionPlace::kParked);
    EXPECT_EQ(parked->num_generated, std::ssize(reader.tokens()));
    EXPECT_TRUE(parked->interrupted);

    const UseOr resumed = two->Acquire(id);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    ASSERT_TRUE((*resumed)->turn() != nullptr);
    Turn turn = *(*resumed)->turn();
    EXPECT_EQ(turn.num_generated, std::ssize(reader.tokens()));
    EXPECT_FALSE(turn.end.has_value());
    Request rest = request;
    rest.base = (*resumed)->kept();
    rest.prompt.clear();
    rest.num_generated = turn.num_generated;
    rest.on_end = (*resumed)->OnEnd(turn);
    const auto second = two->scheduler().Submit(rest);
    ASSERT_TRUE(second.ok()) << second.status();
    Reader more(second->stream);
    more.TakeUntilEnd();
    std::vector<TokenId> tokens = reader.tokens();
    tokens.insert(tokens.end(), more.tokens().begin(), more.tokens().end());
    EXPECT_EQ(tokens, FakeEngine::Expected(request.prompt, request.sampling, 1000));
    EXPECT_EQ(two->Get(id)->num_generated, 1000);
    EXPECT_FALSE(two->Get(id)->interrupted);
  }
}

TEST_F(SessionReplicasTest, InterruptedThatNobodyParksIsParkedAtTheEnd) {
  const auto one = Make("one");
  {
    const auto use = one->sessions().Anonymous("a");
    ASSERT_NO_FATAL_FAILURE(one->RunInterrupted(*use, 5));
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  EXPECT_EQ(one->sessions().ParkAll(deadline), 0);
  EXPECT_EQ(medium_.size(), 1u);
}

TEST_F(SessionReplicasTest, ParkAllParksEverythingThatIsIdle) {
  const auto one = Make("one"), two = Make("two");
  std::vector<std::string> ids;
  for (std::uint64_t i = 0; i < 100; ++i) {
    ids.push_back(one->Create());
    if (i > 0) {
      ASSERT_TRUE(one->Say(ids.back(), 10, 5, i).ok());
    }
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  EXPECT_EQ(one->sessions().ParkAll(deadline), 0);
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_TRUE(two->Say(ids[i], 10, 5, i + 500).ok());
  }
}

TEST_F(SessionReplicasTest, AStoreThatDoesNotAnswerHoldsUpNoEnd) {
  const auto one = Make("one");
  medium_.HoldClaims();
  std::promise<UseOr> created;
  one->sessions().Create("a", [&](UseOr use) { created.set_value(std::move(use)); });
  medium_.WaitForHeldClaims(1);
  one->sessions().LetGoOfStore(std::chrono::steady_clock::now());
  EXPECT_TRUE(absl::IsUnavailable(created.get_future().get().status()));
}

TEST_F(SessionReplicasTest, ParkAllGivesUpAtItsDeadline) {
  const auto one = Make("one");
  const std::string id = one->Create();
  medium_.Fail(true);
  EXPECT_EQ(one->sessions().ParkAll(std::chrono::steady_clock::now() +
                                    std::chrono::milliseconds(300)),
            1);
  medium_.Fail(false);
  // A try that was begun within the time may still have the session.
  absl::Status said = one->Say(id, 3, 3, 1);
  while (absl::IsFailedPrecondition(said)) said = one->Say(id, 3, 3, 1);
  EXPECT_EQ(said, absl::OkStatus());
}

// Three replicas, each with clients that grab the same few sessions, say something and
// park or not; leases lapse now and then, in the midst of it. What a client was told
// stays: a session's history is always that of the last acknowledged turn, or longer.
TEST_F(SessionReplicasTest, ReplicasThatRaceNeverBranchASession) {
  ReplicaOptions options;
  // Requests wait by the clock that makes leases lapse.
  options.scheduler.max_queue_time = std::chrono::hours(24);
  std::vector<std::unique_ptr<Replica>> replicas;
  for (const char* name : {"one", "two", "three"}) {
    replicas.push_back(Make(name, options));
  }
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) {
    ids.push_back(replicas[0]->Create());
    ASSERT_TRUE(replicas[0]->Say(ids.back(), 4, 1, 1).ok());
    ASSERT_TRUE(replicas[0]->Park(ids.back()).ok());
  }
  std::vector<std::atomic<std::int64_t>> acknowledged(ids.size());
  std::atomic<int> lapses = 0;
  std::vector<std::thread> clients;
  for (std::size_t c = 0; c < 6; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937_64 random(c);
      Replica& replica = *replicas[c % replicas.size()];
      for (int i = 0; i < 150; ++i) {
        const std::size_t s = random() % ids.size();
        if (random() % 40 == 0) {
          clock_.Advance(kLease + std::chrono::seconds(1));
          ++lapses;
        }
        // Turns that were acknowledged and parked before this one began.
        const std::int64_t before = acknowledged[s];
        const UseOr use = replica.Acquire(ids[s]);
        if (!use.ok()) {
          if (!replica.store().lease_is_good()) replica.store().Renew().IgnoreError();
          continue;
        }
        EXPECT_GE(std::ssize((*use)->kept()->history()), 5 + 2 * before);
        const Request request = replica.RequestOn(**use, 1, 1, random());
        const auto submission = replica.scheduler().Submit(request);
        if (!submission.ok()) continue;
        Reader reader(submission->stream);
        reader.TakeUntilEnd();
        EXPECT_EQ(reader.status(), absl::OkStatus());
        if (replica.Park(ids[s]).ok()) ++acknowledged[s];
      }
    });
  }
  for (std::thread& client : clients) client.join();
  for (std::size_t s = 0; s < ids.size(); ++s) {
    EXPECT_GT(acknowledged[s], 0);
  }
  EXPECT_GT(lapses, 5);
}

}  // namespace
}  // namespace goldfinch
