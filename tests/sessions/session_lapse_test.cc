// What a server does by itself about its lease: at the start, while it is good, and when
// it has lapsed with calls running.
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <utility>

#include "sessions/session_manager.h"
#include "tests/fakes/watched_store.h"
#include "tests/sessions/replica.h"

namespace goldfinch {
namespace {

constexpr int kAll = std::numeric_limits<int>::max();

class SessionLapseTest : public ReplicaTest {
 protected:
  // Looks at its lease many times a second, by the machine's clock; the lease itself
  // lasts by the test's.
  SessionLapseTest() {
    auto store = std::make_unique<WatchedStore>(medium_, "one", kLease);
    store_ = store.get();
    ReplicaOptions options;
    options.sessions.lease = std::chrono::seconds(1);
    one_ = std::make_unique<Replica>(std::move(store), clock_, options);
  }

  // The lease lapses, and what is to be done about it is done.
  void Lapse() {
    medium_.FailRenewals(kAll);
    clock_.Advance(kLease + std::chrono::seconds(1));
    store_->WaitForSecondBadLook();
  }

  std::unique_ptr<Replica> one_;
  WatchedStore* store_;
};

// Another replica may be going on with the session: a token more would be one that it
// does not know.
TEST_F(SessionLapseTest, ACallThatRunsWhenTheLeaseLapsesIsInterrupted) {
  const std::string id = one_->Create();
  ASSERT_TRUE(one_->Say(id, 20, 5, 1).ok());
  const UseOr use = one_->Acquire(id);
  ASSERT_TRUE(use.ok()) << use.status();
  one_->BlockInStep(3);
  const auto submission = one_->scheduler().Submit(one_->RequestOn(**use, 20, 1000, 5));
  ASSERT_TRUE(submission.ok());
  (*use)->SetRequest(submission->id);
  one_->engine().WaitUntilBlocked();
  Lapse();
  EXPECT_EQ(one_->sessions().stats().lease_lapses, 1u);
  one_->engine().Release();
  Reader reader(submission->stream);
  reader.TakeUntilEnd();
  EXPECT_EQ(reader.status(),
            absl::UnavailableError("this server's lease on the session lapsed"));
  EXPECT_LT(reader.tokens().size(), 5u);
  EXPECT_TRUE((*use)->interrupted());
  EXPECT_EQ(one_->sessions().stats().lease_lapses, 1u) << "however often it is looked at";
}

// One that is not bound to a session has nothing that another could go on with.
TEST_F(SessionLapseTest, ACallWithoutASessionRunsOn) {
  const auto use = one_->sessions().Anonymous("a");
  one_->BlockInStep(3);
  const Request request = one_->RequestOn(*use, 20, 100, 5);
  const auto submission = one_->scheduler().Submit(request);
  ASSERT_TRUE(submission.ok());
  use->SetRequest(submission->id);
  one_->engine().WaitUntilBlocked();
  Lapse();
  one_->engine().Release();
  Reader reader(submission->stream);
  reader.TakeUntilEnd();
  EXPECT_EQ(reader.status(), absl::OkStatus());
  EXPECT_EQ(reader.tokens(), FakeEngine::Expected(request.prompt, request.sampling, 100));
}

// Loading a model may take longer than a lease, which begins when the store is opened.
TEST_F(ReplicaTest, ALeaseThatLapsedBeforeTheStartIsRenewedAtOnce) {
  auto store = std::make_unique<MemoryStore>(medium_, "one", kLease);
  clock_.Advance(kLease + std::chrono::seconds(1));
  Replica one(std::move(store), clock_);
  EXPECT_TRUE(one.store().lease_is_good());
  EXPECT_EQ(one.TryCreate().status(), absl::OkStatus());
}

}  // namespace
}  // namespace goldfinch
