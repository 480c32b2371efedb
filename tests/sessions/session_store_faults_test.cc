// Stores that refuse one kind of call, or have something else than what was put there:
// whose sessions stay what they are.
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "sessions/session_manager.h"
#include "tests/sessions/replica.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

class SessionStoreFaultsTest : public ReplicaTest {
 protected:
  // Of two turns, of which the first is stored, too.
  std::string HeldAndStored(Replica& replica) {
    const std::string id = replica.Create();
    EXPECT_EQ(replica.Say(id, 20, 5, 1), absl::OkStatus());
    EXPECT_TRUE(replica.Park(id).ok());
    EXPECT_EQ(replica.Say(id, 20, 5, 2), absl::OkStatus());
    return id;
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

}  // namespace
}  // namespace goldfinch
