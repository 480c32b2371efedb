// SampleRow against its plain twin over a grid of all parameters.
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/sampling/sampler.h"
#include "tests/reference/sample_reference.h"

namespace goldfinch {
namespace {

// Decisions nearer than this to a border are a matter of rounding (weights are float).
constexpr double kRounding = 3e-6;

struct Tally {
  int compared = 0;
  int too_near = 0;
};

std::string Describe(const SamplingParams& p) {
  return "temperature " + std::to_string(p.temperature) + " min_p " +
         std::to_string(p.min_p) + " top_k " + std::to_string(p.top_k) + " top_p " +
         std::to_string(p.top_p) + " repetition " + std::to_string(p.repetition_penalty) +
         " seed " + std::to_string(p.seed);
}

void Compare(std::span<const float> row, const SamplingParams& params,
             const reference::History& history, std::int64_t index,
             SampleScratch& scratch, Tally& tally) {
  TokenCounts counts(static_cast<std::int32_t>(row.size()));
  counts.AddPrompt(history.prompt);
  for (const TokenId token : history.output) counts.AddOutput(token);
  SampledToken out;
  SampleRow(row, params, params.HasPenalties() ? &counts : nullptr, index, scratch, out);
  const reference::Sampled expected = reference::Sample(row, params, history, index);
  if (expected.margin < kRounding) {
    ++tally.too_near;
    return;
  }
  ++tally.compared;
  ASSERT_EQ(out.token, expected.token) << Describe(params) << " index " << index;
}

// Most comparisons must count, or the test would say nothing.
void ExpectMostCompared(const Tally& tally) {
  EXPECT_GT(tally.compared, 9 * tally.too_near)
      << tally.compared << " compared, " << tally.too_near << " too near a border";
}

// (vocabulary, spread of the logits): short and long blocks, flat and peaked rows.
class SampleTwinTest : public testing::TestWithParam<std::tuple<int, double>> {
 protected:
  SampleTwinTest()
      : vocab_size_(static_cast<std::size_t>(std::get<0>(GetParam()))),
        scratch_(std::get<0>(GetParam())) {}

  std::vector<float> Row(std::uint64_t seed) const {
    return RandomRow(vocab_size_, std::get<1>(GetParam()), seed);
  }

  std::size_t vocab_size_;
  SampleScratch scratch_;
};

TEST_P(SampleTwinTest, EqualOverTheGridOfCuts) {
  Tally tally;
  std::uint64_t seed = 0;
  for (const float temperature : {0.0f, 1e-4f, 0.3f, 1.0f, 2.5f, 100.0f}) {
    for (const float min_p : {0.0f, 0.05f, 0.7f, 1.0f}) {
      for (const int top_k : {0, 1, 3, 40, 700, 100000}) {
        for (const float top_p : {1.0f, 1e-6f, 0.5f, 0.9f, 0.999f}) {
          SamplingParams params;
          params.temperature = temperature;
          params.min_p = min_p;
          params.top_k = top_k;
          params.top_p = top_p;
          params.seed = ++seed;
          Compare(Row(seed % 7), params, {}, static_cast<std::int64_t>(seed % 11),
                  scratch_, tally);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
  ExpectMostCompared(tally);
}

TEST_P(SampleTwinTest, EqualOverTheGridOfAdjustments) {
  Tally tally;
  std::uint64_t seed = 1000;
  for (const float repetition : {1.0f, 0.5f, 1.3f, 100.0f}) {
    for (const float frequency : {0.0f, 0.4f, -100.0f}) {
      for (const float presence : {0.0f, 1.5f, -0.5f}) {
        for (const std::int64_t min_tokens : {0, 5}) {
          for (const float temperature : {0.0f, 0.8f}) {
            SamplingParams params;
            params.temperature = temperature;
            params.top_k = seed % 3 == 0 ? 20 : 0;
            params.top_p = seed % 4 == 0 ? 0.8f : 1.0f;
            params.repetition_penalty = repetition;
            params.frequency_penalty = frequency;
            params.presence_penalty = presence;
            params.min_tokens = min_tokens;
            params.banned_before_min_tokens = {0, 2};
            params.logit_bias = {{1, 2.5f}, {3, -100.0f}, {0, 4.0f}};
            params.seed = ++seed;
            const reference::History history = RandomHistory(vocab_size_, seed);
            for (const std::int64_t index : {0, 4, 5, 900}) {
              Compare(Row(seed % 7), params, history, index, scratch_, tally);
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
  ExpectMostCompared(tally);
}

// Logits on a coarse grid, so that nearly every cut goes through equals.
TEST_P(SampleTwinTest, EqualWhenMostLogitsAreTied) {
  Tally tally;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::vector<float> row = Row(seed);
    for (float& x : row) x = std::round(x * 2.0f) / 2.0f;
    SamplingParams params;
    params.top_k = static_cast<std::int32_t>(1 + seed * seed % 500);
    params.top_p = seed % 2 == 0 ? 1.0f : 0.77f;
    params.seed = seed;
    Compare(row, params, {}, 0, scratch_, tally);
    if (HasFatalFailure()) return;
  }
  ExpectMostCompared(tally);
}

INSTANTIATE_TEST_SUITE_P(Rows, SampleTwinTest,
                         testing::Combine(testing::Values(4, 100, 128, 1000, 2000),
                                          testing::Values(0.3, 2.0, 8.0)));

TEST(SampleTwinFullVocabularyTest, EqualOnAFullVocabulary) {
  constexpr int kVocabSize = 65536;
  SampleScratch scratch(kVocabSize);
  Tally tally;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const std::vector<float> row = RandomRow(kVocabSize, seed % 2 == 0 ? 1.0 : 4.0, seed);
    SamplingParams params;
    params.seed = seed;
    params.temperature = seed % 5 == 0 ? 2.0f : 0.8f;
    if (seed % 3 == 1) params.top_p = 0.9f;
    if (seed % 4 == 1) params.top_k = seed % 8 == 1 ? 50 : 5000;
    if (seed % 6 == 5) params.min_p = 0.02f;
    Compare(row, params, {}, 3, scratch, tally);
    if (HasFatalFailure()) return;
  }
  // 65536 tokens have many borders: the draw is within rounding of one at times.
  EXPECT_GT(tally.compared, tally.too_near);
}

}  // namespace
}  // namespace goldfinch
