#include "server/text/output_text.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "server/text/tokenizer.h"
#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

std::shared_ptr<const StopStrings> Stops(const std::vector<std::string>& strings) {
  return StopStrings::Create(strings).value();
}

class OutputTextTest : public ::testing::Test {
 protected:
  std::vector<TokenId> Encode(std::string_view text) const {
    std::vector<TokenId> ids;
    tokenizer_.Encode(text, ids);
    return ids;
  }

  OutputText Make(const std::vector<std::string>& stops,
                  StopText stop_text = StopText::kExclude) const {
    return OutputText(*vocabulary_, Stops(stops), stop_text);
  }

  // The text after each push of a token of `ids`, and after Finish.
  static std::vector<std::string> Pieces(OutputText output,
                                         const std::vector<TokenId>& ids) {
    std::vector<std::string> pieces(ids.size() + 1);
    for (size_t i = 0; i < ids.size(); ++i) output.Push(ids[i], pieces[i]);
    output.Finish(pieces.back());
    return pieces;
  }

  const std::unique_ptr<Vocabulary> vocabulary_ =
      SmallVocabulary({"one", " two", " ST", "OP", "OPera", "\xF0\x9F", "\x99\x82"});
  const Tokenizer tokenizer_{*vocabulary_};
};

using Strings = std::vector<std::string>;

TEST_F(OutputTextTest, StopsAcrossTokensWithoutLeakingAPartialMatch) {
  const std::vector<TokenId> ids = Encode("one STOPera two");
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(Pieces(Make({"STOP"}), ids), (Strings{"one", " ", "", "", ""}));
  EXPECT_EQ(Pieces(Make({"STOP"}, StopText::kInclude), ids),
            (Strings{"one", " ", "STOP", "", ""}));
  EXPECT_EQ(Pieces(Make({"STOPS"}), ids), (Strings{"one", " ", "STOPera", " two", ""}));
}

TEST_F(OutputTextTest, ReportsWhichStopMatchedAtTheTokenThatCompletesIt) {
  OutputText output = Make({"zzz", "STOP"});
  std::string text;
  const std::vector<TokenId> ids = Encode("one STOP");
  output.Push(ids[0], text);
  output.Push(ids[1], text);
  EXPECT_EQ(output.matched_stop(), std::nullopt);
  output.Push(ids[2], text);
  EXPECT_EQ(output.matched_stop(), 1);
}

TEST_F(OutputTextTest, FinishReleasesWhatWasHeld) {
  EXPECT_EQ(Pieces(Make({"STOP"}), Encode("one ST")), (Strings{"one", " ", "ST"}));
}

TEST_F(OutputTextTest, ACharacterCutByTokensComesWhole) {
  EXPECT_EQ(Pieces(Make({}), Encode("🙂")), (Strings{"", "🙂", ""}));
  EXPECT_EQ(Pieces(Make({"🙂"}), Encode("a🙂b")), (Strings{"a", "", "", "", ""}));
  EXPECT_EQ(Pieces(Make({"STOP"}), Encode("\xF0\x9F")), (Strings{"", "\uFFFD"}));
}

TEST_F(OutputTextTest, TheReplacementThatFinishMakesCanCompleteAStop) {
  OutputText output = Make({"a\uFFFD"});
  std::string text;
  for (const TokenId id : Encode("xa\xF0\x9F")) output.Push(id, text);
  EXPECT_EQ(output.matched_stop(), std::nullopt);
  output.Finish(text);
  EXPECT_EQ(output.matched_stop(), 0);
  EXPECT_EQ(text, "x");
}

TEST_F(OutputTextTest, EndOfTextAndUnlistedIdsAddNothing) {
  const auto unlisted = static_cast<TokenId>(vocabulary_->size() - 1);
  EXPECT_EQ(Pieces(Make({"ab"}), {0, 'a' + 1, unlisted, 0, 'c' + 1}),
            (Strings{"", "", "", "", "ac", ""}));
}

TEST_F(OutputTextTest, EveryPieceIsValidUtf8AndRestoringChangesNothing) {
  Random random(11);
  const Strings stops = {"é日", "日🙂", "ab\uFFFD", "aab"};
  for (int round = 0; round < 5000; ++round) {
    std::vector<TokenId> ids(RandomBelow(random, 30));
    const std::string_view bytes = "aab\xC3\xA9\xE6\x97\xA5\xF0\x9F\x99\x82";
    for (TokenId& id : ids) {
      const auto byte =
          static_cast<unsigned char>(bytes[RandomBelow(random, bytes.size())]);
      id = byte + 1;
    }
    OutputText straight = Make(stops);
    OutputText restored = Make(stops);
    std::string expected, actual;
    for (const TokenId id : ids) {
      std::string piece;
      straight.Push(id, piece);
      ASSERT_TRUE(IsValidUtf8(piece));
      expected += piece;

      restored.Push(id, actual);
      if (restored.matched_stop()) continue;
      OutputText fresh = Make(stops);
      fresh.PushBytes(restored.Held(), actual);
      ASSERT_EQ(fresh.Held(), restored.Held());
      restored = fresh;
    }
    straight.Finish(expected);
    restored.Finish(actual);
    ASSERT_EQ(actual, expected);
    ASSERT_EQ(restored.matched_stop(), straight.matched_stop());
  }
}

}  // namespace
}  // namespace goldfinch
