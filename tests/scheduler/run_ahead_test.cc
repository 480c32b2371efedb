// Steps that are queued while the one before them runs: every token, end and kept prefix
// is what single steps give, and who comes, goes or waits is seen as soon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;

class RunAheadTest : public SchedulerTest {
 protected:
  RunAheadTest() { engine_options.runs_ahead = true; }

  // Calls `act` when the k-th step from now is queued.
  void AtForward(std::int64_t k, std::function<void()> act) {
    const std::int64_t at = engine().num_forwards() + k - 1;
    engine().SetForwardHook([this, at, act = std::move(act)](std::span<const Span>) {
      if (engine().num_forwards() == at) act();
    });
  }
};

TEST_F(RunAheadTest, EverybodyGetsTheTokensOfSingleSteps) {
  std::vector<Request> requests;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    requests.push_back(Generation(5, 20 + 7 * static_cast<std::int64_t>(seed), seed));
  }
  requests[1].num_candidates = 3;
  requests[2].make_stop_condition = [] { return std::make_unique<StopAtMultiple>(17); };
  requests[3].stop_token_ids = {7, 100, 300, 500, 900};
  requests[3].sampling.min_tokens = 5;
  requests[4].sampling.num_logprobs = 2;
  std::vector<Submitted> calls;
  for (const Request& request : requests) calls.push_back(Submit(request));
  RunUntilIdle();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    calls[i].reader.Take();
    EXPECT_TRUE(calls[i].reader.status().ok());
    for (std::int32_t c = 0; c < requests[i].num_candidates; ++c) {
      EXPECT_EQ(calls[i].reader.tokens(c), ExpectedTokens(requests[i], c)) << i;
    }
  }
  EXPECT_GT(engine().num_queued_next(), 40);
  EXPECT_EQ(std::ssize(observer.steps), engine().num_forwards());
  ExpectAtRest();
}

TEST_F(RunAheadTest, OneStepOfTheSchedulerHasABoundedNumberOfTheEngines) {
  Submitted call = Submit(Generation(3, 50));
  ASSERT_TRUE(Step());  // the prompt
  EXPECT_EQ(engine().num_forwards(), 1);
  ASSERT_TRUE(Step());
  EXPECT_EQ(engine().num_forwards(), 17);
  EXPECT_EQ(engine().num_queued_next(), 15);
}

// It is looked at sooner then: memory may have become free.
TEST_F(RunAheadTest, WhileARequestWaitsThatNumberIsSmaller) {
  engine_options.num_slots = 1;
  Submitted running = Submit(Generation(3, 50, 1));
  Submitted waiting = Submit(Generation(3, 50, 2));
  ASSERT_TRUE(Step());  // the prompt
  ASSERT_EQ(observer.levels.waiting_requests, 1);
  ASSERT_TRUE(Step());
  EXPECT_EQ(engine().num_forwards(), 1 + 4);
  ASSERT_TRUE(Step());
  EXPECT_EQ(engine().num_forwards(), 1 + 4 + 4);
  scheduler().Cancel(waiting.id);
  ASSERT_TRUE(Step());
  EXPECT_EQ(engine().num_forwards(), 1 + 4 + 4 + 16);
}

// What a step did for a sequence that had ended is not in what is kept of it, and the
// next turn goes on as if it had not been.
TEST_F(RunAheadTest, WhatIsKeptKnowsNothingOfTheStepThatWasQueued) {
  std::int64_t in_vain = 0;
  for (const std::int64_t prompt : {3, 5, 7, 13, 14, 15}) {  // ends about a page's end
    std::optional<RequestEnd> end;
    Request first = Generation(prompt, 60, 5);
    first.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(11); };
    first.on_end = [&end](RequestEnd ended) { end = std::move(ended); };
    const std::vector<TokenId> tokens = ExpectedTokens(first);
    ASSERT_LT(tokens.size(), 60u);
    ASSERT_GT(tokens.size(), 1u);
    const std::int64_t steps = engine().num_forwards();
    Submitted call = Submit(first);
    RunUntilIdle();
    call.reader.Take();
    EXPECT_EQ(call.reader.tokens(), tokens);
    in_vain += engine().num_forwards() - steps - std::ssize(tokens);
    ASSERT_TRUE(end.has_value() && end->kept != nullptr);
    EXPECT_EQ(end->kept->length(), prompt + std::ssize(tokens) - 1);

    Request second = Generation(4, 20, 6);
    Request whole = second;
    whole.prompt = end->kept->history();
    whole.prompt.insert(whole.prompt.end(), second.prompt.begin(), second.prompt.end());
    second.base = std::move(end->kept);
    Submitted next = Submit(second);
    RunUntilIdle();
    next.reader.Take();
    EXPECT_EQ(next.reader.tokens(), ExpectedTokens(whole));
  }
  EXPECT_GE(in_vain, 3);  // but where it ended with the last of a bounded number
}

TEST_F(RunAheadTest, NothingIsQueuedForWhoCertainlyEnds) {
  Submitted call = Submit(Generation(3, 4));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens().size(), 4u);
  EXPECT_EQ(engine().num_forwards(), 4);
}

TEST_F(RunAheadTest, ANewRequestWaitsForOneMoreStepAtMost) {
  Submitted first = Submit(Generation(3, 40, 1));
  Step();
  Submitted second;
  AtForward(4, [&] { second = Submit(Generation(3, 5, 2)); });
  Step();
  EXPECT_LE(engine().num_forwards(), 1 + 4 + 1);
  Step();
  second.reader.Take();
  EXPECT_EQ(second.reader.tokens().size(), 1u);
}

TEST_F(RunAheadTest, ACancelledRequestEndsAfterOneMoreStepAtMost) {
  Submitted call = Submit(Generation(3, 40));
  Step();
  AtForward(4, [&] { scheduler().Cancel(call.id); });
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(call.reader.status()));
  EXPECT_LE(call.reader.tokens().size(), 6u);
  ExpectAtRest();
}

TEST_F(RunAheadTest, ADeadlineIsSeenBetweenSteps) {
  Request request = Generation(3, 40);
  request.deadline = clock.Now() + seconds(10);
  Submitted call = Submit(request);
  Step();
  AtForward(4, [&] { clock.Advance(seconds(11)); });
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(absl::IsDeadlineExceeded(call.reader.status()));
  EXPECT_LE(call.reader.tokens().size(), 6u);
  ExpectAtRest();
}

TEST_F(RunAheadTest, ABufferHoldsNoMoreThanItMay) {
  options.stream_buffer_tokens = 5;
  const Request slow_request = Generation(3, 30, 1);
  Request quick_request = Generation(3, 200, 2);
  quick_request.num_candidates = 2;
  Submitted slow = Submit(slow_request);
  Submitted quick = Submit(quick_request);
  while (!slow.reader.ended() || !quick.reader.ended()) {
    RunUntilIdle();
    for (Submitted* call : {&slow, &quick}) {
      if (call->reader.ended()) continue;
      std::size_t before = 0, after = 0;
      for (const auto& [index, c] : call->reader.candidates) before += c.tokens.size();
      call->reader.Take();
      for (const auto& [index, c] : call->reader.candidates) after += c.tokens.size();
      EXPECT_LE(after - before, 5u);
    }
  }
  EXPECT_EQ(slow.reader.tokens(), ExpectedTokens(slow_request));
  EXPECT_EQ(quick.reader.tokens(1), ExpectedTokens(quick_request, 1));
  ExpectAtRest();
}

// Who does not read keeps nobody else from running ahead.
TEST_F(RunAheadTest, WhoIsPausedIsLeftOut) {
  options.stream_buffer_tokens = 200;
  Submitted quick = Submit(Generation(3, 150, 1));
  Submitted paused = Submit(Generation(3, 210, 2));
  RunUntilIdle();
  paused.reader.Take();
  EXPECT_EQ(paused.reader.tokens().size(), 200u);
  quick.reader.Take();
  EXPECT_TRUE(quick.reader.ended());
  const std::int64_t before = engine().num_queued_next();
  Submitted other = Submit(Generation(3, 150, 3));
  RunUntilIdle();
  EXPECT_GT(engine().num_queued_next() - before, 130);
}

TEST_F(RunAheadTest, AReaderThatMakesRoomIsSeenAfterOneMoreStepAtMost) {
  options.stream_buffer_tokens = 20;
  Submitted slow = Submit(Generation(3, 40, 1));
  RunUntilIdle();  // it is paused
  Submitted quick = Submit(Generation(3, 19, 2));
  Step();  // the prompt
  const std::int64_t now = engine().num_forwards();
  AtForward(3, [&] { slow.reader.Take(); });
  Step();
  EXPECT_LE(engine().num_forwards(), now + 4);
  std::size_t together = 0;
  engine().SetForwardHook(
      [&](std::span<const Span> batch) { together = std::max(together, batch.size()); });
  Step();
  EXPECT_EQ(together, 2u);
}

// While nobody waits for the memory, the others go on without a stop.
TEST_F(RunAheadTest, WhoEndsDoesNotHoldUpOthers) {
  Submitted first = Submit(Generation(3, 40, 1));
  Submitted second = Submit(Generation(3, 6, 2));
  Step();
  ASSERT_TRUE(Step());
  EXPECT_EQ(engine().num_forwards(), 17);
  second.reader.Take();
  EXPECT_TRUE(second.reader.ended());
}

// What the step before it gave is told; then everything ends.
TEST_F(RunAheadTest, AFaultOfTheStepThatWasQueuedEndsEverything) {
  const Request request = Generation(3, 40, 1);
  std::optional<RequestEnd> end;
  Request kept = Generation(3, 40, 2);
  kept.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(11); };
  kept.on_end = [&end](RequestEnd ended) { end = std::move(ended); };
  Submitted call = Submit(request);
  Submitted other = Submit(kept);
  Step();
  engine().FailForward(4, absl::InternalError("lost"));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.status().code(), absl::StatusCode::kInternal);
  const std::vector<TokenId> expected = ExpectedTokens(request);
  EXPECT_EQ(call.reader.tokens(),
            std::vector<TokenId>(expected.begin(), expected.begin() + 4));
  EXPECT_TRUE(end.has_value());
  EXPECT_EQ(observer.errors.size(), 1u);
  ExpectAtRest();
}

// Nobody waits longer for memory because others run ahead: the end of one is seen at
// once.
TEST_F(RunAheadTest, WhatWaitsForMemoryComesWhenSomebodyEnds) {
  engine_options.num_slots = 2;
  std::vector<std::int64_t> prompts;  // in which steps
  engine().SetForwardHook([&](std::span<const Span> batch) {
    for (const Span& span : batch) {
      if (span.tokens.size() == 4) prompts.push_back(engine().num_forwards());
    }
  });
  std::vector<Request> requests = {Generation(4, 60, 1), Generation(4, 5, 2),
                                   Generation(4, 7, 3)};
  std::vector<Submitted> calls;
  for (const Request& request : requests) calls.push_back(Submit(request));
  RunUntilIdle();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    calls[i].reader.Take();
    EXPECT_EQ(calls[i].reader.tokens(), ExpectedTokens(requests[i]));
  }
  ASSERT_EQ(prompts.size(), 3u);
  EXPECT_LE(prompts[2], 1 + 4 + 1);
  ExpectAtRest();
}

}  // namespace
}  // namespace goldfinch
