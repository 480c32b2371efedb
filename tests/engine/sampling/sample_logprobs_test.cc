#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/sampling/sampler.h"
#include "tests/reference/sample_reference.h"

namespace goldfinch {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(SampleLogprobsTest, NoneUnlessAskedFor) {
  SampledToken out;
  out.top = {{3, 1.0f}};
  SampleScratch scratch(3);
  SampleRow(std::vector<float>{1, 2, 3}, SamplingParams(), nullptr, 0, scratch, out);
  EXPECT_TRUE(out.top.empty());
}

TEST(SampleLogprobsTest, EqualTheTwinOnRowsOfAnySize) {
  for (const std::size_t size : {1u, 7u, 128u, 500u, 65536u}) {
    for (const double spread : {0.5, 5.0, 30.0}) {
      const std::vector<float> row = RandomRow(size, spread, size);
      const std::vector<double> logprobs = reference::Logprobs(row);
      for (const std::int32_t count : {0, 1, 5, 20}) {
        SamplingParams params;
        params.num_logprobs = count;
        params.temperature = 3.0f;
        const SampledToken out = Sample(row, params);
        EXPECT_NEAR(static_cast<double>(out.logprob),
                    logprobs[static_cast<std::size_t>(out.token)], 2e-5);
        const std::vector<TokenId> top =
            reference::Top(row, static_cast<std::size_t>(count));
        ASSERT_EQ(out.top.size(), top.size());
        for (std::size_t i = 0; i < top.size(); ++i) {
          EXPECT_EQ(out.top[i].token, top[i]);
          EXPECT_NEAR(static_cast<double>(out.top[i].logprob),
                      logprobs[static_cast<std::size_t>(top[i])], 2e-5);
        }
      }
    }
  }
}

TEST(SampleLogprobsTest, AreOfTheRawLogits) {
  const std::vector<float> row = {1, 2, 3, 4};
  TokenCounts counts(4);
  counts.AddOutput(3);
  SamplingParams params;
  params.temperature = 0.1f;
  params.top_k = 1;
  params.logit_bias = {{3, -50.0f}};
  params.presence_penalty = 5.0f;
  params.min_tokens = 9;
  params.banned_before_min_tokens = {2};
  params.num_logprobs = 4;
  const SampledToken out = Sample(row, params, 1, &counts);
  const std::vector<double> logprobs = reference::Logprobs(row);
  EXPECT_EQ(out.token, 1);
  EXPECT_NEAR(static_cast<double>(out.logprob), logprobs[1], 1e-6);
  ASSERT_EQ(out.top.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(out.top[i].token, static_cast<TokenId>(3 - i));
    EXPECT_NEAR(static_cast<double>(out.top[i].logprob), logprobs[3 - i], 1e-6);
  }
}

TEST(SampleLogprobsTest, TiesGoToTheLowestIds) {
  std::vector<float> row(400, 1.0f);
  row[390] = 2.0f;
  SamplingParams params;
  params.num_logprobs = 4;
  const SampledToken out = Sample(row, params);
  ASSERT_EQ(out.top.size(), 4u);
  EXPECT_EQ(out.top[0].token, 390);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(out.top[i].token, i - 1);
}

TEST(SampleLogprobsTest, AskingForMoreThanTheVocabularyGivesAllOfIt) {
  SamplingParams params;
  params.num_logprobs = 20;
  EXPECT_EQ(Sample(std::vector<float>{1, 2, 3}, params).top.size(), 3u);
}

TEST(SampleLogprobsTest, NaNAndMinusInfinityComeLastAtMinusInfinity) {
  SamplingParams params;
  params.num_logprobs = 4;
  const SampledToken out = Sample(std::vector<float>{kNaN, 1.0f, -kInf, 1.0f}, params);
  ASSERT_EQ(out.top.size(), 4u);
  EXPECT_EQ(out.top[0].token, 1);
  EXPECT_EQ(out.top[1].token, 3);
  EXPECT_NEAR(static_cast<double>(out.top[1].logprob), -std::log(2.0), 1e-6);
  EXPECT_EQ(out.top[2].token, 0);
  EXPECT_EQ(out.top[3].token, 2);
  EXPECT_EQ(out.top[2].logprob, -kInf);
  EXPECT_EQ(out.top[3].logprob, -kInf);
}

TEST(SampleLogprobsTest, RowWithoutAnyLogitIsMinusInfinityThroughout) {
  SamplingParams params;
  params.num_logprobs = 2;
  const SampledToken out = Sample(std::vector<float>(300, kNaN), params);
  EXPECT_EQ(out.logprob, -kInf);
  ASSERT_EQ(out.top.size(), 2u);
  EXPECT_EQ(out.top[0].token, 0);
  EXPECT_EQ(out.top[1].token, 1);
  EXPECT_EQ(out.top[1].logprob, -kInf);
}

TEST(SampleLogprobsTest, TopReusesItsStorage) {
  const std::vector<float> row = RandomRow(1000, 1.0, 1);
  SamplingParams params;
  params.num_logprobs = 20;
  SampleScratch scratch(1000);
  SampledToken out;
  SampleRow(row, params, nullptr, 0, scratch, out);
  const TokenLogprob* storage = out.top.data();
  SampleRow(row, params, nullptr, 1, scratch, out);
  EXPECT_EQ(out.top.data(), storage);
}

TEST(ScoreRowTest, EqualsTheTwinAndSampleRow) {
  for (const std::size_t size : {1u, 5u, 129u, 65536u}) {
    const std::vector<float> row = RandomRow(size, 4.0, size + 1);
    const std::vector<double> logprobs = reference::Logprobs(row);
    const TokenId best = reference::Top(row, 1)[0];
    for (std::size_t i = 0; i < size; i += 1 + size / 50) {
      const ScoredToken score = ScoreRow(row, static_cast<TokenId>(i));
      EXPECT_NEAR(static_cast<double>(score.logprob), logprobs[i], 2e-5);
      EXPECT_EQ(score.is_greedy, static_cast<TokenId>(i) == best);
    }
    SamplingParams params;
    params.temperature = 0.0f;
    params.num_logprobs = 0;
    const SampledToken sampled = Sample(row, params);
    EXPECT_EQ(sampled.token, best);
    EXPECT_EQ(ScoreRow(row, best).logprob, sampled.logprob);
    EXPECT_TRUE(ScoreRow(row, best).is_greedy);
  }
}

TEST(ScoreRowTest, OnlyTheLowestIdOfEqualsIsGreedy) {
  const std::vector<float> row = {1, 4, 4};
  EXPECT_FALSE(ScoreRow(row, 0).is_greedy);
  EXPECT_TRUE(ScoreRow(row, 1).is_greedy);
  EXPECT_FALSE(ScoreRow(row, 2).is_greedy);
}

TEST(ScoreRowTest, NaNAndEmptyRows) {
  EXPECT_EQ(ScoreRow(std::vector<float>{kNaN, 1.0f}, 0).logprob, -kInf);
  EXPECT_EQ(ScoreRow(std::vector<float>{kNaN, 1.0f}, 1).logprob, 0.0f);
  EXPECT_TRUE(ScoreRow(std::vector<float>{kNaN, 1.0f}, 1).is_greedy);
  EXPECT_EQ(ScoreRow(std::vector<float>(3, kNaN), 1).logprob, -kInf);
  EXPECT_TRUE(ScoreRow(std::vector<float>(3, kNaN), 0).is_greedy);
  EXPECT_FALSE(ScoreRow(std::vector<float>(3, kNaN), 1).is_greedy);
}

}  // namespace
}  // namespace goldfinch
