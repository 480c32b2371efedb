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

// Arrivals, cancellations, deadlines, slow readers and faults in an order of its seed.
class Chaos {
 public:
  explicit Chaos(std::uint64_t seed)
      : random_(seed),
        engine_({.num_pages = Between(random_, 40, 200),
                 .num_slots = static_cast<std::int32_t>(Between(random_, 5, 20)),
                 .runs_ahead = OneIn(2)}),
        scheduler_(engine_, RandomOptions(random_), clock_, observer_) {}

  void Step() {
    if (OneIn(3)) SubmitSomething();
    if (!calls_.empty() && OneIn(10)) {
      scheduler_.Cancel(calls_[random_() % calls_.size()].id);
    }
    if (OneIn(100)) {
      engine_.FailForward(static_cast<int>(Between(random_, 1, 3)),
                          absl::InternalError("lost"));
    }
    if (OneIn(50)) engine_.FailOpen(2, absl::ResourceExhaustedError("none"));
    clock_.Advance(std::chrono::seconds(Between(random_, 0, 2)));
    scheduler_.Step();
    ASSERT_EQ(observer_.levels.engine.slots_used, engine_.usage().slots_used);
    ASSERT_EQ(observer_.levels.running_sequences, engine_.usage().slots_used);
    for (Call& call : calls_) {
      if (OneIn(4)) call.reader.Take();
    }
  }

  // With everybody reading, everything that is left ends by itself.
  void ComeToRest() {
    const SchedulerLevels& levels = observer_.levels;
    while (scheduler_.Step() || levels.waiting_requests + levels.running_requests > 0) {
      for (Call& call : calls_) call.reader.Take();
    }
    for (Call& call : calls_) call.reader.Take();
  }

  void ExpectInvariants() {
    for (Call& call : calls_) ExpectSolo(call.request, call.reader);
    EXPECT_EQ(observer_.finished.size(), calls_.size());
    EXPECT_EQ(engine_.usage().slots_used, 0);
    EXPECT_EQ(engine_.usage().pages_used, 0);
  }

 private:
  struct Call {
    RequestId id{};
    Request request;
    Reader reader;
  };

  static SchedulerOptions RandomOptions(std::mt19937_64& random) {
    SchedulerOptions options;
    options.step_tokens = Between(random, 1, 100);
    options.max_queued_requests = Between(random, 1, 20);
    options.stream_buffer_tokens = Between(random, 1, 30);
    return options;
  }

  bool OneIn(std::uint64_t n) { return random_() % n == 0; }

  void SubmitSomething() {
    Call call;
    call.request = RandomRequest(random_, random_() % 100000);
    if (OneIn(4)) {
      call.request.deadline =
          clock_.Now() + std::chrono::seconds(Between(random_, 1, 60));
    }
    auto submission = scheduler_.Submit(call.request);
    if (!submission.ok()) return;
    call.id = submission->id;
    call.reader = Reader(submission->stream);
    calls_.push_back(std::move(call));
  }

  std::mt19937_64 random_;
  FakeEngine engine_;
  FakeClock clock_;
  RecordingObserver observer_;
  Scheduler scheduler_;
  std::vector<Call> calls_;
};

TEST_F(StressTest, AnyOrderOfEventsKeepsTheInvariants) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Chaos chaos(seed);
    for (int step = 0; step < 400; ++step) chaos.Step();
    chaos.ComeToRest();
    chaos.ExpectInvariants();
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace goldfinch
