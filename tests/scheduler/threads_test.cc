// The step thread among submitting, cancelling and reading threads; for TSan above all.
// Nothing here waits by sleeping: readers block on their streams.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler/inbox.h"
#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::milliseconds;

class ThreadsTest : public ::testing::Test {
 protected:
  // Starts the scheduler with a request whose first step then stays in the engine until
  // that is released.
  absl::StatusOr<Scheduler::Submission> StartBlocked(Scheduler& scheduler,
                                                     Request request) {
    engine.BlockForward();
    scheduler.Start();
    auto submission = scheduler.Submit(std::move(request));
    if (submission.ok()) engine.WaitUntilBlocked();
    return submission;
  }

  FakeEngine engine;
  SteadyClock clock;
  SchedulerObserver observer;
  SchedulerOptions options;
};

TEST_F(ThreadsTest, ASleepingSchedulerWakesForARequest) {
  Scheduler scheduler(engine, options, clock, observer);
  scheduler.Start();
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Request request = Generation(5, 3, seed);
    auto submission = scheduler.Submit(request);
    ASSERT_TRUE(submission.ok());
    Reader reader(submission->stream);
    reader.TakeUntilEnd();  // until then the scheduler has gone back to sleep, or is
                            // about to
    EXPECT_EQ(reader.tokens(), ExpectedTokens(request));
  }
}

TEST_F(ThreadsTest, ASleepingSchedulerWakesForAReaderThatMadeRoom) {
  options.stream_buffer_tokens = 1;
  Scheduler scheduler(engine, options, clock, observer);
  scheduler.Start();
  const Request request = Generation(5, 200);
  auto submission = scheduler.Submit(request);
  ASSERT_TRUE(submission.ok());
  Reader reader(submission->stream);
  reader.TakeUntilEnd();
  EXPECT_EQ(reader.tokens(), ExpectedTokens(request));
}

// Fulfils a promise when its candidate, and so the request, is gone: for a reader that
// takes nothing before.
class GoneSignal final : public StopCondition {
 public:
  explicit GoneSignal(std::shared_ptr<std::promise<void>> gone)
      : gone_(std::move(gone)) {}
  ~GoneSignal() override { gone_->set_value(); }
  int Push(TokenId) override { return -1; }

 private:
  // Shared: set_value may still be returning when the waiting thread is done.
  const std::shared_ptr<std::promise<void>> gone_;
};

// Runs a request that nobody reads, on a stream of one token, until it is gone.
absl::Status StatusUnread(Scheduler& scheduler, Request request) {
  auto gone = std::make_shared<std::promise<void>>();
  request.make_stop_condition = [gone] { return std::make_unique<GoneSignal>(gone); };
  auto submission = scheduler.Submit(std::move(request));
  if (!submission.ok()) return submission.status();
  gone->get_future().wait();
  Reader reader(submission->stream);
  reader.TakeUntilEnd();
  return reader.status();
}

TEST_F(ThreadsTest, ASleepingSchedulerWakesToEndASlowReader) {
  options.stream_buffer_tokens = 1;
  options.slow_reader = milliseconds(20);
  Scheduler scheduler(engine, options, clock, observer);
  scheduler.Start();
  EXPECT_TRUE(absl::IsAborted(StatusUnread(scheduler, Generation(5, 200))));
}

TEST_F(ThreadsTest, ASleepingSchedulerWakesForTheDeadlineOfAPausedRequest) {
  options.stream_buffer_tokens = 1;
  Scheduler scheduler(engine, options, clock, observer);
  scheduler.Start();
  Request request = Generation(5, 200);
  // Long enough to be admitted in on a busy machine; late in any case it is.
  request.deadline = clock.Now() + milliseconds(500);
  EXPECT_TRUE(absl::IsDeadlineExceeded(StatusUnread(scheduler, request)));
}

TEST_F(ThreadsTest, ASleepingSchedulerWakesForADeadlineInTheQueue) {
  options.stream_buffer_tokens = 1;
  FakeEngine narrow({.num_slots = 1});
  Scheduler scheduler(narrow, options, clock, observer);
  scheduler.Start();
  auto paused = scheduler.Submit(Generation(5, 200, 1));  // keeps the only slot
  ASSERT_TRUE(paused.ok());
  Request request = Generation(5, 200, 2);
  // Long enough to be accepted in on a busy machine; it never runs.
  request.deadline = clock.Now() + milliseconds(500);
  auto late = scheduler.Submit(request);
  ASSERT_TRUE(late.ok());
  Reader reader(late->stream);
  reader.TakeUntilEnd();
  EXPECT_TRUE(absl::IsDeadlineExceeded(reader.status()));
}

// Lets a thread wait for what the levels say at the end of a step, and for how many steps
// they have said the same about requests and pages.
class LevelsObserver final : public SchedulerObserver {
 public:
  void OnLevels(const SchedulerLevels& levels) override {
    const MutexLock lock(mu_);
    const bool same = levels.running_requests == levels_.running_requests &&
                      levels.engine.pages_used == levels_.engine.pages_used;
    steps_ = same ? steps_ + 1 : 1;
    levels_ = levels;
    changed_.NotifyAll();
  }

  // False when that has not come true after a long time.
  bool WaitUntil(const std::function<bool(const SchedulerLevels&, int steps)>& is_true) {
    const TimePoint limit = SteadyClock().Now() + std::chrono::seconds(20);
    const MutexLock lock(mu_);
    while (!is_true(levels_, steps_)) {
      if (!changed_.WaitUntil(mu_, limit)) return is_true(levels_, steps_);
    }
    return true;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  SchedulerLevels levels_ ABSL_GUARDED_BY(mu_);
  int steps_ ABSL_GUARDED_BY(mu_) = 0;
};

// Another thread lets go, or the step thread itself; after the one step that follows a
// request's end in any case.
TEST_F(ThreadsTest, ASleepingSchedulerWakesToFreeWhatWasLetGo) {
  LevelsObserver levels;
  std::shared_ptr<KeptPrefix> kept;
  {
    Scheduler scheduler(engine, options, clock, levels);
    scheduler.Start();
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      Request request = Generation(40, 3, seed);
      request.on_end = [&](RequestEnd end) { kept = std::move(end.kept); };
      const auto submission = scheduler.Submit(request);
      ASSERT_TRUE(submission.ok());
      Reader reader(submission->stream);
      reader.TakeUntilEnd();
      ASSERT_NE(kept, nullptr);
      ASSERT_TRUE(levels.WaitUntil([](const SchedulerLevels& now, int steps) {
        return now.running_requests == 0 && now.engine.pages_used > 0 && steps >= 2;
      }));
      if (seed % 2 == 0) {
        kept.reset();
      } else {
        scheduler.ListRequests({}, [&](auto) { kept.reset(); });
      }
      ASSERT_TRUE(levels.WaitUntil([](const SchedulerLevels& now, int) {
        return now.engine.pages_used == 0;
      })) << seed;
    }
  }
}

// A wake that outlived its Wait would make the idle step thread spin.
TEST(InboxTest, AWakeEndsOneWaitAndTheNextSleepsItsTime) {
  Inbox inbox({.requests = 1, .tokens = 1});
  inbox.Wake();
  inbox.Wait(std::nullopt);
  const TimePoint until = SteadyClock().Now() + milliseconds(20);
  inbox.Wait(until);
  EXPECT_GE(SteadyClock().Now(), until);
}

TEST_F(ThreadsTest, CancelReachesARequestWhoseStepIsRunning) {
  Scheduler scheduler(engine, options, clock, observer);
  const auto submission = StartBlocked(scheduler, Generation(5, 200));
  ASSERT_TRUE(submission.ok());
  scheduler.Cancel(submission->id);
  engine.Release();
  Reader reader(submission->stream);
  reader.TakeUntilEnd();
  EXPECT_TRUE(absl::IsCancelled(reader.status()));
  EXPECT_EQ(reader.tokens().size(), 1u);
}

// Who watches the levels sees that something runs, and by the steps that nothing comes of
// it.
TEST_F(ThreadsTest, ADeviceThatHangsInTheFirstStepLeavesARequestThatRuns) {
  RecordingObserver seen;
  Scheduler scheduler(engine, options, clock, seen);
  const auto submission = StartBlocked(scheduler, Generation(5, 3));
  ASSERT_TRUE(submission.ok());
  EXPECT_EQ(seen.levels.running_requests, 1);
  EXPECT_TRUE(seen.steps.empty());
  engine.Release();
  Reader reader(submission->stream);
  reader.TakeUntilEnd();
  EXPECT_TRUE(reader.status().ok());
}

TEST_F(ThreadsTest, ShutdownWaitsForTheStepThatRuns) {
  Scheduler scheduler(engine, options, clock, observer);
  const auto running = StartBlocked(scheduler, Generation(5, 200));
  ASSERT_TRUE(running.ok());
  std::thread first([&] { scheduler.Shutdown(); });
  std::thread second([&] { scheduler.Shutdown(); });
  while (!absl::IsUnavailable(scheduler.Submit(Generation(5, 1)).status())) {
  }
  engine.Release();
  first.join();
  second.join();
  Reader reader(running->stream);
  reader.TakeUntilEnd();
  EXPECT_TRUE(absl::IsUnavailable(reader.status()));
  EXPECT_EQ(engine.usage().slots_used, 0);
  EXPECT_EQ(engine.usage().pages_used, 0);
}

TEST_F(ThreadsTest, AStreamMayBeReadAfterItsSchedulerIsGone) {
  std::shared_ptr<TokenStream> stream;
  {
    options.stream_buffer_tokens = 1;
    Scheduler scheduler(engine, options, clock, observer);
    stream = scheduler.Submit(Generation(5, 200))->stream;
    while (scheduler.Step()) {
    }
  }
  Reader reader(stream);
  reader.Take();
  EXPECT_TRUE(absl::IsUnavailable(reader.status()));
  EXPECT_EQ(reader.tokens().size(), 1u);
}

// Counts with no lock: OnRefused runs on submitting threads.
class CountingObserver final : public SchedulerObserver {
 public:
  void OnFinished(const RequestReport&) override { ++finished; }
  void OnRefused(const absl::Status&) override { ++refused; }
  std::atomic<int> finished = 0;
  std::atomic<int> refused = 0;
};

// One caller of many: submits, reads to the end, and has one in four of its requests
// cancelled by another thread meanwhile.
void CallAgainAndAgain(Scheduler& scheduler, std::uint64_t first_seed, int count) {
  for (int i = 0; i < count; ++i) {
    Request request =
        Generation(1 + i, 1 + (i * 7) % 30, first_seed + static_cast<std::uint64_t>(i));
    request.num_candidates = 1 + i % 3;
    const bool cancels = i % 4 == 0;
    auto submission = scheduler.Submit(request);
    ASSERT_TRUE(submission.ok()) << submission.status();
    Reader reader(submission->stream);
    std::thread canceller;
    if (cancels) canceller = std::thread([&] { scheduler.Cancel(submission->id); });
    reader.TakeUntilEnd();
    if (canceller.joinable()) canceller.join();
    if (!reader.status().ok()) {
      EXPECT_TRUE(cancels && absl::IsCancelled(reader.status()));
      continue;
    }
    for (std::int32_t c = 0; c < request.num_candidates; ++c) {
      EXPECT_EQ(reader.tokens(c), ExpectedTokens(request, c));
    }
  }
}

// Of an engine that runs ahead, or does not.
class RunsAheadOrNotTest : public ThreadsTest,
                           public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(RunsAhead, RunsAheadOrNotTest, testing::Bool());

TEST_P(RunsAheadOrNotTest, SubmittersCancellersAndReadersTogether) {
  constexpr int kThreads = 6;
  constexpr int kRequests = 40;
  options.step_tokens = 64;
  options.stream_buffer_tokens = GetParam() ? 16 : 4;
  FakeEngine small({.num_pages = 100, .num_slots = 16, .runs_ahead = GetParam()});
  CountingObserver counts;
  {
    Scheduler scheduler(small, options, clock, counts);
    scheduler.Start();
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      const auto first_seed = static_cast<std::uint64_t>(t * kRequests);
      threads.emplace_back(CallAgainAndAgain, std::ref(scheduler), first_seed, kRequests);
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(counts.finished, kThreads * kRequests);
  EXPECT_EQ(counts.refused, 0);
  EXPECT_EQ(small.usage().slots_used, 0);
  EXPECT_EQ(small.usage().pages_used, 0);
  EXPECT_EQ(small.num_queued_next() > 0, GetParam());
}

TEST_P(RunsAheadOrNotTest, CallbackReadersGetEverythingAndTheEnd) {
  options.stream_buffer_tokens = 2;
  FakeEngine either({.runs_ahead = GetParam()});
  Scheduler scheduler(either, options, clock, observer);
  scheduler.Start();
  struct CallbackReader {
    std::shared_ptr<TokenStream> stream;
    std::promise<void> ended;
    std::atomic<std::int64_t> tokens = 0;
  };
  std::vector<std::unique_ptr<CallbackReader>> readers;
  for (std::uint64_t seed = 0; seed < 32; ++seed) {
    auto submission = scheduler.Submit(Generation(5, 50, seed));
    ASSERT_TRUE(submission.ok());
    readers.push_back(std::make_unique<CallbackReader>());
    CallbackReader& reader = *readers.back();
    reader.stream = submission->stream;
    reader.stream->SetReadyCallback([&reader] {
      const TokenStream::Batch batch = reader.stream->Take();
      for (const StreamEvent& event : batch.events) {
        if (event.kind == StreamEvent::Kind::kToken) ++reader.tokens;
      }
      if (batch.end) reader.ended.set_value();
    });
  }
  for (auto& reader : readers) {
    reader->ended.get_future().wait();
    reader->stream->SetReadyCallback(nullptr);
    EXPECT_EQ(reader->tokens, 50);
  }
}

}  // namespace
}  // namespace goldfinch
