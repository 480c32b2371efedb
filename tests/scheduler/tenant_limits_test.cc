// What a tenant may ask for: priorities, how much of it waits and runs, tokens a minute.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/retry_after.h"
#include "tests/scheduler/tenants_fixture.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

class TenantLimitsTest : public TenantsTest {};

TEST_F(TenantLimitsTest, PriorityGoesFirstWithinATenantOnly) {
  engine_options.num_slots = 1;
  Request urgent = Of("a", Generation(3, 3, 1));
  urgent.priority = 9;
  std::vector<std::string> order;
  const auto noting = [&](const char* name, Request request) {
    request.on_end = [&order, name](RequestEnd) { order.push_back(name); };
    return request;
  };
  Submitted blocker = Submit(Of("c", Generation(3, 2, 2)));
  Step();
  Submitted calls[] = {Submit(noting("a plain", Of("a", Generation(3, 3, 3)))),
                       Submit(noting("a urgent", urgent)),
                       Submit(noting("b", Of("b", Generation(3, 3, 4))))};
  RunUntilIdle();
  // Whose turn is first is a matter of arrival; then it is the other's.
  EXPECT_THAT(order, ::testing::ElementsAre("a urgent", "b", "a plain"));
}

TEST_F(TenantLimitsTest, ATenantAtItsLimitOfRunningRequestsHoldsNobodyUp) {
  TenantPolicy narrow;
  narrow.max_running_requests = 1;
  std::vector<Call> calls;
  for (std::uint64_t i = 0; i < 3; ++i) {
    calls.push_back(Start(Of("narrow", Generation(3, 20, i), narrow)));
  }
  Call other = Start(Of("other", Generation(3, 20, 9)));
  Step();
  EXPECT_EQ(MeterOf("narrow")->running_requests, 1);
  EXPECT_EQ(MeterOf("other")->running_requests, 1);
  FinishAll({&calls[0], &calls[1], &calls[2], &other});
}

TEST_F(TenantLimitsTest, ATenantsQueueIsBounded) {
  TenantPolicy policy;
  policy.max_queued_requests = 2;
  policy.max_queued_tokens = 50;
  Submit(Of("a", Generation(10, 5, 1), policy));
  // A prompt above the limit of tokens is taken only when nothing else waits.
  auto tokens = scheduler().Submit(Of("a", Generation(45, 5, 2), policy));
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("the limit is 50"));
  Submit(Of("a", Generation(40, 5, 2), policy));
  auto requests = scheduler().Submit(Of("a", Generation(1, 5, 3), policy));
  EXPECT_EQ(requests.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(requests.status().message()), HasSubstr("the limit is 2"));
  Submit(Of("b", Generation(1, 5, 4), policy));
  RunUntilIdle();
  Submit(Of("a", Generation(60, 5, 5), policy));
  RunUntilIdle();
  ExpectAtRest();
}

TEST_F(TenantLimitsTest, WhatIsScoredCountsInATenantsQueue) {
  TenantPolicy policy;
  policy.max_queued_tokens = 50;
  Submit(ScoreOf("a", 39, policy));
  const auto refused = scheduler().Submit(ScoreOf("a", 10, policy));
  EXPECT_EQ(refused.status(),
            absl::ResourceExhaustedError(
                "40 prompt tokens of this tenant are waiting and this request has 11; "
                "the limit is 50"));
  Submit(ScoreOf("a", 9, policy));
  EXPECT_FALSE(scheduler().Submit(Of("a", Generation(1, 5, 1), policy)).ok());
  // All of it leaves the queue.
  RunUntilIdle();
  Submit(Of("a", Generation(1, 5, 1), policy));
  Submit(ScoreOf("a", 48, policy));
  RunUntilIdle();
  ExpectAtRest();
}

TEST_F(TenantLimitsTest, LongPromptsAndHighPrioritiesAreRefusedByTheTenantsLimits) {
  TenantPolicy policy;
  policy.max_prompt_tokens = 20;
  policy.max_priority = 3;
  auto refused = scheduler().Submit(Of("a", Generation(21, 5, 1), policy));
  EXPECT_EQ(refused.status(), absl::InvalidArgumentError(
                                  "prompt has 21 tokens; this tenant's limit is 20"));
  Request urgent = Of("a", Generation(20, 5, 1), policy);
  urgent.priority = 4;
  refused = scheduler().Submit(urgent);
  EXPECT_EQ(refused.status(),
            absl::InvalidArgumentError("priority is 4; this tenant's limit is 3"));
  urgent.priority = 3;
  Submit(urgent);
  RunUntilIdle();
}

TEST_F(TenantLimitsTest, WhatIsScoredIsBoundLikeAPrompt) {
  TenantPolicy policy;
  policy.max_prompt_tokens = 20;
  const auto refused = scheduler().Submit(ScoreOf("a", 20, policy));
  EXPECT_EQ(refused.status(),
            absl::InvalidArgumentError("context and continuation have 21 tokens without "
                                       "the last one; this tenant's limit is 20"));
  Submit(ScoreOf("a", 19, policy));
  RunUntilIdle();
}

TEST_F(TenantLimitsTest, TokensPerMinuteComeBackWithTime) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  // 50 of the prompt, and 19 generated: 9 more than there are.
  Submit(Of("a", Generation(50, 19, 1), policy));
  RunUntilIdle();
  auto refused = scheduler().Submit(Of("a", Generation(5, 1, 2), policy));
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const auto retry = RetryAfterOf(refused.status());
  ASSERT_TRUE(retry.has_value());
  EXPECT_EQ(std::chrono::round<seconds>(*retry), seconds(9));
  Submit(Of("b", Generation(5, 1, 3), policy));
  clock.Advance(*retry - std::chrono::milliseconds(1));
  EXPECT_FALSE(scheduler().Submit(Of("a", Generation(5, 1, 2), policy)).ok());
  clock.Advance(std::chrono::milliseconds(2));
  Submit(Of("a", Generation(5, 1, 2), policy));
  RunUntilIdle();
}

TEST_F(TenantLimitsTest, WhatTenantsGenerateInOneStepIsOfEachOnesRate) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  Submit(Of("a", Generation(50, 20, 1), policy));
  Submit(Of("b", Generation(50, 30, 2), policy));
  Submit(Of("c", Generation(50, 5, 3), policy));
  RunUntilIdle();
  for (const auto& [tenant, debt] : {std::pair("a", seconds(10)), {"b", seconds(20)}}) {
    const absl::Status refused =
        scheduler().Submit(Of(tenant, Generation(5, 1, 4), policy)).status();
    EXPECT_EQ(std::chrono::round<seconds>(RetryAfterOf(refused).value_or(seconds(-1))),
              debt)
        << tenant;
  }
  Submit(Of("c", Generation(5, 1, 4), policy));
  RunUntilIdle();
}

TEST_F(TenantLimitsTest, ANewRateAlsoCountsForOldDebts) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  const auto retry = [&](std::int64_t rate) {
    policy.max_tokens_per_minute = rate;
    const absl::Status refused =
        scheduler().Submit(Of("a", Generation(5, 1, 2), policy)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    return std::chrono::round<seconds>(RetryAfterOf(refused).value_or(seconds(-1)));
  };
  // 660 tokens: all of a minute, and 600 more.
  Submit(Of("a", Generation(50, 610, 1), policy));
  RunUntilIdle();
  EXPECT_EQ(retry(60), seconds(600));
  EXPECT_EQ(retry(30), seconds(1200)) << "the minute's worth was no debt";
  clock.Advance(seconds(600));
  EXPECT_EQ(retry(30), seconds(600));
  EXPECT_EQ(retry(300), seconds(6)) << "330 are spent";
  policy.max_tokens_per_minute = 60000;
  Submit(Of("a", Generation(5, 1, 2), policy));
  RunUntilIdle();
}

TEST_F(TenantLimitsTest, WhatOlderRequestsGenerateIsOfTheNewRate) {
  TenantPolicy slow, fast;
  slow.max_tokens_per_minute = 60;
  fast.max_tokens_per_minute = 600;
  Submit(Of("a", Generation(10, 1000, 1), slow));
  Step();
  Submit(Of("a", Generation(10, 1, 2), fast));
  RunUntilIdle();
  const auto refused = scheduler().Submit(Of("a", Generation(5, 1, 3), fast));
  const auto retry = RetryAfterOf(refused.status());
  ASSERT_TRUE(retry.has_value()) << refused.status();
  EXPECT_EQ(std::chrono::round<seconds>(*retry), seconds(42)) << "1021 are spent";
}

TEST_F(TenantLimitsTest, WhatIsScoredIsOfTheTokensPerMinute) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  // One that never runs spends nothing.
  const Submitted cancelled = Submit(ScoreOf("a", 60, policy));
  scheduler().Cancel(cancelled.id);
  RunUntilIdle();
  Submit(ScoreOf("a", 60, policy));
  RunUntilIdle();
  const auto refused = scheduler().Submit(Of("a", Generation(5, 1, 2), policy));
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const auto retry = RetryAfterOf(refused.status());
  ASSERT_TRUE(retry.has_value());
  EXPECT_EQ(std::chrono::round<seconds>(*retry), seconds(1));
  clock.Advance(seconds(2));
  Submit(Of("a", Generation(5, 1, 2), policy));
  RunUntilIdle();
}

// A history that was imported, or is a fork of one, and has not run is fed like a prompt.
TEST_F(TenantLimitsTest, WhatOfAHistoryHasNotRunCountsLikeAPrompt) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  policy.max_queued_tokens = 100;
  const auto turn = [&](std::int64_t history, std::int64_t prompt) {
    Request request = Of("a", Generation(prompt, 1, 1), policy);
    request.base = KeptPrefix::Make(Generation(history, 0, 2).prompt, nullptr);
    return request;
  };
  // One that never runs spends nothing.
  const Submitted cancelled = Submit(turn(50, 9));
  EXPECT_EQ(scheduler().Submit(turn(50, 2)).status(),
            absl::ResourceExhaustedError(
                "59 prompt tokens of this tenant are waiting and this request has 52; "
                "the limit is 100"));
  scheduler().Cancel(cancelled.id);
  RunUntilIdle();
  Submit(turn(50, 9));
  RunUntilIdle();
  const auto refused = scheduler().Submit(turn(5, 1));
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("the limit is 60"));
  ExpectAtRest();
}

// Of what has run, only the token that was sampled last is still to be fed.
TEST_F(TenantLimitsTest, WhatAHistoryHasRunIsNotSpentAgain) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  std::shared_ptr<KeptPrefix> kept;
  Request first = Of("a", Generation(40, 9, 1), policy);
  first.on_end = [&](RequestEnd end) { kept = std::move(end.kept); };
  Submit(first);
  RunUntilIdle();
  ASSERT_NE(kept, nullptr);
  Request second = Of("a", Generation(9, 1, 2), policy);
  second.base = kept;
  Submit(second);
  RunUntilIdle();
  // 49, then 10 and 1.
  EXPECT_FALSE(scheduler().Submit(Of("a", Generation(5, 1, 3), policy)).ok());
  clock.Advance(std::chrono::milliseconds(1));
  Submit(Of("a", Generation(5, 1, 3), policy));
  RunUntilIdle();
}

TEST_F(TenantLimitsTest, TokensOfAPromptThatNeverRanAreNotSpent) {
  TenantPolicy policy;
  policy.max_tokens_per_minute = 60;
  for (std::uint64_t i = 0; i < 5; ++i) {
    Submitted call = Submit(Of("a", Generation(60, 5, i), policy));
    scheduler().Cancel(call.id);
    Step();
  }
}

TEST_F(TenantLimitsTest, ARequestDoesNotWaitForEver) {
  engine_options.num_slots = 1;
  options.max_queue_time = seconds(30);
  Submitted runs = Submit(Generation(3, 1000, 1));
  Step();
  // What came before it could be submitted is no time in the queue.
  Request waiting = Generation(3, 5, 2);
  waiting.arrived = clock.Now();
  clock.Advance(seconds(40));
  Submitted waits = Submit(waiting);
  clock.Advance(seconds(29));
  Step();
  waits.reader.Take();
  EXPECT_FALSE(waits.reader.ended());
  clock.Advance(seconds(1));
  Step();
  waits.reader.Take();
  EXPECT_EQ(waits.reader.status(), absl::ResourceExhaustedError(
                                       "the request waited for 30 seconds, which is the "
                                       "limit"));
  ASSERT_EQ(observer.finished.size(), 1u);
  EXPECT_EQ(observer.finished[0].usage.queue_time, seconds(70));
  scheduler().Cancel(runs.id);
  Step();
  ExpectAtRest();
}

}  // namespace
}  // namespace goldfinch
