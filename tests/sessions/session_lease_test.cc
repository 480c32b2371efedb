// What the thread that renews the lease does when it finds that it has lapsed, or was
// lost: others may have what it held from then on, so calls that run stop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "sessions/session_manager.h"
#include "tests/sessions/replica.h"
#include "tests/sessions/warnings.h"

namespace goldfinch {
namespace {

using ThreadId = std::thread::id;

// Tells of the threads that ask it: the test's, which made it; the lease keeper, which
// renews; and the lapse watch.
class AskedStore final : public MemoryStore {
 public:
  using MemoryStore::MemoryStore;

  // From now on the lapse watch finds everything good, as if it had not looked yet.
  void HideFromWatch() {
    const MutexLock lock(mu_);
    while (keeper_ == ThreadId()) changed_.Wait(mu_);
    hides_ = true;
  }
  // The keeper's next look at the lease waits for `look`, and the renewal after that for
  // `renewal`; until both are done.
  void AtNextLookAndRenewal(std::function<void()> look, std::function<void()> renewal) {
    const MutexLock lock(mu_);
    before_look_ = std::move(look);
    before_renewal_ = std::move(renewal);
    while (before_renewal_ != nullptr) changed_.Wait(mu_);
  }
  // The keeper's next renewal finds no lease, and begins one: all claims are lost.
  void LoseLease() {
    const MutexLock lock(mu_);
    loses_lease_ = true;
  }
  // What the keeper asked first after that.
  std::string WaitForNextQuestion() {
    const MutexLock lock(mu_);
    while (!claims_lost_ || next_question_.empty()) changed_.Wait(mu_);
    return next_question_;
  }
  // Until both threads have seen the lease as it is now, and done what they do about it.
  void WaitForLooks(bool good) {
    const MutexLock lock(mu_);
    looks_.clear();
    while (NumThatLooked(good) < 2) changed_.Wait(mu_);
  }

  absl::Status Renew() override {
    std::function<void()> before;
    {
      const MutexLock lock(mu_);
      if (std::this_thread::get_id() != maker_) {
        keeper_ = std::this_thread::get_id();
        if (before_look_ == nullptr) before = before_renewal_;
        claims_lost_ = claims_lost_ || std::exchange(loses_lease_, false);
        changed_.NotifyAll();
      }
    }
    if (before != nullptr) {
      before();
      const MutexLock lock(mu_);
      before_renewal_ = nullptr;
      changed_.NotifyAll();
    }
    return MemoryStore::Renew();
  }
  bool lease_is_good() const override {
    std::function<void()> before;
    {
      const MutexLock lock(mu_);
      if (std::this_thread::get_id() == keeper_) before.swap(before_look_);
    }
    if (before != nullptr) before();
    const bool good = MemoryStore::lease_is_good();
    const MutexLock lock(mu_);
    Note("lease");
    if (std::this_thread::get_id() != maker_) ++looks_[std::this_thread::get_id()][good];
    changed_.NotifyAll();
    return good || IsHidden();
  }
  bool is_good(const Claim& claim) const override {
    const bool good = MemoryStore::is_good(claim);
    const MutexLock lock(mu_);
    Note("claim");
    return (good && !claims_lost_) || IsHidden();
  }

 private:
  // Of a thread's looks the first may have been begun before looks were counted; when it
  // looks again, it has done what it does about the one before.
  std::ptrdiff_t NumThatLooked(bool good) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return std::ranges::count_if(looks_, [good](const auto& of_thread) {
      const auto looks = of_thread.second.find(good);
      return looks != of_thread.second.end() && looks->second > 2;
    });
  }
  bool IsHidden() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const ThreadId caller = std::this_thread::get_id();
    return hides_ && caller != maker_ && caller != keeper_;
  }
  void Note(const char* question) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!claims_lost_ || std::this_thread::get_id() != keeper_) return;
    if (next_question_.empty()) next_question_ = question;
    changed_.NotifyAll();
  }

  const ThreadId maker_ = std::this_thread::get_id();
  mutable Mutex mu_;
  mutable CondVar changed_;
  ThreadId keeper_ ABSL_GUARDED_BY(mu_);
  bool hides_ ABSL_GUARDED_BY(mu_) = false;
  mutable std::function<void()> before_look_ ABSL_GUARDED_BY(mu_);
  std::function<void()> before_renewal_ ABSL_GUARDED_BY(mu_);
  bool loses_lease_ ABSL_GUARDED_BY(mu_) = false;
  bool claims_lost_ ABSL_GUARDED_BY(mu_) = false;
  mutable std::string next_question_ ABSL_GUARDED_BY(mu_);
  mutable std::map<ThreadId, std::map<bool, int>> looks_ ABSL_GUARDED_BY(mu_);
};

// One server, whose lease is looked at many times a second, by the machine's clock, and
// lasts by the test's. The test steps its scheduler.
class SessionLeaseTest : public ReplicaTest {
 protected:
  SessionLeaseTest() : store_(medium_, "one", kLease) {
    SessionOptions options;
    options.lease = std::chrono::seconds(1);
    options.warn = Warnings::Add;
    Warnings::Take();
    sessions_ =
        std::make_unique<SessionManager>(scheduler_, engine_, &store_, clock_, options);
  }
  ~SessionLeaseTest() override {
    use_ = nullptr;
    sessions_ = nullptr;
    scheduler_.Shutdown();
  }

  // A call that runs on a session.
  void Run() {
    const UseOr use =
        Await<UseOr>([&](auto done) { sessions_->Create("a", std::move(done)); });
    ASSERT_TRUE(use.ok()) << use.status();
    use_ = *use;
    Request request = Generation(20, 1000, 1);
    request.base = use_->kept();
    request.on_end = use_->OnEnd(Turn());
    const auto submission = scheduler_.Submit(std::move(request));
    ASSERT_TRUE(submission.ok()) << submission.status();
    use_->SetRequest(submission->id);
    for (int i = 0; i < 3; ++i) scheduler_.Step();
    ASSERT_FALSE(use_->interrupted());
  }
  void Lapse() { clock_.Advance(kLease + std::chrono::seconds(1)); }

  RecordingObserver observer_;
  FakeEngine engine_{FakeEngineOptions()};
  AskedStore store_;
  Scheduler scheduler_{engine_, {}, clock_, observer_};
  std::unique_ptr<SessionManager> sessions_;
  std::shared_ptr<SessionUse> use_;
};

// In a Redis the lease before goes with the renewal, and with it all that kept others.
TEST_F(SessionLeaseTest, CallsAreInterruptedBeforeALapsedLeaseIsRenewed) {
  ASSERT_NO_FATAL_FAILURE(Run());
  store_.HideFromWatch();
  bool interrupted = false;
  store_.AtNextLookAndRenewal([&] { Lapse(); },
                              [&] {
                                scheduler_.Step();
                                interrupted = use_->interrupted();
                              });
  EXPECT_TRUE(interrupted);
  EXPECT_EQ(sessions_->stats().lease_lapses, 1u);
}

TEST_F(SessionLeaseTest, CallsAreInterruptedWhenARenewalFindsTheLeaseLost) {
  ASSERT_NO_FATAL_FAILURE(Run());
  store_.HideFromWatch();
  store_.LoseLease();
  EXPECT_EQ(store_.WaitForNextQuestion(), "claim") << "not at its next look";
  store_.WaitForLooks(/*good=*/true);
  scheduler_.Step();
  EXPECT_TRUE(use_->interrupted());
}

// However long it lasts, and however often a renewal fails meanwhile.
TEST_F(SessionLeaseTest, ALapseIsToldWithItsReasonAndSoIsItsEnd) {
  EXPECT_EQ(sessions_->stats().lease_good, 1);
  medium_.FailRenewals(1000000);
  Lapse();
  store_.WaitForLooks(/*good=*/false);
  EXPECT_EQ(sessions_->stats().lease_good, 0);
  EXPECT_THAT(Warnings::Take(),
              testing::UnorderedElementsAre(
                  "the lease on sessions lapsed; calls on them are refused",
                  "the lease on sessions could not be renewed: no answer"));
  store_.WaitForLooks(/*good=*/false);
  EXPECT_THAT(Warnings::Take(), testing::IsEmpty());
  medium_.Fail(true);  // in another way
  store_.WaitForLooks(/*good=*/false);
  EXPECT_THAT(
      Warnings::Take(),
      testing::ElementsAre("the lease on sessions could not be renewed: the store "
                           "does not answer"));
  medium_.Fail(false);
  medium_.FailRenewals(0);
  store_.WaitForLooks(/*good=*/true);
  EXPECT_EQ(sessions_->stats().lease_good, 1);
  EXPECT_THAT(Warnings::Take(),
              testing::ElementsAre("the lease on sessions is good again"));
}

TEST_F(SessionLeaseTest, ALapseCountsOnceThoughTwoThreadsSeeIt) {
  for (std::uint64_t lapses = 1; lapses <= 2; ++lapses) {
    store_.WaitForLooks(/*good=*/true);
    medium_.FailRenewals(1000000);
    Lapse();
    store_.WaitForLooks(/*good=*/false);
    EXPECT_EQ(sessions_->stats().lease_lapses, lapses);
    medium_.FailRenewals(0);
  }
  store_.WaitForLooks(/*good=*/true);
  EXPECT_EQ(sessions_->stats().lease_lapses, 2u);
}

}  // namespace
}  // namespace goldfinch
