// Every sampling field by itself, and the order in which they apply.
#include <cmath>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/sampling/sampler.h"

namespace goldfinch {
namespace {

using Tokens = std::set<TokenId>;

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0.0f;
  return params;
}

// A row whose softmax at temperature 1 is proportional to `weights`.
std::vector<float> Proportional(const std::vector<double>& weights) {
  std::vector<float> row;
  for (const double w : weights) row.push_back(static_cast<float>(std::log(w)));
  return row;
}

TEST(SampleFieldsTest, GreedyTakesTheHighestAndTheLowestIdOfEquals) {
  EXPECT_EQ(Sample(std::vector<float>{1, 5, 3, 5}, Greedy()).token, 1);
  std::vector<float> row(1000, -1.0f);
  row[700] = row[300] = row[301] = 2.0f;
  EXPECT_EQ(Sample(row, Greedy()).token, 300);
  EXPECT_EQ(Sample(std::vector<float>{-1.0f, -0.0f, 0.0f}, Greedy()).token, 1);
}

TEST(SampleFieldsTest, GreedyStartsBelowOneHundredThousandth) {
  const std::vector<float> row = {0.0f, 1e-6f};
  SamplingParams params;
  params.temperature = 0.99e-5f;
  EXPECT_EQ(Drawn(row, params), Tokens({1}));
  params.temperature = 1e-5f;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1}));
}

TEST(SampleFieldsTest, TopKKeepsExactlyKAndTheLowestIdsOfEquals) {
  SamplingParams params;
  params.temperature = 50.0f;
  params.top_k = 3;
  EXPECT_EQ(Drawn(std::vector<float>{1, 2, 1, 2, 1}, params), Tokens({0, 1, 3}));
  EXPECT_EQ(Drawn(std::vector<float>(500, 0.0f), params), Tokens({0, 1, 2}));
  EXPECT_EQ(Drawn(std::vector<float>{-0.0f, 0.0f, -0.0f, 0.0f}, params),
            Tokens({0, 1, 2}));
  params.top_k = 1;
  EXPECT_EQ(Drawn(std::vector<float>{1, 2, 1, 2, 1}, params), Tokens({1}));
}

// At this temperature both weights are 1 in float; the logits still differ.
TEST(SampleFieldsTest, TopKRanksByLogitNotByRoundedWeight) {
  SamplingParams params;
  params.temperature = 100.0f;
  params.top_k = 1;
  const std::vector<float> row = {1.0f, std::nextafter(1.0f, 2.0f)};
  EXPECT_EQ(Drawn(row, params), Tokens({1}));
}

TEST(SampleFieldsTest, TopKAtOrAboveTheVocabularyIsOff) {
  const std::vector<float> row = RandomRow(50, 0.5, 1);
  SamplingParams off;
  for (const std::int32_t top_k : {50, 51, 2147483647}) {
    SamplingParams on;
    on.top_k = top_k;
    for (std::int64_t i = 0; i < 200; ++i) {
      ASSERT_EQ(Sample(row, on, i).token, Sample(row, off, i).token);
    }
  }
}

TEST(SampleFieldsTest, MinPIsRelativeToTheHighestAfterTemperature) {
  const std::vector<float> row = Proportional({8, 4.1, 3.9, 2.1, 1.9});
  SamplingParams params;
  params.min_p = 0.5f;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1}));
  params.min_p = 0.25f;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1, 2, 3}));
  params.temperature = 2.0f;
  params.min_p = 0.5f;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1, 2, 3}));
}

TEST(SampleFieldsTest, MinPOneKeepsTheHighestAndItsEquals) {
  SamplingParams params;
  params.min_p = 1.0f;
  EXPECT_EQ(Drawn(std::vector<float>{1, 3, 2.999f, 3, -4}, params), Tokens({1, 3}));
}

TEST(SampleFieldsTest, TopPKeepsTheFewestThatReachIt) {
  const std::vector<float> row = Proportional({1, 2, 3, 4});
  SamplingParams params;
  params.top_p = 0.39f;
  EXPECT_EQ(Drawn(row, params), Tokens({3}));
  params.top_p = 0.41f;
  EXPECT_EQ(Drawn(row, params), Tokens({2, 3}));
  params.top_p = 0.69f;
  EXPECT_EQ(Drawn(row, params), Tokens({2, 3}));
  params.top_p = 0.71f;
  EXPECT_EQ(Drawn(row, params), Tokens({1, 2, 3}));
  params.top_p = 0.91f;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1, 2, 3}));
}

TEST(SampleFieldsTest, TopPStopsWhereTheSumIsExactlyReached) {
  SamplingParams params;
  params.top_p = 0.5f;
  EXPECT_EQ(Drawn(std::vector<float>(4, 0.0f), params), Tokens({0, 1}));
}

TEST(SampleFieldsTest, TinyTopPKeepsOneToken) {
  SamplingParams params;
  for (const float top_p : {0.9e-3f, 1e-30f, 1e-45f}) {
    params.top_p = top_p;
    EXPECT_EQ(Drawn(RandomRow(1000, 0.1, 5), params).size(), 1u);
    EXPECT_EQ(Drawn(std::vector<float>(1000, 0.0f), params), Tokens({0}));
  }
}

TEST(SampleFieldsTest, TopPJustBelowOneLosesNothingThatCounts) {
  SamplingParams params;
  params.top_p = std::nextafter(1.0f, 0.0f);
  EXPECT_EQ(Drawn(std::vector<float>(20, 0.0f), params).size(), 20u);
}

TEST(SampleFieldsTest, TopPIsOfWhatMinPAndTopKLeave) {
  const std::vector<float> row = Proportional({4, 3, 2, 1});
  SamplingParams params;
  params.top_p = 0.6f;  // of all: {4, 3}; of {4, 3}: 4 alone is 0.571, so {4, 3}
  params.top_k = 2;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1}));
  params.top_p = 0.56f;  // of all: {4, 3}; of {4, 3}: {4}
  EXPECT_EQ(Drawn(row, params), Tokens({0}));
  params.top_k = 0;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1}));
  params.min_p = 0.7f;
  EXPECT_EQ(Drawn(row, params), Tokens({0}));
}

TEST(SampleFieldsTest, RepetitionPenaltyIsOverPromptAndOutput) {
  TokenCounts counts(5);
  counts.AddPrompt(std::vector<TokenId>{0, 0, 0, 3});
  counts.AddOutput(1);
  SamplingParams params = Greedy();
  params.repetition_penalty = 2.0f;
  // Positive logits are divided, once each: 1.5, 1, 1.2.
  EXPECT_EQ(Sample(std::vector<float>{3, 2, 1.2f, 0, 0}, params, 1, &counts).token, 0);
  EXPECT_EQ(Sample(std::vector<float>{3, 2, 1.6f, 0, 0}, params, 1, &counts).token, 2);
  // Negative ones are multiplied: -2, -4, -3.
  EXPECT_EQ(Sample(std::vector<float>{-1, -2, -3, -9, -9}, params, 1, &counts).token, 0);
  EXPECT_EQ(Sample(std::vector<float>{-2, -2, -3, -9, -9}, params, 1, &counts).token, 2);
  // Below 1 it invites repetition.
  params.repetition_penalty = 0.5f;
  EXPECT_EQ(Sample(std::vector<float>{0, 2, 3, 0, 0}, params, 1, &counts).token, 1);
}

TEST(SampleFieldsTest, FrequencyPenaltyCountsTheOutputOnly) {
  TokenCounts counts(3);
  counts.AddPrompt(std::vector<TokenId>{2, 2, 2, 2});
  for (int i = 0; i < 3; ++i) counts.AddOutput(0);
  SamplingParams params = Greedy();
  params.frequency_penalty = 1.0f;
  EXPECT_EQ(Sample(std::vector<float>{5, 1.9f, 1}, params, 3, &counts).token, 0);
  EXPECT_EQ(Sample(std::vector<float>{5, 2.1f, 1}, params, 3, &counts).token, 1);
  EXPECT_EQ(Sample(std::vector<float>{5, 2.1f, 3}, params, 3, &counts).token, 2);
}

TEST(SampleFieldsTest, PresencePenaltyIsOncePerGeneratedToken) {
  TokenCounts counts(3);
  counts.AddPrompt(std::vector<TokenId>{2});
  for (int i = 0; i < 3; ++i) counts.AddOutput(0);
  SamplingParams params = Greedy();
  params.presence_penalty = 1.0f;
  EXPECT_EQ(Sample(std::vector<float>{5, 3.9f, 1}, params, 3, &counts).token, 0);
  EXPECT_EQ(Sample(std::vector<float>{5, 4.1f, 1}, params, 3, &counts).token, 1);
  EXPECT_EQ(Sample(std::vector<float>{5, 1, 4.1f}, params, 3, &counts).token, 2);
  params.presence_penalty = -1.0f;
  EXPECT_EQ(Sample(std::vector<float>{5, 5.9f, 1}, params, 3, &counts).token, 0);
}

TEST(SampleFieldsTest, RepetitionComesBeforeFrequencyAndPresence) {
  TokenCounts counts(2);
  counts.AddOutput(0);
  SamplingParams params = Greedy();
  params.repetition_penalty = 2.0f;
  params.frequency_penalty = 1.0f;
  params.presence_penalty = 1.0f;
  // 10 / 2 - 1 - 1 = 3, while (10 - 1 - 1) / 2 = 4.
  EXPECT_EQ(Sample(std::vector<float>{10, 3.5f}, params, 1, &counts).token, 1);
}

TEST(SampleFieldsTest, LogitBiasComesBeforePenalties) {
  TokenCounts counts(2);
  counts.AddOutput(0);
  SamplingParams params = Greedy();
  params.logit_bias = {{0, 3.0f}};
  params.repetition_penalty = 2.0f;
  // (1 + 3) / 2 = 2, while 1 / 2 + 3 = 3.5.
  EXPECT_EQ(Sample(std::vector<float>{1, 3}, params, 1, &counts).token, 1);
  EXPECT_EQ(Sample(std::vector<float>{1, 1.5f}, params, 1, &counts).token, 0);
}

TEST(SampleFieldsTest, LogitBiasCanForceAndForbid) {
  const std::vector<float> row = RandomRow(100, 2.0, 8);
  SamplingParams params;
  params.logit_bias = {{42, 100.0f}};
  EXPECT_EQ(Drawn(row, params), Tokens({42}));
  params.logit_bias = {{42, -100.0f}};
  EXPECT_EQ(Drawn(row, params, 4000).count(42), 0u);
}

TEST(SampleFieldsTest, BansHoldUntilMinTokensAreGenerated) {
  const std::vector<float> row = {9, 1, 8, 0};
  SamplingParams params = Greedy();
  params.min_tokens = 3;
  params.banned_before_min_tokens = {0, 2};
  for (const std::int64_t generated : {0, 1, 2}) {
    EXPECT_EQ(Sample(row, params, generated).token, 1) << generated;
  }
  EXPECT_EQ(Sample(row, params, 3).token, 0);
  params.temperature = 100.0f;
  SampleScratch scratch(4);
  SampledToken out;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    params.seed = seed;
    SampleRow(row, params, nullptr, 2, scratch, out);
    ASSERT_TRUE(out.token == 1 || out.token == 3);
  }
}

TEST(SampleFieldsTest, BiasDoesNotLiftABan) {
  SamplingParams params = Greedy();
  params.min_tokens = 1;
  params.banned_before_min_tokens = {0};
  params.logit_bias = {{0, 100.0f}};
  EXPECT_EQ(Sample(std::vector<float>{5, -50}, params, 0).token, 1);
}

TEST(SampleFieldsTest, TokenIsAFunctionOfSeedCandidateAndIndexOnly) {
  const std::vector<float> row = RandomRow(1000, 1.0, 9);
  SampleScratch used(3000);
  SampledToken out;
  // A scratch that is larger and full of other rows' leftovers changes nothing.
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SamplingParams params;
    params.seed = seed;
    params.candidate = static_cast<std::uint32_t>(seed % 3);
    params.top_p = seed % 2 == 0 ? 1.0f : 0.95f;
    const auto index = static_cast<std::int64_t>(seed * 31);
    SampleRow(RandomRow(3000, 3.0, seed), params, nullptr, 1, used, out);
    SampleRow(row, params, nullptr, index, used, out);
    EXPECT_EQ(out.token, Sample(row, params, index).token);
  }
}

TEST(SampleFieldsTest, SeedsCandidatesAndIndexesDrawApart) {
  const std::vector<float> row(50000, 0.0f);
  SamplingParams params;
  std::set<TokenId> tokens = {Sample(row, params, 0).token};
  for (std::uint32_t i = 1; i < 10; ++i) {
    tokens.insert(Sample(row, params, i).token);
    SamplingParams other = params;
    other.candidate = i;
    tokens.insert(Sample(row, other, 0).token);
    other = params;
    other.seed = i;
    tokens.insert(Sample(row, other, 0).token);
  }
  // Of 28 draws; two may land on one of 50000 tokens by chance.
  EXPECT_GE(tokens.size(), 26u);
}

}  // namespace
}  // namespace goldfinch
