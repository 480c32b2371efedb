// What only the emulated device can show of sampling: that no bit depends on the order of
// threads, and that nothing is allocated once a backend is prepared.
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "tests/emulation/emulated_backend.h"
#include "tests/emulation/emulation.h"

namespace goldfinch {
namespace {

using emulation::Order;

constexpr std::int64_t kVocab = 5000;
constexpr std::int64_t kRows = 70;  // more than a launch takes

class EmulatedSampleTest : public testing::Test {
 protected:
  EmulatedSampleTest() : counts_(kVocab) {
    std::mt19937_64 random(1);
    // Coarse, so that there are equals everywhere.
    for (float& logit : logits_) logit = static_cast<float>(random() % 64) * 0.25f;
    // The highest are penalised, and no token is changed by the thread that copies it.
    for (std::int32_t token = 0; token < kVocab; token += 3) {
      counts_.AddOutput(token);
      logits_[static_cast<std::size_t>(token)] += 10.0f;
    }
    std::vector<SamplingParams> kinds(5);
    kinds[0].temperature = 0.0f;
    kinds[1].top_k = 100;
    kinds[2].top_p = 0.8f;
    kinds[3].top_k = 3000;
    kinds[3].top_p = 0.5f;
    kinds[4].min_p = 0.1f;
    kinds[4].presence_penalty = 30.0f;
    kinds[4].repetition_penalty = 1.5f;
    for (TokenId token = 2000; token > 1000; --token)
      kinds[4].logit_bias.emplace_back(token, 20.0f);
    kinds[4].min_tokens = kRows;
    kinds[4].banned_before_min_tokens = {1003, 17, 2};
    for (std::int64_t i = 0; i < kRows; ++i) {
      params_.push_back(kinds[static_cast<std::size_t>(i % 5)]);
      params_.back().num_logprobs = static_cast<std::int32_t>(i % 21);
    }
  }
  ~EmulatedSampleTest() override { emulation::SetOrder(Order::kForward); }

  static std::vector<float> Numbers(const std::vector<SampledToken>& sampled) {
    std::vector<float> numbers;
    for (const SampledToken& out : sampled) {
      numbers.insert(numbers.end(), {static_cast<float>(out.token), out.logprob});
      for (const auto& [token, logprob] : out.top)
        numbers.insert(numbers.end(), {static_cast<float>(token), logprob});
    }
    return numbers;
  }

  // Results of sampling and of scoring, as numbers to compare.
  std::vector<float> Run(Backend& backend, const Matrix& logits) const {
    std::vector<SampledToken> sampled(kRows);
    std::vector<ScoredToken> scored(kRows);
    std::vector<Backend::SampleRequest> samples;
    std::vector<Backend::ScoreRequest> scores;
    for (std::int64_t i = 0; i < kRows; ++i) {
      const auto at = static_cast<std::size_t>(i);
      samples.push_back({.row = i % 2,
                         .params = &params_[at],
                         .counts = &counts_,
                         .num_generated = i,
                         .out = &sampled[at]});
      scores.push_back(
          {.row = i % 2, .target = static_cast<TokenId>(i * 7), .out = &scored[at]});
    }
    backend.Sample(logits, samples);
    backend.Score(logits, scores);
    std::vector<float> numbers = Numbers(sampled);
    for (const ScoredToken& out : scored)
      numbers.insert(numbers.end(), {out.logprob, out.is_greedy ? 1.0f : 0.0f});
    return numbers;
  }

  std::vector<float> logits_ = std::vector<float>(2 * kVocab);
  TokenCounts counts_;
  std::vector<SamplingParams> params_;
};

TEST_F(EmulatedSampleTest, BitsDoNotDependOnTheOrderOfThreadsAndNothingIsAllocated) {
  auto backend = cuda_emulated::CreateCudaBackend(cuda_emulated::kTightOptions);
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto bytes = static_cast<std::int64_t>(logits_.size() * sizeof(float));
  const auto memory = (*backend)->Allocate(bytes);
  (*backend)->CopyToDevice(memory->data(), logits_.data(), bytes);
  const Matrix logits = {
      .data = memory->data(), .rows = 2, .cols = kVocab, .stride = kVocab};
  (*backend)->Prepare(2, kVocab, kRows);
  const std::int64_t allocations = emulation::NumAllocations();
  const std::vector<float> first = Run(**backend, logits);
  for (const Order order : {Order::kBackward, Order::kShuffled}) {
    emulation::SetOrder(order);
    EXPECT_EQ(Run(**backend, logits), first) << static_cast<int>(order);
  }
  EXPECT_EQ(emulation::NumAllocations(), allocations);
}

// Also where all other counts are entered in the same launch, one of that token among
// them.
TEST_F(EmulatedSampleTest, AChosenTokenThatNobodyHasSeenIsCounted) {
  auto backend = cuda_emulated::CreateCudaBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  (*backend)->Prepare(2, kVocab, kRows);
  const auto bytes = static_cast<std::int64_t>(logits_.size() * sizeof(float));
  const auto memory = (*backend)->Allocate(bytes);
  (*backend)->CopyToDevice(memory->data(), logits_.data(), bytes);
  const Matrix logits = {
      .data = memory->data(), .rows = 2, .cols = kVocab, .stride = kVocab};
  SamplingParams penalised;
  penalised.temperature = 0.0f;
  penalised.frequency_penalty = 3.0f;
  penalised.num_logprobs = 20;
  const auto request = [&](const TokenCounts& counts, SampledToken& out) {
    return Backend::SampleRequest{.params = &penalised, .counts = &counts, .out = &out};
  };

  SampledToken newest, next, expected;
  const TokenCounts lacks_newest = counts_;  // unknown to the backend, as is `has_newest`
  const std::vector first = {request(counts_, newest)};
  (*backend)->StartSample(logits, first, 0);
  std::vector second = {request(lacks_newest, next)};
  second[0].pending = 0;
  (*backend)->StartSample(logits, second, 1);
  (*backend)->FinishSample(0);
  (*backend)->FinishSample(1);
  TokenCounts has_newest = counts_;
  has_newest.AddOutput(newest.token);
  (*backend)->Sample(logits, std::vector{request(has_newest, expected)});

  EXPECT_GT(counts_.OutputCount(newest.token), 0);
  EXPECT_NE(next.token, newest.token);
  EXPECT_EQ(Numbers({next}), Numbers({expected}));
}

TEST_F(EmulatedSampleTest, AsManySequencesAsWerePreparedForAreOneLaunch) {
  auto backend = cuda_emulated::CreateCudaBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  constexpr std::int64_t kSequences = 200;
  (*backend)->Prepare(2, 100, kSequences);
  const auto memory = (*backend)->Allocate(2 * 100 * sizeof(float));
  const Matrix logits = {.data = memory->data(), .rows = 2, .cols = 100, .stride = 100};
  const auto calls = [&](std::int64_t sequences) {
    std::vector<SampledToken> out(static_cast<std::size_t>(sequences));
    std::vector<Backend::SampleRequest> requests;
    for (SampledToken& one : out)
      requests.push_back({.row = 1, .params = &params_[0], .out = &one});
    const std::int64_t before = emulation::NumCalls();
    (*backend)->Sample(logits, requests);
    return emulation::NumCalls() - before;
  };
  // Many results may take a copy more; one launch more has its own copies.
  const std::int64_t once = calls(kSequences);
  EXPECT_LE(once, calls(1) + 1);
  EXPECT_GE(calls(kSequences + 1), once + 3);
  EXPECT_EQ((*backend)->max_logit_rows(), 256);
}

}  // namespace
}  // namespace goldfinch
