#include "engine/sampling/token_counts.h"

#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace goldfinch {
namespace {

using Seen = std::tuple<TokenId, bool, std::int32_t>;

std::vector<Seen> All(const TokenCounts& counts) {
  std::vector<Seen> seen;
  counts.ForEach([&](TokenId token, bool in_prompt, std::int32_t output_count) {
    seen.emplace_back(token, in_prompt, output_count);
  });
  return seen;
}

TEST(TokenCountsTest, NewOneHasSeenNothing) {
  const TokenCounts counts(100);
  EXPECT_THAT(All(counts), testing::IsEmpty());
  EXPECT_EQ(counts.num_outputs(), 0);
  EXPECT_EQ(counts.vocab_size(), 100);
}

TEST(TokenCountsTest, VisitsEveryDistinctTokenOnceById) {
  TokenCounts counts(130);
  counts.AddPrompt(std::vector<TokenId>{129, 64, 64, 0});
  counts.AddPrompt(std::vector<TokenId>{63});
  counts.AddOutput(64);
  counts.AddOutput(5);
  counts.AddOutput(64);
  EXPECT_THAT(All(counts),
              testing::ElementsAre(Seen{0, true, 0}, Seen{5, false, 1}, Seen{63, true, 0},
                                   Seen{64, true, 2}, Seen{129, true, 0}));
  EXPECT_EQ(counts.num_outputs(), 3);
  EXPECT_TRUE(counts.InPrompt(64));
  EXPECT_FALSE(counts.InPrompt(5));
  EXPECT_EQ(counts.OutputCount(64), 2);
  EXPECT_EQ(counts.OutputCount(63), 0);
}

TEST(TokenCountsTest, CopyGoesItsOwnWay) {
  TokenCounts parent(10);
  parent.AddPrompt(std::vector<TokenId>{1});
  parent.AddOutput(2);
  TokenCounts child = parent;
  child.AddOutput(2);
  child.AddPrompt(std::vector<TokenId>{3});
  EXPECT_THAT(All(parent), testing::ElementsAre(Seen{1, true, 0}, Seen{2, false, 1}));
  EXPECT_THAT(All(child), testing::ElementsAre(Seen{1, true, 0}, Seen{2, false, 2},
                                               Seen{3, true, 0}));
  EXPECT_EQ(parent.num_outputs(), 1);
  EXPECT_EQ(child.num_outputs(), 2);
}

TEST(TokenCountsTest, IdAndCountsTellWhatHasChangedSince) {
  TokenCounts counts(10);
  const std::uint64_t id = counts.id();
  counts.AddPrompt(std::vector<TokenId>{1, 1, 2});
  counts.AddOutput(7);
  counts.AddOutput(2);
  EXPECT_EQ(counts.id(), id);
  EXPECT_EQ(counts.num_prompt(), 3);
  EXPECT_EQ(counts.num_distinct(), 3);
  EXPECT_EQ(counts.last_output(), 2);
  TokenCounts child = counts;
  EXPECT_NE(child.id(), id);
  EXPECT_EQ(child.num_prompt(), 3);
  const std::uint64_t before = child.id();
  child = counts;
  EXPECT_NE(child.id(), before);
  EXPECT_NE(child.id(), id);
  counts = TokenCounts(10);
  EXPECT_NE(counts.id(), id);
  EXPECT_EQ(counts.num_prompt(), 0);
}

TEST(TokenCountsTest, PromptOfAMillionTokensIsItsDistinctTokens) {
  std::vector<TokenId> prompt(1 << 20);
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<TokenId>((i * 7919) % 30000);
  }
  TokenCounts counts(65536);
  counts.AddPrompt(prompt);
  EXPECT_EQ(All(counts).size(), 30000u);
}

TEST(TokenCountsDeathTest, TokenOutsideTheVocabularyIsABugOfOurs) {
  TokenCounts counts(10);
  EXPECT_DEATH(counts.AddOutput(10), "CHECK failed");
  EXPECT_DEATH(counts.AddPrompt(std::vector<TokenId>{-1}), "CHECK failed");
}

}  // namespace
}  // namespace goldfinch
