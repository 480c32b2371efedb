#include "server/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "tests/reference/greedy_tokenizer.h"
#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

using std::string_view_literals::operator""sv;

std::vector<TokenId> Encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<TokenId> ids;
  tokenizer.Encode(text, ids);
  return ids;
}

TEST(TokenizerTest, TakesTheLongestTokenAtEachPosition) {
  const auto vocabulary = SmallVocabulary({"ab", "abcd", "bc", "日"});
  const Tokenizer tokenizer(*vocabulary);
  const TokenId a = 'a' + 1, b = 'b' + 1, c = 'c' + 1;
  EXPECT_EQ(Encode(tokenizer, "abcd"), (std::vector<TokenId>{258}));
  EXPECT_EQ(Encode(tokenizer, "abc"), (std::vector<TokenId>{257, c}));
  EXPECT_EQ(Encode(tokenizer, "aabc"), (std::vector<TokenId>{a, 257, c}));
  EXPECT_EQ(Encode(tokenizer, "bbc"), (std::vector<TokenId>{b, 259}));
  EXPECT_EQ(Encode(tokenizer, "日"), (std::vector<TokenId>{260}));
  EXPECT_EQ(Encode(tokenizer, ""), (std::vector<TokenId>{}));
}

TEST(TokenizerTest, AppendsToTheIdsItIsGiven) {
  const auto vocabulary = SmallVocabulary();
  std::vector<TokenId> ids = {7};
  Tokenizer(*vocabulary).Encode("a", ids);
  EXPECT_EQ(ids, (std::vector<TokenId>{7, 'a' + 1}));
}

TEST(TokenizerTest, EndOfTextIsSpelledInBothDirections) {
  const auto vocabulary = SmallVocabulary({"xyz", " <"});
  const Tokenizer tokenizer(*vocabulary);
  EXPECT_EQ(Encode(tokenizer, "a<|endoftext|>xyz"),
            (std::vector<TokenId>{'a' + 1, kEndOfText, 257}));
  EXPECT_EQ(tokenizer.Decode(std::vector<TokenId>{'a' + 1, kEndOfText, 257}),
            "a<|endoftext|>xyz");
  EXPECT_EQ(Encode(tokenizer, "<|endoftext|").size(), 12u);
  // A token that begins earlier and takes the "<" wins, as for every other token.
  EXPECT_EQ(Encode(tokenizer, " <|endoftext|>").front(), 258);
  EXPECT_EQ(Encode(tokenizer, " <|endoftext|>").size(), 13u);
}

TEST(TokenizerTest, AVocabularyMayListTheSpellingOfEndOfTextItself) {
  const auto vocabulary = SmallVocabulary({"<|endoftext|>", "<|endoftext|>\n"});
  const Tokenizer tokenizer(*vocabulary);
  EXPECT_EQ(Encode(tokenizer, "<|endoftext|>"), (std::vector<TokenId>{257}));
  EXPECT_EQ(Encode(tokenizer, "<|endoftext|>\n"), (std::vector<TokenId>{258}));
}

TEST(TokenizerTest, UnlistedIdsDecodeToNothing) {
  const auto vocabulary = SmallVocabulary({"xyz"});
  EXPECT_EQ(Tokenizer(*vocabulary).Decode(std::vector<TokenId>{258, 257, 259}), "xyz");
}

TEST(TokenizerTest, EqualsThePlainTwinOnRandomVocabularies) {
  Random random(3);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::string> tokens;
    for (int i = 0; i < 30; ++i) {
      const std::string token =
          RandomString(random, 2 + RandomBelow(random, 6), "ab\xFF");
      if (std::ranges::find(tokens, token) == tokens.end()) tokens.push_back(token);
    }
    const auto vocabulary = SmallVocabulary(tokens);
    const Tokenizer tokenizer(*vocabulary);
    const reference::GreedyTokenizer twin(*vocabulary);
    for (int i = 0; i < 20; ++i) {
      const std::string text =
          RandomString(random, RandomBelow(random, 60), "aaab\xFF\0c"sv);
      const std::vector<TokenId> ids = Encode(tokenizer, text);
      EXPECT_EQ(ids, twin.Encode(text));
      EXPECT_EQ(tokenizer.Decode(ids), text);
    }
  }
}

// The worst text for this vocabulary: every token is one byte, found only after walking
// the whole of the long token in vain.
TEST(TokenizerTest, StepsAreLinearInTheTextWhateverItHolds) {
  const auto vocabulary = SmallVocabulary({std::string(99, 'a') + "b"});
  const Tokenizer tokenizer(*vocabulary);
  EXPECT_EQ(tokenizer.longest_token(), 100u);
  const std::string text(1 << 20, 'a');
  std::string_view rest = text;
  size_t steps = 0;
  while (!rest.empty()) {
    const Tokenizer::Match match = tokenizer.LongestMatch(rest);
    EXPECT_EQ(match.length, 1u);
    steps += match.steps;
    rest.remove_prefix(match.length);
  }
  EXPECT_LE(steps, text.size() * tokenizer.longest_token());
}

}  // namespace
}  // namespace goldfinch
