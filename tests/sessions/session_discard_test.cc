// Sessions whose maker left before it was told of them: whatever they are busy with then,
// none stays.
#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "sessions/session_manager.h"
#include "tests/sessions/replica.h"

namespace goldfinch {
namespace {

std::chrono::steady_clock::time_point Late() {
  return std::chrono::steady_clock::now() + std::chrono::seconds(20);
}

class SessionDiscardTest : public ReplicaTest {
 protected:
  std::string Session(Replica& replica) {
    const std::string id = replica.Create();
    EXPECT_EQ(replica.Say(id, 20, 5, 1), absl::OkStatus());
    return id;
  }
  // Parks it, and holds the write.
  std::future<absl::Status> BeginPark(Replica& replica, const std::string& id) {
    const auto promise = std::make_shared<std::promise<absl::Status>>();
    medium_.CrossNextPuts();
    replica.sessions().Park("a", id, [promise](const InfoOr& info) {
      promise->set_value(Detached(info.status()));
    });
    medium_.WaitForFirstPut();
    return promise->get_future();
  }
  void GoOnWithPark() { medium_.LetSecondPutGo(); }

  // Deletes are on threads of the manager's own; `deleted` is their number with this one.
  void ExpectGone(Replica& replica, const std::string& id, std::uint64_t deleted) {
    const auto limit = Late();
    while (replica.sessions().stats().deleted < deleted &&
           std::chrono::steady_clock::now() < limit) {
      std::this_thread::yield();
    }
    EXPECT_EQ(replica.sessions().stats().deleted, deleted);
    EXPECT_TRUE(absl::IsNotFound(replica.Get(id).status()));
    EXPECT_EQ(medium_.size(), 0u);
  }
};

TEST_F(SessionDiscardTest, WhatIsIdleGoesWhereverItIs) {
  const auto one = Make("one");
  std::uint64_t deleted = 0;
  for (const bool parked : {false, true}) {
    const std::string id = Session(*one);
    if (parked) {
      ASSERT_TRUE(one->Park(id).ok());
    }
    one->sessions().Discard("b", id);  // another tenant has no such session
    EXPECT_EQ(one->Get(id)->num_tokens, 25);
    one->sessions().Discard("a", id);
    ExpectGone(*one, id, ++deleted);
  }
}

TEST_F(SessionDiscardTest, WhatIsInUseGoesWhenItIsReleased) {
  const auto one = Make("one");
  const std::string id = Session(*one);
  const UseOr use = one->Acquire(id);
  ASSERT_TRUE(use.ok()) << use.status();
  one->sessions().Discard("a", id);
  one->sessions().Discard("a", id);
  EXPECT_TRUE(one->Get(id)->busy);
  (*use)->Release();
  ExpectGone(*one, id, 1);
}

TEST_F(SessionDiscardTest, WhatRunsGoesAtItsEnd) {
  const auto one = Make("one");
  std::uint64_t deleted = 0;
  for (const bool interrupted : {false, true}) {
    const UseOr use = one->TryCreate();
    ASSERT_TRUE(use.ok()) << use.status();
    const std::string id = (*use)->id();
    one->BlockInStep(3);
    const auto submission = one->scheduler().Submit(one->RequestOn(**use, 20, 50, 1));
    ASSERT_TRUE(submission.ok());
    one->engine().WaitUntilBlocked();
    one->sessions().Discard("a", id);
    EXPECT_TRUE(one->Get(id)->busy);
    if (interrupted) {
      one->InterruptInStep(submission->id);
    } else {
      one->engine().Release();
    }
    Reader(submission->stream).TakeUntilEnd();
    ASSERT_EQ((*use)->interrupted(), interrupted);
    if (interrupted) {
      EXPECT_TRUE(Await<absl::Status>([&](auto done) {
                    one->sessions().ParkInterrupted(*use, std::move(done));
                  }).ok());
    }
    ExpectGone(*one, id, ++deleted);
  }
}

TEST_F(SessionDiscardTest, WhatIsBeingParkedGoesAfterwards) {
  const auto one = Make("one");
  std::uint64_t deleted = 0;
  for (const absl::Status& put :
       {absl::OkStatus(), absl::UnavailableError("no answer")}) {
    const std::string id = Session(*one);
    std::future<absl::Status> parked = BeginPark(*one, id);
    one->sessions().Discard("a", id);
    EXPECT_TRUE(one->Get(id)->busy);
    medium_.FailPuts(put);
    GoOnWithPark();
    EXPECT_EQ(parked.get(), put);
    ExpectGone(*one, id, ++deleted);
    medium_.FailPuts(absl::OkStatus());
  }
}

// The server ends after this: who does not go now is there for good.
TEST_F(SessionDiscardTest, ParkAllWaitsUntilWhatItParksIsGone) {
  const auto one = Make("one");
  const std::string id = Session(*one);
  medium_.CrossNextPuts();
  auto left = std::async(std::launch::async, [&] { return one->sessions().ParkAll(Late()); });
  medium_.WaitForFirstPut();
  one->sessions().Discard("a", id);
  GoOnWithPark();
  EXPECT_EQ(left.get(), 0);
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionDiscardTest, WhatWasParkedByADrainGoesBeforeItsEnd) {
  const auto one = Make("one");
  const std::string id = Session(*one);
  ASSERT_EQ(one->sessions().ParkAll(Late()), 0);
  ASSERT_EQ(medium_.size(), 1u);
  one->sessions().Discard("a", id);
  EXPECT_EQ(one->sessions().ParkAll(Late()), 0);
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionDiscardTest, WithoutAStoreItGoesJustTheSame) {
  Replica one("one", nullptr, clock_);
  const std::string idle = Session(one), used = Session(one);
  one.sessions().Discard("a", idle);
  EXPECT_TRUE(absl::IsNotFound(one.Get(idle).status()));
  one.sessions().Discard("a", idle);
  const UseOr use = one.Acquire(used);
  ASSERT_TRUE(use.ok()) << use.status();
  one.sessions().Discard("a", used);
  EXPECT_TRUE(one.Get(used).ok());
  (*use)->Release();
  EXPECT_TRUE(absl::IsNotFound(one.Get(used).status()));
}

}  // namespace
}  // namespace goldfinch
