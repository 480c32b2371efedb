#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;

TEST_F(SchedulerTest, NothingToDoIsNoStep) {
  EXPECT_FALSE(Step());
  ExpectAtRest();
}

TEST_F(SchedulerTest, ARequestGetsItsTokensAndOneEnd) {
  const Request request = Generation(10, 5);
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
  ASSERT_TRUE(call.reader.candidates[0].finished);
  EXPECT_EQ(call.reader.candidates[0].finished->finish_reason, FinishReason::kLength);
  EXPECT_EQ(engine().num_forwards(), 5);
  ExpectAtRest();
}

TEST_F(SchedulerTest, APromptIsCutByTheBudgetWithoutChangingTheOutput) {
  for (const std::int64_t budget : {1, 3, 7, 100, 101, 512}) {
    options.step_tokens = budget;
    FakeEngine fake;
    Scheduler cut(fake, options, clock, observer);
    const Request request = Generation(100, 4);
    auto submission = cut.Submit(request);
    ASSERT_TRUE(submission.ok());
    Reader reader(submission->stream);
    while (cut.Step()) {
    }
    reader.Take();
    EXPECT_EQ(reader.tokens(), ExpectedTokens(request)) << "budget " << budget;
    EXPECT_EQ(fake.num_forwards(), (100 + budget - 1) / budget + 3);
  }
}

TEST_F(SchedulerTest, AStepIsNeverLargerThanTheEngineTakes) {
  engine_options.max_step_tokens = 8;  // the fake CHECKs it
  const Request request = Generation(100, 4);
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
}

TEST_F(SchedulerTest, ALongPromptNeverStallsStreams) {
  options.step_tokens = 16;
  Submitted stream = Submit(Generation(4, 60, 1));
  Step();
  Submitted long_prompt = Submit(Generation(800, 2, 2));
  for (std::size_t tokens = 2; tokens <= 40; ++tokens) {
    Step();
    stream.reader.Take();
    EXPECT_EQ(stream.reader.tokens().size(), tokens);
    EXPECT_EQ(observer.steps.back().decode_tokens, 1);
    EXPECT_EQ(observer.steps.back().prompt_tokens, 15);
  }
  RunUntilIdle();
  long_prompt.reader.Take();
  EXPECT_TRUE(long_prompt.reader.status().ok());
}

TEST_F(SchedulerTest, EqualPrioritiesAreFirstComeFirstServed) {
  engine_options.num_slots = 1;
  std::vector<Submitted> calls;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    calls.push_back(Submit(Generation(3, 2, seed)));
  }
  for (std::size_t i = 0; i < calls.size(); ++i) {
    Step();
    Step();
    for (std::size_t j = 0; j < calls.size(); ++j) {
      calls[j].reader.Take();
      EXPECT_EQ(calls[j].reader.ended(), j <= i);
    }
  }
  ExpectAtRest();
}

TEST_F(SchedulerTest, AHigherPriorityIsServedFirst) {
  engine_options.num_slots = 1;
  Request urgent = Generation(3, 1, 9);
  urgent.priority = 5;
  Submitted low = Submit(Generation(3, 1, 8));
  Submitted high = Submit(urgent);
  Step();
  low.reader.Take();
  high.reader.Take();
  EXPECT_TRUE(high.reader.ended());
  EXPECT_FALSE(low.reader.ended());
  RunUntilIdle();
  low.reader.Take();
  EXPECT_TRUE(low.reader.ended());
}

TEST_F(SchedulerTest, WhatDoesNotFitWaitsForMemory) {
  engine_options.num_pages = 4;
  Submitted first = Submit(Generation(30, 3, 1));   // 2 pages
  Submitted large = Submit(Generation(40, 20, 2));  // 4 pages
  Submitted small = Submit(Generation(1, 1, 3));    // fits, and does not overtake
  Step();
  EXPECT_EQ(observer.levels.waiting_requests, 2);
  EXPECT_EQ(observer.levels.waiting_tokens, 41);
  EXPECT_EQ(observer.levels.engine.pages_used, 2);
  RunUntilIdle();
  for (Submitted* call : {&first, &large, &small}) {
    call->reader.Take();
    EXPECT_TRUE(call->reader.status().ok());
  }
  ExpectAtRest();
}

TEST_F(SchedulerTest, WhatCouldNeverRunIsRefusedAtOnce) {
  engine_options.num_pages = 4;
  const auto refused = scheduler().Submit(Generation(100, 1));
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status()));
  EXPECT_THAT(observer.refused, ElementsAre(refused.status()));
  EXPECT_TRUE(observer.finished.empty());
  EXPECT_FALSE(Step());
}

TEST_F(SchedulerTest, AFullQueueRefusesByRequests) {
  options.max_queued_requests = 2;
  Submitted a = Submit(Generation(3, 1));
  Submitted b = Submit(Generation(3, 1));
  const auto refused = scheduler().Submit(Generation(3, 1));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(refused.status().message(), "2 requests are waiting; the limit is 2");
  Step();  // admits both: the queue is empty again
  Submitted c = Submit(Generation(3, 1));
  RunUntilIdle();
  c.reader.Take();
  EXPECT_TRUE(c.reader.status().ok());
}

TEST_F(SchedulerTest, AFullQueueRefusesByTokens) {
  options.max_queued_tokens = 100;
  Submitted a = Submit(Generation(60, 1));
  const auto refused = scheduler().Submit(Generation(50, 1));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(refused.status().message(),
            "60 prompt tokens are waiting and this request has 50; the limit is 100");
  Submitted b = Submit(Generation(40, 1));
  RunUntilIdle();
  // An empty queue takes a prompt of any length that can run.
  Submitted c = Submit(Generation(200, 1));
  RunUntilIdle();
  c.reader.Take();
  EXPECT_TRUE(c.reader.status().ok());
}

TEST_F(SchedulerTest, WhatLeftTheQueueInAnyWayMakesRoomInIt) {
  options.max_queued_requests = 1;
  engine_options.num_slots = 1;
  Submitted running = Submit(Generation(3, 50));
  Step();
  Submitted cancelled = Submit(Generation(3, 1));
  scheduler().Cancel(cancelled.id);
  Step();
  Request late = Generation(3, 1);
  late.deadline = clock.Now() + seconds(1);
  Submitted expired = Submit(late);
  clock.Advance(seconds(2));
  Step();
  Submitted last = Submit(Generation(3, 1));
  RunUntilIdle();
  last.reader.Take();
  EXPECT_TRUE(last.reader.status().ok());
}

TEST_F(SchedulerTest, ADeadlinePassedOnArrivalIsRefused) {
  Request request = Generation(3, 1);
  request.deadline = clock.Now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(scheduler().Submit(request).status()));
}

TEST_F(SchedulerTest, ADeadlinePassedInTheQueueUsesNoStep) {
  Request request = Generation(3, 1);
  request.deadline = clock.Now() + seconds(5);
  Submitted call = Submit(request);
  clock.Advance(seconds(5));
  EXPECT_FALSE(Step());
  call.reader.Take();
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.reader.status()));
  EXPECT_EQ(engine().num_forwards(), 0);
  ExpectAtRest();
}

TEST_F(SchedulerTest, ADeadlinePassedWhileRunningFreesItsMemory) {
  Request request = Generation(3, 100);
  request.deadline = clock.Now() + seconds(5);
  Submitted call = Submit(request);
  Submitted other = Submit(Generation(5, 4, 2));
  Step();
  clock.Advance(seconds(6));
  Step();
  call.reader.Take();
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.reader.status()));
  EXPECT_EQ(call.reader.tokens().size(), 1u);
  EXPECT_EQ(engine().usage().slots_used, 1);
  RunUntilIdle();
  other.reader.Take();
  EXPECT_EQ(other.reader.tokens(), ExpectedTokens(Generation(5, 4, 2)));
  ExpectAtRest();
}

TEST_F(SchedulerTest, CancelledInTheInboxOrTheQueueUsesNoStep) {
  engine_options.num_slots = 1;
  Submitted inbox = Submit(Generation(3, 1));
  scheduler().Cancel(inbox.id);
  EXPECT_FALSE(Step());
  inbox.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(inbox.reader.status()));

  Submitted running = Submit(Generation(3, 3));
  Submitted queued = Submit(Generation(3, 3));
  Step();
  scheduler().Cancel(queued.id);
  RunUntilIdle();
  queued.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(queued.reader.status()));
  EXPECT_EQ(engine().num_forwards(), 3);
  ExpectAtRest();
}

TEST_F(SchedulerTest, CancelledRequestFreesItsPagesOnTheNextStep) {
  options.step_tokens = 8;
  Submitted prompt = Submit(Generation(30, 3));  // cancelled in the middle of its prompt
  Step();
  EXPECT_EQ(engine().usage().pages_used, 2);
  scheduler().Cancel(prompt.id);
  EXPECT_FALSE(Step());
  ExpectAtRest();
  prompt.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(prompt.reader.status()));

  Submitted decoding = Submit(Generation(3, 30));
  Step();
  Step();
  scheduler().Cancel(decoding.id);
  EXPECT_FALSE(Step());
  ExpectAtRest();
  decoding.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(decoding.reader.status()));
  EXPECT_EQ(decoding.reader.tokens().size(), 2u);
}

TEST_F(SchedulerTest, CancellingWhatHasEndedIsNothing) {
  Submitted call = Submit(Generation(3, 1));
  RunUntilIdle();
  scheduler().Cancel(call.id);
  scheduler().Cancel(call.id);
  scheduler().Cancel(RequestId{12345});
  EXPECT_FALSE(Step());
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
  EXPECT_EQ(observer.finished.size(), 1u);
}

TEST_F(SchedulerTest, ShutdownEndsEveryRequestOnce) {
  engine_options.num_slots = 1;
  Submitted running = Submit(Generation(3, 30));
  Submitted queued = Submit(Generation(3, 30));
  Step();
  Submitted inbox = Submit(Generation(3, 30));
  scheduler().Shutdown();
  scheduler().Shutdown();
  for (Submitted* call : {&running, &queued, &inbox}) {
    call->reader.Take();
    EXPECT_TRUE(absl::IsUnavailable(call->reader.status()));
  }
  EXPECT_EQ(observer.finished.size(), 3u);
  EXPECT_TRUE(absl::IsUnavailable(scheduler().Submit(Generation(3, 1)).status()));
  ExpectAtRest();
}

// It would run until Shutdown, after which nobody can copy out what it leaves.
TEST_F(SchedulerTest, NothingIsAcceptedOnceAllIsInterrupted) {
  Submitted inbox = Submit(Generation(3, 30));
  scheduler().InterruptAll();
  const absl::Status down = absl::UnavailableError("the server is shutting down");
  EXPECT_EQ(scheduler().Submit(Generation(3, 1)).status(), down) << "not taken yet";
  Step();
  inbox.reader.Take();
  EXPECT_EQ(inbox.reader.status(), down);
  EXPECT_EQ(scheduler().Submit(Generation(3, 1)).status(), down) << "taken";
  EXPECT_FALSE(Step());
  ExpectAtRest();
}

}  // namespace
}  // namespace goldfinch
