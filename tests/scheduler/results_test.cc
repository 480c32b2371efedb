// What a request's events say: where it stopped and why, scores, log-probabilities,
// times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ResultsTest = SchedulerTest;

TEST_F(ResultsTest, StopsAreReportedByWhatStopped) {
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

TEST_F(ResultsTest, EndOfTextEndsUnlessItIsIgnored) {
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

TEST_F(ResultsTest, NothingStopsWithinTheFirstMinTokens) {
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

TEST_F(ResultsTest, AStopOnTheLastTokenIsAStop) {
  const Request base = Generation(10, 5);
  Request request = base;
  request.stop_token_ids = {ExpectedTokens(base).back()};
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.candidates[0].finished->finish_reason, FinishReason::kStop);
}

TEST_F(ResultsTest, ScoresOfAnyChunkingAreThoseOfTheWhole) {
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
    EXPECT_EQ(reader.scores->usage.scored_tokens, 40);
    EXPECT_EQ(reader.scores->usage.generated_tokens, 0);
    EXPECT_EQ(fake.usage().slots_used, 0);
    EXPECT_EQ(fake.usage().pages_used, 0);
  }
}

// A chunk of 30 tokens after one of 30: the last of the prompt scores the first of the
// continuation.
TEST_F(ResultsTest, AReportTellsWhatWasScoredBeforeTheEnd) {
  options.step_tokens = 30;
  Request request = Generation(23, 0);
  request.kind = RequestKind::kScore;
  request.continuation = Generation(50, 1, 77).prompt;
  Submitted call = Submit(request);
  Step();
  Step();
  scheduler().Cancel(call.id);
  RunUntilIdle();
  ASSERT_EQ(observer.finished.size(), 1u);
  EXPECT_EQ(observer.finished[0].usage.prompt_tokens, 23);
  EXPECT_EQ(observer.finished[0].usage.scored_tokens, 60 - 22);
}

TEST_F(ResultsTest, OneTokenIsScoredAfterOneToken) {
  Request request = Generation(1, 0);
  request.kind = RequestKind::kScore;
  request.continuation = {5};
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  ASSERT_TRUE(call.reader.scores);
  EXPECT_EQ(call.reader.scores->scores.size(), 1u);
}

TEST_F(ResultsTest, UsageAndReportsTellTheTimes) {
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

// Of both candidates together; where nothing followed the first token there is none.
TEST_F(ResultsTest, TheTimePerTokenIsTheMeanBetweenTwoOfACandidate) {
  engine().SetForwardHook([&](auto) { clock.Advance(seconds(1)); });
  Request request = Generation(4, 5, 1);
  request.num_candidates = 2;
  Submit(request);
  RunUntilIdle();
  Submit(Generation(4, 1, 2));
  RunUntilIdle();
  ASSERT_EQ(observer.finished.size(), 2u);
  EXPECT_EQ(observer.finished[0].usage.generated_tokens, 10);
  EXPECT_EQ(observer.finished[0].time_per_token, seconds(1));
  EXPECT_EQ(observer.finished[1].time_per_token, std::nullopt);
}

// Its call had to bring a session back before there was anything to submit.
TEST_F(ResultsTest, TimesCountFromTheArrivalOfTheCall) {
  engine().SetForwardHook([&](auto) { clock.Advance(seconds(1)); });
  Request request = Generation(4, 3);
  request.arrived = clock.Now();
  clock.Advance(seconds(10));
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  const RequestUsage usage = call.reader.candidates[0].finished->usage;
  EXPECT_EQ(usage.queue_time, seconds(10));
  EXPECT_EQ(usage.first_token_time, seconds(11));
  EXPECT_EQ(usage.total_time, seconds(13));
  EXPECT_THAT(observer.first, ElementsAre(seconds(11)));
  ASSERT_EQ(observer.finished.size(), 1u);
  EXPECT_EQ(observer.finished[0].usage.queue_time, seconds(10));
  EXPECT_EQ(observer.finished[0].prefill_time, seconds(1));
}

TEST_F(ResultsTest, LogprobsReachTheStream) {
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
