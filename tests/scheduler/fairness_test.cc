// Tenants that share a scheduler: who is served, how far apart they can get, and that
// being put aside changes no token.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/tenants_fixture.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;

class FairnessTest : public TenantsTest {};

TEST_F(FairnessTest, AFloodIsPutAsideForANewcomerAtOnce) {
  std::vector<Call> flood;
  for (std::uint64_t i = 0; i < 8; ++i) {
    flood.push_back(Start(Of("flood", Generation(4, 200, i))));
  }
  for (int i = 0; i < 10; ++i) Step();
  EXPECT_EQ(engine().usage().slots_used, 4);
  Call other = Start(Of("other", Generation(4, 3, 100)));
  Step();  // admitted, fed, and one token
  other.submitted.reader.Take();
  EXPECT_EQ(other.submitted.reader.tokens().size(), 1u);
  EXPECT_EQ(PutAside("flood"), 1);
  EXPECT_EQ(observer.levels.aside_requests, 1);
  EXPECT_GT(observer.levels.aside_bytes, 0);
  EXPECT_EQ(observer.levels.running_requests, 4);
  std::vector<Call*> all = {&other};
  for (Call& call : flood) all.push_back(&call);
  FinishAll(all);
  EXPECT_EQ(PutAside("other"), 0);
  EXPECT_EQ(observer.levels.aside_requests, 0);
  ExpectAtRest();
}

TEST_F(FairnessTest, WithoutMemoryForThatNobodyIsPutAside) {
  options.aside_bytes = 0;
  FloodedByOne(/*asides=*/0);

  // Nor one that has run nothing yet, which would take nothing.
  std::vector<Call> calls;
  for (std::uint64_t i = 0; i < 4; ++i) {
    calls.push_back(Start(Of("flood", Generation(100, 2, i))));
  }
  Step();
  calls.push_back(Start(Of("other", Generation(4, 2, 10))));
  Step();
  EXPECT_EQ(observer.levels.aside_requests, 0);
  std::vector<Call*> all;
  for (Call& call : calls) all.push_back(&call);
  FinishAll(all);
}

TEST_F(FairnessTest, WhatIsPutAsideStaysWithinItsMemory) {
  // A state of 8 bytes, and 12 a token: four of the prompt and some generated ones. Two
  // requests have more, in the first steps.
  options.aside_bytes = 150;
  FloodedByOne(/*asides=*/1);
}

TEST_F(FairnessTest, TwoTenantsHoldHalfEachHoweverManyRequestsTheyHave) {
  std::vector<Call> calls;
  for (std::uint64_t i = 0; i < 12; ++i) {
    calls.push_back(Start(Of("many", Generation(2, 100, i))));
  }
  Step();
  for (std::uint64_t i = 0; i < 2; ++i) {
    calls.push_back(Start(Of("few", Generation(2, 100, 50 + i))));
  }
  Step();
  EXPECT_EQ(MeterOf("many")->running_requests, 2);
  EXPECT_EQ(MeterOf("few")->running_requests, 2);
  EXPECT_EQ(MeterOf("many")->waiting_requests, 10);
  std::vector<Call*> all;
  for (Call& call : calls) all.push_back(&call);
  FinishAll(all);
  ExpectAtRest();
}

TEST_F(FairnessTest, OneTenantAloneIsNeverPutAside) {
  std::vector<Call> calls;
  for (std::uint64_t i = 0; i < 12; ++i) {
    calls.push_back(Start(Of("alone", Generation(5, 30, i))));
  }
  std::vector<Call*> all;
  for (Call& call : calls) all.push_back(&call);
  FinishAll(all);
  EXPECT_EQ(PutAside("alone"), 0);
}

// Whatever is under way when another tenant comes: a prompt not begun, in its midst,
// decoding, several candidates, penalties (which look at the history), scores.
TEST_F(FairnessTest, APutAsideRequestGoesOnWithTheSameTokens) {
  engine_options.num_slots = 5;
  for (int steps = 0; steps < 30; ++steps) {
    Request candidates = Of("a", Generation(50, 12, 7));
    candidates.num_candidates = 3;
    Request penalties = Of("a", Generation(40, 25, 8));
    penalties.sampling.frequency_penalty = 1;
    Call first = Start(candidates);
    Call second = Start(penalties);
    Request scored = Of("a", Generation(20, 1, 9));
    scored.kind = RequestKind::kScore;
    scored.continuation = Generation(60, 1, 10).prompt;
    Submitted score = Submit(scored);
    for (int i = 0; i < steps; ++i) Step();
    Request large = Of("b", Generation(1, 2, 11));
    large.num_candidates = 5;
    Call newcomer = Start(large);
    FinishAll({&first, &second, &newcomer});
    score.reader.Take();
    ASSERT_TRUE(score.reader.status().ok());
    const auto expected = FakeEngine::ExpectedScores(scored.prompt, scored.continuation);
    ASSERT_EQ(score.reader.scores->scores.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(score.reader.scores->scores[i].logprob, expected[i].logprob);
    }
    ExpectAtRest();
  }
  EXPECT_GT(PutAside("a"), 10);
}

// Its pages count as free; they go to host memory and come back.
TEST_F(FairnessTest, AHolderOfAllPagesIsMovedOutAndComesBack) {
  engine_options.num_pages = 16;  // of 16 tokens
  Call hog = Start(Of("hog", Generation(200, 40, 1)));
  for (int i = 0; i < 20; ++i) Step();
  hog.submitted.reader.Take();
  EXPECT_GT(hog.submitted.reader.tokens().size(), 1u);
  std::vector<Call> others;
  for (std::uint64_t i = 0; i < 3; ++i) {
    others.push_back(Start(Of("other", Generation(60, 20, 10 + i))));
  }
  Step();
  EXPECT_EQ(PutAside("hog"), 1);
  EXPECT_EQ(observer.levels.put_aside, 1u);
  FinishAll({&hog, &others[0], &others[1], &others[2]});
  ExpectAtRest();
}

// What others have left in the prefix cache gives way to them.
TEST_F(FairnessTest, CandidatesThatWerePutAsideComeBackIntoPagesOfTheCache) {
  engine_options.num_pages = 16;
  options.prefix_cache_bytes = 1 << 20;
  Request request = Of("wide", Generation(20, 40, 1));
  request.num_candidates = 3;
  Call wide = Start(request);
  for (int i = 0; i < 6; ++i) Step();
  std::vector<Call> others;
  for (std::uint64_t i = 0; i < 6; ++i) {
    Request other = Of("other", Generation(60, 10, 10 + i));
    other.use_prefix_cache = true;
    others.push_back(Start(other));
  }
  std::vector<Call*> all = {&wide};
  for (Call& call : others) all.push_back(&call);
  FinishAll(all);
  EXPECT_GE(PutAside("wide"), 1);
  EXPECT_GT(observer.levels.prefix_cache_forgotten, 0u);
}

TEST_F(FairnessTest, ARequestThatCouldNotComeBackIsLeftAlone) {
  engine_options.num_pages = 16;
  // Three candidates of 12 pages share ten of them; apart they would need 39.
  Request request = Of("a", Generation(170, 20, 1));
  request.num_candidates = 3;
  Call wide = Start(request);
  for (int i = 0; i < 14; ++i) Step();
  Call other = Start(Of("b", Generation(20, 5, 2)));
  FinishAll({&wide, &other});
  EXPECT_EQ(PutAside("a"), 0);
}

TEST_F(FairnessTest, CancellingInterruptingAndLatenessReachWhatIsPutAside) {
  engine_options.num_slots = 2;
  for (const int way : {0, 1, 2}) {
    Submitted older = Submit(Of("a", Generation(1, 60, 3)));
    Request request = Of("a", Generation(30, 50, 1));
    std::vector<RequestEnd> ends;
    request.on_end = [&](RequestEnd end) { ends.push_back(std::move(end)); };
    request.deadline = clock.Now() + seconds(60);
    Submitted aside = Submit(request);
    for (int i = 0; i < 6; ++i) Step();
    Submitted other = Submit(Of("b", Generation(3, 60, 2)));
    Step();
    ASSERT_EQ(observer.levels.aside_requests, 1);
    aside.reader.Take();
    const auto generated = static_cast<std::int64_t>(aside.reader.tokens().size());
    ASSERT_GT(generated, 0);
    absl::StatusCode expected = absl::StatusCode::kCancelled;
    if (way == 0) scheduler().Cancel(aside.id);
    if (way == 1) {
      scheduler().Interrupt(aside.id, absl::UnavailableError("interrupted"));
      expected = absl::StatusCode::kUnavailable;
    }
    if (way == 2) {
      clock.Advance(seconds(61));
      expected = absl::StatusCode::kDeadlineExceeded;
    }
    Step();
    aside.reader.Take();
    EXPECT_EQ(aside.reader.status().code(), expected);
    ASSERT_EQ(ends.size(), 1u);
    // What it generated is there to go on from.
    ASSERT_NE(ends[0].kept, nullptr);
    EXPECT_EQ(std::ssize(ends[0].kept->history()), 30 + generated);
    EXPECT_EQ(ends[0].interrupted, way == 1);
    ends.clear();
    RunUntilIdle();
    ExpectAtRest();
  }
}

// Its deadline was forgotten while it ran: what waited then has been looked through.
TEST_F(FairnessTest, ADeadlinePassesWhileTheRequestIsAsideAndNothingElseIsDue) {
  engine_options.num_slots = 2;
  Submitted older = Submit(Of("a", Generation(1, 500, 3)));
  Request request = Of("a", Generation(3, 500, 1));
  request.deadline = clock.Now() + seconds(60);
  Submitted late = Submit(request);
  Step();
  Request hasty = Of("a", Generation(3, 500, 4));
  hasty.deadline = clock.Now() + seconds(10);
  Submitted waits = Submit(hasty);
  Step();
  clock.Advance(seconds(10));
  Step();
  waits.reader.Take();
  EXPECT_TRUE(absl::IsDeadlineExceeded(waits.reader.status()));
  Submitted other = Submit(Of("b", Generation(3, 500, 2)));
  Step();
  ASSERT_EQ(observer.levels.aside_requests, 1);
  clock.Advance(seconds(50));
  Step();
  late.reader.Take();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.reader.status())) << late.reader.status();
  EXPECT_EQ(observer.levels.aside_requests, 0);
}

// Its reader takes everything while it is aside, so nothing will wake the step thread.
TEST_F(FairnessTest, APausedRequestThatComesBackAfterItsReaderMadeRoomRuns) {
  engine_options.num_slots = 2;
  options.stream_buffer_tokens = 2;
  Request pair = Of("a", Generation(3, 4, 1));
  pair.num_candidates = 2;
  Call first = Start(pair);
  RunUntilIdle();
  EXPECT_EQ(observer.levels.paused_requests, 1);
  Call other = Start(Of("b", Generation(3, 4, 2)));
  RunUntilIdle();
  EXPECT_EQ(observer.levels.aside_requests, 1);
  EXPECT_EQ(observer.levels.paused_requests, 1);
  first.submitted.reader.Take();
  EXPECT_FALSE(Step());
  other.submitted.reader.Take();
  while (!other.submitted.reader.ended()) {
    ASSERT_TRUE(Step());
    other.submitted.reader.Take();
  }
  EXPECT_TRUE(Step());
  EXPECT_EQ(observer.levels.running_requests, 1);
  EXPECT_EQ(observer.levels.paused_requests, 0);
  first.submitted.reader.Take();
  FinishAll({&first, &other});
  EXPECT_EQ(PutAside("a"), 1);
  ExpectAtRest();
}

// Two tenants, backlogged all the time: |W_a(t) - W_b(t)| over any interval.
struct Bound {
  double spread = 0;  // the largest difference of services over any interval
  double limit = 0;   // 2 max(w_p longest prompt, w_q M), by weight
  double service[2] = {0, 0};
};

Bound RunBacklogged(std::uint64_t seed, bool runs_ahead) {
  std::mt19937_64 random(seed);
  const auto between = [&](std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() %
                                           static_cast<std::uint64_t>(high - low + 1));
  };
  FakeEngineOptions engine_options{.num_pages = between(40, 200),
                                   .num_slots = static_cast<std::int32_t>(between(2, 12)),
                                   .runs_ahead = runs_ahead};
  SchedulerOptions options;
  options.step_tokens = between(4, 24);
  FakeEngine engine(engine_options);
  FakeClock clock;
  RecordingObserver observer;
  Scheduler scheduler(engine, options, clock, observer);
  // Of each tenant: its weight and the shape of its requests.
  const double weights[2] = {1, static_cast<double>(between(1, 4))};
  const std::int64_t prompts[2] = {between(1, 200), between(1, 200)};
  const std::int64_t outputs[2] = {between(1, 100), between(1, 100)};
  const std::int32_t candidates[2] = {static_cast<std::int32_t>(between(1, 2)), 1};
  std::shared_ptr<TenantMeter> meters[2] = {std::make_shared<TenantMeter>(),
                                            std::make_shared<TenantMeter>()};
  std::vector<std::shared_ptr<TokenStream>> streams;
  const auto top_up = [&] {
    for (const int tenant : {0, 1}) {
      while (meters[tenant]->waiting_requests < 3) {
        Request request = Generation(between(1, prompts[tenant]),
                                     between(1, outputs[tenant]), random());
        request.tenant = std::to_string(tenant);
        request.num_candidates = candidates[tenant];
        request.policy =
            std::make_shared<TenantPolicy>(TenantPolicy{.weight = weights[tenant]});
        request.meter = meters[tenant];
        auto submission = scheduler.Submit(std::move(request));
        EXPECT_TRUE(submission.ok()) << submission.status();
        if (!submission.ok()) return;
        streams.push_back(submission->stream);
        ++meters[tenant]->waiting_requests;  // until the next step says so
      }
    }
  };
  Bound bound;
  const std::int64_t longest = std::max(prompts[0], prompts[1]);
  // M: what running sequences can hold and reserve together.
  const double most = std::min<double>(
      static_cast<double>(engine_options.num_pages) * 16,
      static_cast<double>(engine_options.num_slots) *
          static_cast<double>(longest + std::max(outputs[0], outputs[1])));
  const double lightest = std::min(weights[0], weights[1]);
  bound.limit = 2 * std::max(static_cast<double>(longest), 2 * most) / lightest;
  double lowest = 0;
  double highest = 0;
  for (int step = 0; step < 3000; ++step) {
    top_up();
    scheduler.Step();
    for (auto& stream : streams) stream->Take();
    std::erase_if(streams, [](const auto& stream) { return stream.use_count() == 1; });
    for (const int tenant : {0, 1}) {
      bound.service[tenant] =
          static_cast<double>(meters[tenant]->service) / weights[tenant];
    }
    const double difference = bound.service[0] - bound.service[1];
    lowest = std::min(lowest, difference);
    highest = std::max(highest, difference);
  }
  bound.spread = highest - lowest;
  return bound;
}

TEST(FairnessPropertyTest, BackloggedTenantsStayWithinTheBound) {
  double worst = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    for (const bool runs_ahead : {false, true}) {
      SCOPED_TRACE(runs_ahead);
      const Bound bound = RunBacklogged(seed, runs_ahead);
      EXPECT_LE(bound.spread, bound.limit) << "seed " << seed;
      EXPECT_GT(bound.service[0], 3 * bound.spread) << "seed " << seed << ": too short";
      worst = std::max(worst, bound.spread / bound.limit);
    }
  }
  RecordProperty("worst_ratio", std::to_string(worst));
}

}  // namespace
}  // namespace goldfinch
