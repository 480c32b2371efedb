// Sessions that a store failed to delete, or deleted without our having heard of it: what
// is here afterwards is gone on with only if it still is the session.
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "sessions/session_manager.h"
#include "tests/sessions/replica.h"

namespace goldfinch {
namespace {

const absl::Status kNoAnswer = absl::UnavailableError("no answer");

class SessionDeleteTest : public ReplicaTest {
 protected:
  // Until what has the session lets go of it.
  static absl::Status SayWhenItIsFree(Replica& replica, const std::string& id) {
    absl::Status said = replica.Say(id, 20, 5, 3);
    while (absl::IsFailedPrecondition(said)) {
      std::this_thread::yield();
      said = replica.Say(id, 20, 5, 3);
    }
    return said;
  }
};

TEST_F(SessionDeleteTest, WhatWasNotDeletedGoesOnAndIsDeletedLater) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = HeldAndStored(*one);
  medium_.FailDeletes(kNoAnswer);
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(id).status())) << "one has it still";
  EXPECT_EQ(one->Say(id, 20, 5, 3), absl::OkStatus());
  EXPECT_EQ(one->Get(id)->num_tokens, 75);
  EXPECT_EQ(one->sessions().stats().stale, 0u);
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  medium_.FailDeletes(absl::OkStatus());
  EXPECT_EQ(one->Delete(id), absl::OkStatus());
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionDeleteTest, WhatWasDeletedUnheardIsNotGoneOnWith) {
  const auto one = Make("one"), two = Make("two");
  for (const bool again : {false, true}) {
    const std::string id = HeldAndStored(*one);
    medium_.LoseNextDelete();
    EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
    if (again) {
      EXPECT_EQ(one->Delete(id), absl::OkStatus());
    }
    EXPECT_TRUE(absl::IsNotFound(one->Say(id, 20, 5, 3)));
    EXPECT_TRUE(absl::IsNotFound(one->Get(id).status()));
    EXPECT_TRUE(absl::IsNotFound(two->Acquire(id).status()));
    EXPECT_EQ(medium_.size(), 0u);
  }
}

// There was only a claim to delete: nobody else has ever had the session.
TEST_F(SessionDeleteTest, WhatWasNeverStoredIsClaimedAnew) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = one->Create();
  ASSERT_EQ(one->Say(id, 20, 5, 1), absl::OkStatus());
  medium_.LoseNextDelete();
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  EXPECT_EQ(one->Say(id, 20, 5, 2), absl::OkStatus());
  EXPECT_EQ(one->Get(id)->num_tokens, 50);
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(id).status())) << "held by one";
}

// To delete a session that another has gone on with, it is claimed; the copy that is here
// becomes no better by that.
TEST_F(SessionDeleteTest, AStaleCopyIsNotGoneOnWithAfterADeleteThatFailed) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = HeldAndStored(*one);
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(two->store().Renew().ok());
  ASSERT_EQ(two->Say(id, 10, 5, 7), absl::OkStatus());
  ASSERT_EQ(two->Park(id)->num_tokens, 40);
  ASSERT_TRUE(one->store().Renew().ok());
  medium_.FailDeletes(kNoAnswer);
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  ASSERT_EQ(two->Say(id, 10, 5, 8), absl::OkStatus()) << "the claim was given up";
  EXPECT_TRUE(absl::IsUnavailable(one->Say(id, 10, 5, 9)));
  ASSERT_EQ(two->Park(id)->num_tokens, 55);
  EXPECT_EQ(one->Say(id, 10, 5, 9), absl::OkStatus());
  EXPECT_EQ(one->Get(id)->num_tokens, 70);
  EXPECT_EQ(one->sessions().stats().stale, 1u);
}

// Nobody went on with it, so the claim made to delete it is as good as the one before.
TEST_F(SessionDeleteTest, AfterALapseADeleteThatFailedLosesNothing) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = HeldAndStored(*one);
  clock_.Advance(kLease + std::chrono::seconds(1));
  ASSERT_TRUE(one->store().Renew().ok());
  ASSERT_TRUE(two->store().Renew().ok());
  medium_.FailDeletes(kNoAnswer);
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(id).status())) << "one has it still";
  EXPECT_EQ(one->Say(id, 20, 5, 3), absl::OkStatus());
  EXPECT_EQ(one->Get(id)->num_tokens, 75);
}

// Another claim might need room that a full store does not have.
TEST_F(SessionDeleteTest, ADeleteThatFailedIsTriedAgainUnderTheSameClaim) {
  const auto one = Make("one");
  const std::string id = HeldAndStored(*one);
  medium_.FailDeletes(kNoAnswer);
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  medium_.FailDeletes(absl::OkStatus());
  medium_.FailClaims(absl::ResourceExhaustedError("no room"));
  EXPECT_EQ(one->Delete(id), absl::OkStatus());
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionDeleteTest, WhatExpiredUnheardIsNotGoneOnWith) {
  ReplicaOptions options;
  options.sessions.time_to_live = std::chrono::seconds(20);
  const auto one = Make("one", options);
  const std::string id = HeldAndStored(*one);
  medium_.LoseNextDelete();
  clock_.Advance(std::chrono::seconds(21));
  one->sessions().Sweep();
  EXPECT_TRUE(absl::IsNotFound(SayWhenItIsFree(*one, id)));
  EXPECT_EQ(medium_.size(), 0u);
}

// If it were only forgotten, the claim would keep the stored one for as long as this
// server lives.
TEST_F(SessionDeleteTest, WhatADeleteFailedToRemoveExpiresFromTheStoreAsWell) {
  ReplicaOptions options;
  options.sessions.time_to_live = std::chrono::seconds(20);
  const auto one = Make("one", options);
  const std::string id = HeldAndStored(*one);
  medium_.FailDeletes(kNoAnswer);
  EXPECT_TRUE(absl::IsUnavailable(one->Delete(id)));
  medium_.FailDeletes(absl::OkStatus());
  clock_.Advance(std::chrono::seconds(21));
  one->sessions().Sweep();
  EXPECT_TRUE(absl::IsNotFound(SayWhenItIsFree(*one, id)));
  EXPECT_EQ(medium_.size(), 0u);
}

}  // namespace
}  // namespace goldfinch
