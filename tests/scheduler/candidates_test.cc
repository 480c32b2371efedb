// Several candidates of one request: they share the prompt's work and pages, and nothing
// of what they generate.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using CandidatesTest = SchedulerTest;

Request Several(std::int64_t prompt, std::int64_t max_tokens, std::int32_t candidates) {
  Request request = Generation(prompt, max_tokens, 5);
  request.num_candidates = candidates;
  return request;
}

TEST_F(CandidatesTest, EachGivesWhatItWouldGiveAlone) {
  for (const std::int64_t prompt : {1, 2, 15, 16, 17, 18, 40}) {
    const Request request = Several(prompt, 9, 5);
    Submitted call = Submit(request);
    RunUntilIdle();
    call.reader.Take();
    EXPECT_TRUE(call.reader.status().ok());
    ASSERT_EQ(call.reader.candidates.size(), 5u);
    for (std::int32_t i = 0; i < 5; ++i) {
      EXPECT_EQ(call.reader.tokens(i), ExpectedTokens(request, i)) << "prompt " << prompt;
      EXPECT_EQ(call.reader.candidates[i].finished->usage.generated_tokens, 9);
    }
    EXPECT_EQ(observer.finished.back().usage.generated_tokens, 45);
    ExpectAtRest();
  }
}

TEST_F(CandidatesTest, ThePromptIsComputedOnce) {
  options.step_tokens = 10;
  Submitted call = Submit(Several(41, 2, 4));
  RunUntilIdle();
  std::int64_t prompt = 0;
  std::int64_t decode = 0;
  for (const StepReport& step : observer.steps) {
    prompt += step.prompt_tokens;
    decode += step.decode_tokens;
  }
  EXPECT_EQ(prompt, 40 + 4);  // each runs the last prompt token by itself
  EXPECT_EQ(decode, 4);
}

TEST_F(CandidatesTest, FullPromptPagesAreShared) {
  Submitted call = Submit(Several(40, 9, 5));  // 48 tokens, 3 pages, 2 of them shared
  Step();
  EXPECT_EQ(engine().usage().slots_used, 5);
  EXPECT_EQ(engine().usage().pages_used, 3 + 4 * 1);
  EXPECT_EQ(observer.levels.running_requests, 1);
  EXPECT_EQ(observer.levels.running_sequences, 5);
}

TEST_F(CandidatesTest, TheyNeedNotMoreThanWasCounted) {
  // Exactly what it needs is all there is: the engine agrees with the scheduler.
  engine_options.num_pages = 3 + 4 * 1;
  engine_options.num_slots = 5;
  Submitted call = Submit(Several(40, 9, 5));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
  EXPECT_TRUE(observer.errors.empty());
}

TEST_F(CandidatesTest, OneThatEndsFreesItsMemoryWhileOthersGoOn) {
  Request request = Several(40, 60, 4);
  request.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(20); };
  Submitted call = Submit(request);
  std::int32_t slots = 4;
  while (Step()) {
    const std::int32_t now = engine().usage().slots_used;
    EXPECT_LE(now, slots);
    EXPECT_EQ(observer.levels.running_sequences, now);
    slots = now;
  }
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
  for (std::int32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(call.reader.tokens(i), ExpectedTokens(request, i));
  }
  ExpectAtRest();
}

TEST_F(CandidatesTest, AllAreAdmittedOrNone) {
  engine_options.num_slots = 4;
  Submitted running = Submit(Generation(3, 3));
  Submitted call = Submit(Several(20, 2, 4));
  Step();
  EXPECT_EQ(engine().usage().slots_used, 1);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
}

TEST_F(CandidatesTest, MoreThanTheBudgetStillGiveWhatTheyWouldAlone) {
  options.step_tokens = 3;
  const Request request = Several(10, 30, 8);
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  for (std::int32_t i = 0; i < 8; ++i) {
    EXPECT_EQ(call.reader.tokens(i), ExpectedTokens(request, i));
  }
}

// A prompt of one token decodes from its first step on, so these come as fast as slots
// do.
TEST_F(CandidatesTest, AFlowOfNewOnesDoesNotStarveAnOldStream) {
  options.step_tokens = 2;
  Submitted old = Submit(Generation(1, 20));
  for (std::uint64_t step = 0; step < 60; ++step) {
    Request request = Generation(1, 1, step);
    request.num_candidates = 2;
    Submit(request);
    Step();
    old.reader.Take();
    EXPECT_EQ(old.reader.tokens().size(), std::min<std::size_t>(step + 1, 20));
  }
}

TEST_F(CandidatesTest, CancelledAtEveryStepTheyLeaveNothing) {
  options.step_tokens = 8;
  for (int steps = 0; steps < 12; ++steps) {
    Submitted call = Submit(Several(33, 5, 4));
    for (int i = 0; i < steps; ++i) Step();
    scheduler().Cancel(call.id);
    RunUntilIdle();
    call.reader.Take();
    EXPECT_TRUE(call.reader.ended());
    ExpectAtRest();
  }
}

TEST_F(CandidatesTest, MoreThanTheStreamHoldsStillRun) {
  options.stream_buffer_tokens = 2;
  const Request request = Several(5, 4, 6);
  Submitted call = Submit(request);
  while (!call.reader.ended()) {
    Step();
    call.reader.Take();
  }
  EXPECT_TRUE(call.reader.status().ok());
  for (std::int32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(call.reader.tokens(i), ExpectedTokens(request, i));
  }
}

}  // namespace
}  // namespace goldfinch
