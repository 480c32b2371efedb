// Rows and parameters at their extremes: the answer is always a valid token.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/sampling/sampler.h"

namespace goldfinch {
namespace {

using Tokens = std::set<TokenId>;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();

TEST(SampleHardRowsTest, NaNIsNeverChosen) {
  for (const SamplingParams& params : EveryWay()) {
    const Tokens few = Drawn(std::vector<float>{kNaN, 1.0f, kNaN, 2.0f, kNaN}, params);
    EXPECT_TRUE(few == Tokens({1, 3}) || few == Tokens({3}));
    std::vector<float> row(1000, kNaN);
    row[777] = -50.0f;
    EXPECT_EQ(Drawn(row, params), Tokens({777}));
  }
}

TEST(SampleHardRowsTest, MinusInfinityIsNeverChosen) {
  std::vector<float> row(1000, -kInf);
  row[5] = -1e30f;
  for (const SamplingParams& params : EveryWay()) {
    EXPECT_EQ(Drawn(row, params), Tokens({5}));
  }
}

TEST(SampleHardRowsTest, InfinityCountsAsTheLargestFloat) {
  std::vector<float> row(300, 3.0f);
  row[200] = kInf;
  for (const SamplingParams& params : EveryWay()) {
    EXPECT_EQ(Drawn(row, params), Tokens({200}));
  }
  row[100] = kMax;
  EXPECT_EQ(Drawn(row, EveryWay()[1]), Tokens({100, 200}));
  EXPECT_EQ(Drawn(row, EveryWay()[0]), Tokens({100}));
}

TEST(SampleHardRowsTest, WithoutAnyLogitTheLowestTokenThatIsNotBanned) {
  for (const float nothing : {kNaN, -kInf}) {
    const std::vector<float> row(10, nothing);
    for (SamplingParams params : EveryWay()) {
      EXPECT_EQ(Drawn(row, params), Tokens({0}));
      params.min_tokens = 1000;
      params.banned_before_min_tokens = {0, 1, 3, 0};
      EXPECT_EQ(Drawn(row, params), Tokens({2}));
    }
  }
}

TEST(SampleHardRowsTest, WhenOnlyBannedTokensHaveLogitsTheyStayBanned) {
  for (SamplingParams params : EveryWay()) {
    params.min_tokens = 1000;
    params.banned_before_min_tokens = {0, 1};
    EXPECT_EQ(Drawn(std::vector<float>{5, 6, kNaN, -kInf}, params), Tokens({2}));
  }
}

TEST(SampleHardRowsTest, WhenEveryTokenIsBannedItIsTokenZero) {
  for (SamplingParams params : EveryWay()) {
    params.min_tokens = 1000;
    params.banned_before_min_tokens = {2, 1, 0};
    EXPECT_EQ(Drawn(std::vector<float>{1, 2, 3}, params), Tokens({0}));
  }
}

TEST(SampleHardRowsTest, EverythingBiasedDownIsAsIfNothingWere) {
  SamplingParams params;
  params.temperature = 0.5f;
  const std::vector<float> row = {1, 2, 3};
  SamplingParams biased = params;
  biased.logit_bias = {{0, -100.0f}, {1, -100.0f}, {2, -100.0f}};
  for (std::int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(Sample(row, biased, i).token, Sample(row, params, i).token);
  }
}

TEST(SampleHardRowsTest, TemperaturesAtTheirBounds) {
  const std::vector<float> row = {-1000.0f, 999.0f, 1000.0f, 1000.0f, kMax / 4, -kMax};
  SamplingParams params;
  for (const float temperature : {1e-5f, 1e-4f, 100.0f}) {
    params.temperature = temperature;
    EXPECT_EQ(Drawn(row, params), Tokens({4}));
    EXPECT_EQ(Drawn(std::span(row).first(3), params),
              temperature < 1.0f ? Tokens({2}) : Tokens({1, 2}));
    params.top_p = 0.99999f;
    EXPECT_EQ(Drawn(row, params), Tokens({4}));
    params.top_p = 1.0f;
  }
}

TEST(SampleHardRowsTest, PenaltiesAtTheirBounds) {
  TokenCounts counts(4);
  counts.AddPrompt(std::vector<TokenId>{0, 1, 2, 3});
  for (int i = 0; i < 1000; ++i) counts.AddOutput(i % 4);
  for (SamplingParams params : EveryWay()) {
    for (const float bound : {-100.0f, 100.0f}) {
      params.frequency_penalty = bound;
      params.presence_penalty = bound;
      for (const float repetition : {1e-45f, 1e-30f, 100.0f}) {
        params.repetition_penalty = repetition;
        for (const float scale : {1.0f, 1e38f}) {
          const std::vector<float> row = {scale, -scale, kInf, -kInf};
          for (const TokenId token : Drawn(row, params, 20, &counts)) {
            EXPECT_GE(token, 0);
            EXPECT_LT(token, 3);
          }
        }
      }
    }
  }
}

TEST(SampleHardRowsTest, VocabularyOfOne) {
  for (const SamplingParams& params : EveryWay()) {
    for (const float logit : {0.0f, -3e38f, kInf, kNaN}) {
      EXPECT_EQ(Drawn(std::vector<float>{logit}, params, 10), Tokens({0}));
    }
  }
}

TEST(SampleHardRowsTest, EqualLogitsOnAFullVocabularyAreAllWithinReach) {
  const std::vector<float> row(65536, 1.0f);
  SamplingParams params;
  SampleScratch scratch(65536);
  SampledToken out;
  TokenId lowest = 65535;
  TokenId highest = 0;
  for (int i = 0; i < 300; ++i) {
    params.top_p = i % 2 == 0 ? 1.0f : 0.9999f;
    SampleRow(row, params, nullptr, i, scratch, out);
    lowest = std::min(lowest, out.token);
    highest = std::max(highest, out.token);
  }
  EXPECT_LT(lowest, 2000);
  EXPECT_GT(highest, 63500);
}

TEST(SampleHardRowsDeathTest, PenaltiesWithoutCountsAreABugOfOurs) {
  SamplingParams params;
  params.presence_penalty = 1.0f;
  EXPECT_DEATH(Sample(std::vector<float>{1, 2}, params), "CHECK failed");
}

TEST(SampleHardRowsDeathTest, TokensOutsideTheRowAreABugOfOurs) {
  SamplingParams params;
  params.logit_bias = {{2, 1.0f}};
  EXPECT_DEATH(Sample(std::vector<float>{1, 2}, params), "CHECK failed");
  EXPECT_DEATH(ScoreRow(std::vector<float>{1, 2}, -1), "CHECK failed");
}

}  // namespace
}  // namespace goldfinch
