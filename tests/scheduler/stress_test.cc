// Many requests of every kind at once, stepped by hand from a fixed seed: every stream is
// what a solo run gives (I2), and at rest nothing is held (I1).
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using StressTest = SchedulerTest;

std::int64_t Between(std::mt19937_64& random, std::int64_t low, std::int64_t high) {
  return low +
         static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 1));
}

Request RandomRequest(std::mt19937_64& random, std::uint64_t seed) {
  Request request = Generation(Between(random, 1, 150), Between(random, 1, 40), seed);
  request.priority = static_cast<std::int32_t>(Between(random, 0, 2));
  switch (random() % 6) {
    case 0:
      request.kind = RequestKind::kScore;
      request.continuation = Generation(Between(random, 1, 60), 1, seed + 1000).prompt;
      break;
    case 1:
      request.num_candidates = static_cast<std::int32_t>(Between(random, 2, 5));
      break;
    case 2:
      request.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(17); };
      request.sampling.min_tokens = Between(random, 0, 5);
      break;
    case 3:
      request.stop_token_ids = {7, 100, 300, 500, 900};
      request.sampling.min_tokens = Between(random, 0, 10);
      request.ignore_eos = false;
      break;
    default:
      break;
  }
  return request;
}

void ExpectPrefix(const std::vector<TokenId>& tokens, const std::vector<TokenId>& whole) {
  ASSERT_LE(tokens.size(), whole.size());
  EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), whole.begin()));
}

// Whole when the request ended well, a prefix when it was cut off.
void ExpectSolo(const Request& request, Reader& reader) {
  ASSERT_TRUE(reader.ended());
  if (request.kind == RequestKind::kScore) {
    EXPECT_EQ(reader.scores.has_value(), reader.status().ok());
    if (!reader.scores) return;
    const auto expected =
        FakeEngine::ExpectedScores(request.prompt, request.continuation);
    ASSERT_EQ(reader.scores->scores.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(reader.scores->scores[i].logprob, expected[i].logprob);
    }
    return;
  }
  for (std::int32_t i = 0; i < request.num_candidates; ++i) {
    const std::vector<TokenId> expected = ExpectedTokens(request, i);
    if (reader.status().ok()) {
      EXPECT_EQ(reader.tokens(i), expected);
    } else {
      ExpectPrefix(reader.tokens(i), expected);
    }
  }
}

TEST_F(StressTest, SixtyFourMixedRequestsWithCancellationsEqualSoloRuns) {
  options.step_tokens = 96;
  engine_options.num_pages = 300;
  std::mt19937_64 random(64);
  std::vector<Request> requests;
  std::vector<Submitted> calls;
  for (std::uint64_t seed = 0; seed < 64; ++seed) {
    requests.push_back(RandomRequest(random, seed));
    calls.push_back(Submit(requests.back()));
  }
  for (int step = 0; Step(); ++step) {
    if (step % 2 == 1) scheduler().Cancel(calls[random() % calls.size()].id);
    for (Submitted& call : calls) call.reader.Take();
  }
  int completed = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    ExpectSolo(requests[i], calls[i].reader);
    if (calls[i].reader.status().ok()) ++completed;
    EXPECT_TRUE(calls[i].reader.status().ok() ||
                absl::IsCancelled(calls[i].reader.status()));
  }
  EXPECT_GT(completed, 20);
  EXPECT_LT(completed, 64);
  EXPECT_EQ(observer.finished.size(), 64u);
  ExpectAtRest();
}

// Arrivals, cancellations, deadlines, slow readers and faults in any order.
TEST_F(StressTest, AnyOrderOfEventsKeepsTheInvariants) {
  for (std::uint64_t round = 0; round < 30; ++round) {
    std::mt19937_64 random(round);
    FakeEngine fake({.num_pages = Between(random, 40, 200),
                     .num_slots = static_cast<std::int32_t>(Between(random, 5, 20))});
    SchedulerOptions limits;
    limits.step_tokens = Between(random, 1, 100);
    limits.max_queued_requests = Between(random, 1, 20);
    limits.stream_buffer_tokens = Between(random, 1, 30);
    RecordingObserver watch;
    Scheduler chaos(fake, limits, clock, watch);
    std::vector<Request> requests;
    std::vector<Submitted> calls;
    for (int step = 0; step < 400; ++step) {
      if (random() % 3 == 0) {
        Request request = RandomRequest(random, random() % 100000);
        if (random() % 4 == 0) {
          request.deadline = clock.Now() + std::chrono::seconds(Between(random, 1, 60));
        }
        auto submission = chaos.Submit(request);
        if (submission.ok()) {
          requests.push_back(request);
          calls.emplace_back();
          calls.back().id = submission->id;
          calls.back().reader = Reader(submission->stream);
        }
      }
      if (!calls.empty() && random() % 10 == 0) {
        chaos.Cancel(calls[random() % calls.size()].id);
      }
      if (random() % 100 == 0) fake.FailForward(1, absl::InternalError("lost"));
      if (random() % 50 == 0) fake.FailOpen(2, absl::ResourceExhaustedError("none"));
      clock.Advance(std::chrono::seconds(random() % 3));
      chaos.Step();
      const EngineUsage usage = fake.usage();
      ASSERT_EQ(watch.levels.engine.slots_used, usage.slots_used);
      ASSERT_EQ(watch.levels.running_sequences, usage.slots_used);
      for (Submitted& call : calls) {
        if (random() % 4 == 0) call.reader.Take();
      }
    }
    // Quiet again: everything that is left ends by itself.
    for (bool quiet = false; !quiet;) {
      const bool ran = chaos.Step();
      quiet = !ran && watch.levels.waiting_requests == 0 &&
              watch.levels.running_requests == 0;
      for (Submitted& call : calls) call.reader.Take();
    }
    for (std::size_t i = 0; i < calls.size(); ++i) {
      calls[i].reader.Take();
      ExpectSolo(requests[i], calls[i].reader);
    }
    EXPECT_EQ(watch.finished.size(), calls.size());
    EXPECT_EQ(fake.usage().slots_used, 0);
    EXPECT_EQ(fake.usage().pages_used, 0);
  }
}

}  // namespace
}  // namespace goldfinch
