// A scheduler over a fake engine and a clock that stands still, stepped by hand; and what
// a request should produce, worked out without any of them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/scheduler.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_engine.h"

namespace goldfinch {

// Stops at the first token that is a multiple of `divisor`, reporting index 3.
class StopAtMultiple final : public StopCondition {
 public:
  explicit StopAtMultiple(TokenId divisor) : divisor_(divisor) {}
  int Push(TokenId token) override { return token % divisor_ == 0 ? 3 : -1; }

 private:
  const TokenId divisor_;
};

// What one candidate has produced.
struct CandidateOutput {
  std::vector<TokenId> tokens;
  std::optional<StreamEvent> finished;
};

// A reader that keeps everything.
class Reader {
 public:
  Reader() = default;
  explicit Reader(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {}

  void Take() { Keep(stream_->Take()); }

  // Blocks until the stream ends.
  void TakeUntilEnd() {
    while (!status_) Keep(stream_->WaitAndTake(TimePoint::max()));
  }

  TokenStream& stream() { return *stream_; }
  bool ended() const { return status_.has_value(); }
  absl::Status status() const {
    return status_.value_or(absl::UnknownError("the stream has not ended"));
  }
  const std::vector<TokenId>& tokens(std::int32_t candidate = 0) {
    return candidates[candidate].tokens;
  }

  std::map<std::int32_t, CandidateOutput> candidates;
  std::optional<StreamEvent> scores;
  std::optional<StreamEvent> filled;

 private:
  void Keep(TokenStream::Batch batch) {
    EXPECT_TRUE(!ended() || (batch.events.empty() && !batch.end)) << "more after the end";
    for (StreamEvent& event : batch.events) {
      CandidateOutput& output = candidates[event.candidate];
      EXPECT_FALSE(output.finished) << "more after the candidate finished";
      switch (event.kind) {
        case StreamEvent::Kind::kToken:
          output.tokens.push_back(event.sample.token);
          break;
        case StreamEvent::Kind::kFinished:
          output.finished = std::move(event);
          break;
        case StreamEvent::Kind::kScores:
          scores = std::move(event);
          break;
        case StreamEvent::Kind::kFilled:
          EXPECT_FALSE(filled.has_value());
          filled = std::move(event);
          break;
      }
    }
    if (batch.end) status_ = std::move(batch.end);
  }

  std::shared_ptr<TokenStream> stream_;
  std::optional<absl::Status> status_;
};

class RecordingObserver final : public SchedulerObserver {
 public:
  void OnLevels(const SchedulerLevels& now) override { levels = now; }
  void OnStep(const StepReport& report) override { steps.push_back(report); }
  void OnFirstToken(std::chrono::nanoseconds since) override { first.push_back(since); }
  void OnInterToken(std::chrono::nanoseconds since) override { inter.push_back(since); }
  void OnPrefixLookup(PrefixLookup lookup) override {
    if (on_lookup) on_lookup(lookup);
  }
  void OnFinished(const RequestReport& report) override { finished.push_back(report); }
  void OnRefused(const absl::Status& status) override { refused.push_back(status); }
  void OnEngineError(const absl::Status& status) override { errors.push_back(status); }

  std::function<void(PrefixLookup)> on_lookup;
  SchedulerLevels levels;
  std::vector<StepReport> steps;
  std::vector<std::chrono::nanoseconds> first;
  std::vector<std::chrono::nanoseconds> inter;
  std::vector<RequestReport> finished;
  std::vector<absl::Status> refused;
  std::vector<absl::Status> errors;
};

// A prompt of its own for every seed; sampling.seed is the seed as well.
inline Request Generation(std::int64_t prompt_tokens, std::int64_t max_tokens,
                          std::uint64_t seed = 1) {
  Request request;
  std::mt19937_64 random(seed);
  for (std::int64_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>(random() % 1000));
  }
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  request.ignore_eos = true;
  return request;
}

// The tokens `candidate` of the request has to produce, by the hash alone.
inline std::vector<TokenId> ExpectedTokens(const Request& request,
                                           std::int32_t candidate = 0) {
  SamplingParams sampling = request.sampling;
  sampling.candidate = static_cast<std::uint32_t>(candidate);
  sampling.banned_before_min_tokens = request.stop_token_ids;
  if (!request.ignore_eos) sampling.banned_before_min_tokens.push_back(kEndOfText);
  std::vector<TokenId> tokens =
      FakeEngine::Expected(request.prompt, sampling, request.max_tokens);
  std::unique_ptr<StopCondition> stop;
  if (request.make_stop_condition) stop = request.make_stop_condition();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    bool stops = stop && stop->Push(tokens[i]) >= 0;
    stops = stops || (!request.ignore_eos && tokens[i] == kEndOfText);
    for (const TokenId id : request.stop_token_ids) stops = stops || tokens[i] == id;
    if (!stops || static_cast<std::int64_t>(i) < request.sampling.min_tokens) continue;
    tokens.resize(i + 1);
    break;
  }
  return tokens;
}

class SchedulerTest : public ::testing::Test {
 protected:
  // Called by the first use; options may be set before it.
  Scheduler& scheduler() {
    if (!scheduler_) {
      engine_ = std::make_unique<FakeEngine>(engine_options);
      scheduler_ = std::make_unique<Scheduler>(*engine_, options, clock, observer);
    }
    return *scheduler_;
  }
  FakeEngine& engine() {
    scheduler();
    return *engine_;
  }

  struct Submitted {
    RequestId id;
    Reader reader;
  };
  Submitted Submit(Request request) {
    absl::StatusOr<Scheduler::Submission> submission =
        scheduler().Submit(std::move(request));
    EXPECT_TRUE(submission.ok()) << submission.status();
    if (!submission.ok()) return {};
    return {.id = submission->id, .reader = Reader(submission->stream)};
  }

  bool Step() { return scheduler().Step(); }
  void RunUntilIdle() {
    while (Step()) {
    }
  }

  // I1, and that the levels say so.
  void ExpectAtRest() {
    EXPECT_EQ(engine().usage().pages_used, 0);
    EXPECT_EQ(engine().usage().slots_used, 0);
    EXPECT_EQ(observer.levels.running_requests, 0);
    EXPECT_EQ(observer.levels.running_sequences, 0);
    EXPECT_EQ(observer.levels.waiting_requests, 0);
    EXPECT_EQ(observer.levels.waiting_tokens, 0);
    EXPECT_EQ(observer.levels.paused_requests, 0);
    EXPECT_EQ(observer.levels.engine.pages_used, 0);
    EXPECT_EQ(observer.levels.engine.slots_used, 0);
  }

  FakeEngineOptions engine_options;
  SchedulerOptions options;
  FakeClock clock;
  RecordingObserver observer;

 private:
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace goldfinch
