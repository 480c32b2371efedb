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
            "60 prompt tokens are waiting and this prompt has 50; the limit is 100");
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

TEST_F(SchedulerTest, StopsAreReportedByWhatStopped) {
  const Request base = Generation(10, 200);
  const std::vector<TokenId> tokens = ExpectedTokens(base);
  Request stop_token = base;
  stop_token.stop_token_ids = {tokens[7]};
  Request stop_string = base;
  stop_string.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(13); };
  Submitted by_token = Submit(stop_token);
  Submitted by_string = Submit(stop_string);
  RunUntilIdle();

  by_token.reader.Take();
  EXPECT_EQ(by_token.reader.tokens(), ExpectedTokens(stop_token));
  const StreamEvent token_end = *by_token.reader.candidates[0].finished;
  EXPECT_EQ(token_end.finish_reason, FinishReason::kStop);
  EXPECT_EQ(token_end.stop.kind, StopMatch::Kind::kStopToken);
  EXPECT_EQ(token_end.stop.token, tokens[7]);
  EXPECT_EQ(token_end.usage.generated_tokens, 8);

  by_string.reader.Take();
  EXPECT_EQ(by_string.reader.tokens(), ExpectedTokens(stop_string));
  EXPECT_LT(by_string.reader.tokens().size(), 200u);
  const StreamEvent string_end = *by_string.reader.candidates[0].finished;
  EXPECT_EQ(string_end.finish_reason, FinishReason::kStop);
  EXPECT_EQ(string_end.stop.kind, StopMatch::Kind::kStopString);
  EXPECT_EQ(string_end.stop.index, 3);
  ExpectAtRest();
}

TEST_F(SchedulerTest, EndOfTextEndsUnlessItIsIgnored) {
  engine_options.vocab_size = 10;
  Request request = Generation(1, 300);
  request.prompt = {1, 2, 3};
  request.ignore_eos = false;
  Request ignoring = request;
  ignoring.ignore_eos = true;
  Submitted ends = Submit(request);
  Submitted goes_on = Submit(ignoring);
  RunUntilIdle();
  ends.reader.Take();
  ASSERT_LT(ends.reader.tokens().size(), 300u);
  EXPECT_EQ(ends.reader.tokens().back(), kEndOfText);
  EXPECT_EQ(ends.reader.candidates[0].finished->stop.kind, StopMatch::Kind::kEos);
  goes_on.reader.Take();
  EXPECT_EQ(goes_on.reader.tokens().size(), 300u);
  EXPECT_EQ(goes_on.reader.candidates[0].finished->finish_reason, FinishReason::kLength);
}

TEST_F(SchedulerTest, NothingStopsWithinTheFirstMinTokens) {
  engine_options.vocab_size = 4;
  Request request = Generation(1, 200);
  request.prompt = {1, 2, 3};
  request.ignore_eos = false;
  request.stop_token_ids = {2};
  request.sampling.min_tokens = 50;
  Submitted banned = Submit(request);
  request.stop_token_ids.clear();
  request.ignore_eos = true;
  request.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(2); };
  Submitted ignored = Submit(request);
  RunUntilIdle();
  for (Submitted* call : {&banned, &ignored}) {
    call->reader.Take();
    EXPECT_GT(call->reader.tokens().size(), 50u);
    EXPECT_LT(call->reader.tokens().size(), 200u);
    EXPECT_EQ(call->reader.candidates[0].finished->finish_reason, FinishReason::kStop);
  }
  for (std::size_t i = 0; i < 50; ++i) {
    EXPECT_NE(banned.reader.tokens()[i], 2);
    EXPECT_NE(banned.reader.tokens()[i], kEndOfText);
  }
}

TEST_F(SchedulerTest, AStopOnTheLastTokenIsAStop) {
  const Request base = Generation(10, 5);
  Request request = base;
  request.stop_token_ids = {ExpectedTokens(base).back()};
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.candidates[0].finished->finish_reason, FinishReason::kStop);
}

TEST_F(SchedulerTest, ScoresOfAnyChunkingAreThoseOfTheWhole) {
  Request request = Generation(23, 0);
  request.kind = RequestKind::kScore;
  request.continuation = Generation(40, 1, 77).prompt;
  const auto expected = FakeEngine::ExpectedScores(request.prompt, request.continuation);
  for (const std::int64_t budget : {1, 5, 22, 23, 24, 512}) {
    options.step_tokens = budget;
    FakeEngine fake;
    Scheduler cut(fake, options, clock, observer);
    auto submission = cut.Submit(request);
    ASSERT_TRUE(submission.ok());
    Reader reader(submission->stream);
    while (cut.Step()) {
    }
    reader.Take();
    EXPECT_TRUE(reader.status().ok());
    ASSERT_TRUE(reader.scores);
    ASSERT_EQ(reader.scores->scores.size(), 40u);
    for (std::size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(reader.scores->scores[i].logprob, expected[i].logprob);
      EXPECT_EQ(reader.scores->scores[i].is_greedy, expected[i].is_greedy);
    }
    EXPECT_EQ(reader.scores->usage.prompt_tokens, 23);
    EXPECT_EQ(reader.scores->usage.generated_tokens, 0);
    EXPECT_EQ(fake.usage().slots_used, 0);
    EXPECT_EQ(fake.usage().pages_used, 0);
  }
}

TEST_F(SchedulerTest, OneTokenIsScoredAfterOneToken) {
  Request request = Generation(1, 0);
  request.kind = RequestKind::kScore;
  request.continuation = {5};
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  ASSERT_TRUE(call.reader.scores);
  EXPECT_EQ(call.reader.scores->scores.size(), 1u);
}

TEST_F(SchedulerTest, UsageAndReportsTellTheTimes) {
  engine_options.num_slots = 1;
  engine().SetForwardHook([&](auto) { clock.Advance(seconds(1)); });
  Submitted before = Submit(Generation(3, 2, 1));  // steps 1 and 2
  Submitted call = Submit(Generation(4, 3, 2));    // steps 3 to 5
  RunUntilIdle();
  call.reader.Take();
  const RequestUsage usage = call.reader.candidates[0].finished->usage;
  EXPECT_EQ(usage.prompt_tokens, 4);
  EXPECT_EQ(usage.cached_prompt_tokens, 0);
  EXPECT_EQ(usage.generated_tokens, 3);
  EXPECT_EQ(usage.queue_time, seconds(2));
  EXPECT_EQ(usage.first_token_time, seconds(3));
  EXPECT_EQ(usage.total_time, seconds(5));

  EXPECT_THAT(observer.first, ElementsAre(seconds(1), seconds(3)));
  EXPECT_THAT(observer.inter, ElementsAre(seconds(1), seconds(1), seconds(1)));
  ASSERT_EQ(observer.finished.size(), 2u);
  EXPECT_TRUE(observer.finished[1].status.ok());
  EXPECT_EQ(observer.finished[1].finish_reason, FinishReason::kLength);
  EXPECT_EQ(observer.finished[1].usage.total_time, seconds(5));
  EXPECT_EQ(observer.finished[1].prefill_time, seconds(1));
  ASSERT_EQ(observer.steps.size(), 5u);
  EXPECT_EQ(observer.steps[2].duration, seconds(1));
  EXPECT_EQ(observer.steps[2].prompt_tokens, 4);
  EXPECT_EQ(observer.steps[3].decode_tokens, 1);
  EXPECT_EQ(observer.steps[3].sequences, 1);
}

TEST_F(SchedulerTest, LogprobsReachTheStream) {
  Request request = Generation(3, 1);
  request.sampling.num_logprobs = 2;
  auto submission = scheduler().Submit(request);
  ASSERT_TRUE(submission.ok());
  RunUntilIdle();
  const TokenStream::Batch batch = submission->stream->Take();
  ASSERT_EQ(batch.events.size(), 2u);
  EXPECT_LT(batch.events[0].sample.logprob, 0.0f);
  EXPECT_EQ(batch.events[0].sample.top.size(), 2u);
}

}  // namespace
}  // namespace goldfinch
