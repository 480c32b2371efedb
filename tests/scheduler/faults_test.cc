// What the engine gets wrong ends the requests it concerns and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using FaultsTest = SchedulerTest;

TEST_F(FaultsTest, ADeviceFaultEndsWhatRanAndTheSchedulerLivesOn) {
  engine_options.num_slots = 2;
  Submitted a = Submit(Generation(3, 10, 1));
  Submitted b = Submit(Generation(300, 10, 2));
  const Request waiting = Generation(3, 10, 3);
  Submitted c = Submit(waiting);
  engine().FailForward(2, absl::InternalError("device 0 at 0xdead: illegal address"));
  Step();
  EXPECT_TRUE(Step());
  for (Submitted* call : {&a, &b}) {
    call->reader.Take();
    EXPECT_TRUE(absl::IsInternal(call->reader.status()));
    EXPECT_THAT(std::string(call->reader.status().message()), Not(HasSubstr("device 0")));
  }
  EXPECT_EQ(a.reader.tokens().size(), 1u);
  ASSERT_EQ(observer.errors.size(), 1u);
  EXPECT_THAT(std::string(observer.errors[0].message()), HasSubstr("illegal address"));
  EXPECT_EQ(engine().usage().slots_used, 0);
  RunUntilIdle();
  c.reader.Take();
  EXPECT_EQ(c.reader.tokens(), ExpectedTokens(waiting));
  EXPECT_EQ(observer.finished.size(), 3u);
  ExpectAtRest();
}

TEST_F(FaultsTest, AFaultAtAnyStepOfCandidatesLeavesNothing) {
  options.step_tokens = 8;
  for (int k = 1; k <= 8; ++k) {
    Request request = Generation(33, 5);
    request.num_candidates = 3;
    Submitted call = Submit(request);
    engine().FailForward(k, absl::InternalError("lost"));
    RunUntilIdle();
    call.reader.Take();
    EXPECT_TRUE(absl::IsInternal(call.reader.status())) << k;
    ExpectAtRest();
  }
}

TEST_F(FaultsTest, APausedRequestEndsWithTheFaultToo) {
  options.stream_buffer_tokens = 1;
  Submitted paused = Submit(Generation(3, 10, 1));
  Submitted running = Submit(Generation(3, 10, 2));
  Step();
  running.reader.Take();
  engine().FailForward(1, absl::InternalError("lost"));
  Step();
  for (Submitted* call : {&paused, &running}) {
    call->reader.Take();
    EXPECT_TRUE(absl::IsInternal(call->reader.status()));
  }
  ExpectAtRest();
}

TEST_F(FaultsTest, MemoryRefusedDespiteTheCountIsWaitedFor) {
  Submitted running = Submit(Generation(3, 3));
  Step();
  Request request = Generation(33, 5);
  request.num_candidates = 4;
  Submitted call = Submit(request);
  engine().FailOpen(3, absl::ResourceExhaustedError("no free slot"));
  Step();
  EXPECT_EQ(engine().usage().slots_used, 1) << "those opened before it stay open";
  EXPECT_EQ(observer.levels.waiting_requests, 1);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
  ExpectAtRest();
}

TEST_F(FaultsTest, MemoryRefusedWithNothingRunningIsNotWaitedForForEver) {
  Submitted call = Submit(Generation(33, 5));
  const Request next = Generation(4, 2);
  Submitted other = Submit(next);
  engine().FailOpen(1, absl::ResourceExhaustedError("no free slot"));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(absl::IsInternal(call.reader.status()));
  other.reader.Take();
  EXPECT_EQ(other.reader.tokens(), ExpectedTokens(next));
  ExpectAtRest();
}

TEST_F(FaultsTest, AFailedOpenEndsThatRequestOnly) {
  Submitted running = Submit(Generation(3, 3));
  Step();
  Request request = Generation(33, 5);
  request.num_candidates = 4;
  Submitted call = Submit(request);
  engine().FailOpen(4, absl::InternalError("lost"));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(absl::IsInternal(call.reader.status()));
  running.reader.Take();
  EXPECT_TRUE(running.reader.status().ok());
  ExpectAtRest();
}

}  // namespace
}  // namespace goldfinch
