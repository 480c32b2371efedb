#include "server/text/detokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

using std::string_literals::operator""s;
using std::string_view_literals::operator""sv;

// A plain twin by Table 3-7 of the Unicode standard: at each position the longest prefix
// of a row, a whole row being a character and less than that one U+FFFD.
std::string ReferenceUtf8(std::string_view bytes) {
  using Span = std::pair<int, int>;
  static const std::vector<std::vector<Span>> kRows = {
      {{0x00, 0x7F}},
      {{0xC2, 0xDF}, {0x80, 0xBF}},
      {{0xE0, 0xE0}, {0xA0, 0xBF}, {0x80, 0xBF}},
      {{0xE1, 0xEC}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xED, 0xED}, {0x80, 0x9F}, {0x80, 0xBF}},
      {{0xEE, 0xEF}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xF0, 0xF0}, {0x90, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xF1, 0xF3}, {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xF4, 0xF4}, {0x80, 0x8F}, {0x80, 0xBF}, {0x80, 0xBF}},
  };
  std::string text;
  while (!bytes.empty()) {
    size_t longest = 0;
    bool whole = false;
    for (const auto& row : kRows) {
      size_t n = 0;
      while (n < row.size() && n < bytes.size()) {
        const int byte = static_cast<unsigned char>(bytes[n]);
        if (byte < row[n].first || byte > row[n].second) break;
        ++n;
      }
      if (n > longest) longest = n, whole = n == row.size();
    }
    text += whole ? std::string(bytes.substr(0, longest)) : "\uFFFD";
    bytes.remove_prefix(longest == 0 ? 1 : longest);
  }
  return text;
}

// Random bytes of which many are pieces of characters.
std::string RandomBrokenText(Random& random, size_t size) {
  return RandomString(
      random, size,
      "a\0\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC2\xC3\xE0\xE2\xED\xEF\xF0\xF1"
      "\xF4\xF5\xFF"sv);
}

TEST(DetokenizerTest, ValidTextPassesUnchanged) {
  const std::string text = "a\0é日🙂\xED\x9F\xBF\xEE\x80\x80\uFFFD\U0010FFFF"s;
  EXPECT_EQ(ToValidUtf8(text), text);
  EXPECT_TRUE(IsValidUtf8(text));
  EXPECT_TRUE(IsValidUtf8(""));
}

TEST(DetokenizerTest, ACharacterIsEmittedWithItsLastByte) {
  Detokenizer detokenizer;
  std::string text;
  detokenizer.Push("x\xF0\x9F", text);
  EXPECT_EQ(text, "x");
  EXPECT_EQ(detokenizer.pending(), "\xF0\x9F");
  detokenizer.Push("\x99", text);
  EXPECT_EQ(text, "x");
  detokenizer.Push("\x82", text);
  EXPECT_EQ(text, "x🙂");
  EXPECT_EQ(detokenizer.pending(), "");
}

TEST(DetokenizerTest, FlushReplacesADanglingBeginningOnce) {
  for (const std::string beginning : {"\xC3", "\xE2\x82", "\xF0\x9F", "\xF0\x9F\x99"}) {
    Detokenizer detokenizer;
    std::string text;
    detokenizer.Push(beginning, text);
    EXPECT_EQ(text, "");
    detokenizer.Flush(text);
    EXPECT_EQ(text, "\uFFFD");
    detokenizer.Flush(text);
    EXPECT_EQ(text, "\uFFFD");
  }
}

TEST(DetokenizerTest, EachMaximalSubpartBecomesOneReplacement) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(ToValidUtf8("\x80"), r);
  EXPECT_EQ(ToValidUtf8("a\xC3z"), "a" + r + "z");
  EXPECT_EQ(ToValidUtf8("\xE2\x82z"), r + "z");
  EXPECT_EQ(ToValidUtf8("\xF0\x9F\x99z"), r + "z");
  EXPECT_EQ(ToValidUtf8("\xC3\xC3\xA9"), r + "é");
  EXPECT_EQ(ToValidUtf8("\xF5\xFF\xFE"), r + r + r);
  // The example of the Unicode standard, section 3.9.
  EXPECT_EQ(ToValidUtf8("a\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
}

TEST(DetokenizerTest, OverlongSurrogateAndTooLargeAreReplacedByteByByte) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(ToValidUtf8("\xC0\xAF"), r + r);
  EXPECT_EQ(ToValidUtf8("\xE0\x80\xAF"), r + r + r);
  EXPECT_EQ(ToValidUtf8("\xF0\x80\x80\xAF"), r + r + r + r);
  EXPECT_EQ(ToValidUtf8("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(ToValidUtf8("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_FALSE(IsValidUtf8("\xED\xBF\xBF"));
}

TEST(DetokenizerTest, TellsWhereTextEndsThatIsValid) {
  EXPECT_EQ(ValidUtf8Size(""), 0u);
  EXPECT_EQ(ValidUtf8Size("café"), 5u);
  EXPECT_EQ(ValidUtf8Size("caf\xE9"), 3u);
  EXPECT_EQ(ValidUtf8Size("é\xEF\xBF"), 2u) << "what U+FFFD begins with";
  EXPECT_EQ(ValidUtf8Size("ab\xED\xA0\x80z"), 2u);
  EXPECT_EQ(ValidUtf8Size("\x80"), 0u);
}

TEST(DetokenizerTest, EqualsThePlainTwinAtEveryCut) {
  Random random(6);
  for (int round = 0; round < 20000; ++round) {
    const size_t size = RandomBelow(random, 24);
    const std::string bytes =
        round % 4 == 0 ? RandomBytes(random, size) : RandomBrokenText(random, size);
    const std::string expected = ReferenceUtf8(bytes);
    EXPECT_EQ(ToValidUtf8(bytes), expected);
    EXPECT_EQ(IsValidUtf8(bytes), expected == bytes);
    const std::string valid = bytes.substr(0, ValidUtf8Size(bytes));
    EXPECT_EQ(ReferenceUtf8(valid), valid);

    Detokenizer detokenizer;
    std::string text;
    for (const std::string& piece : RandomPieces(random, bytes, 4)) {
      std::string emitted;
      detokenizer.Push(piece, emitted);
      EXPECT_EQ(ReferenceUtf8(emitted), emitted) << "not whole characters";
      EXPECT_LE(detokenizer.pending().size(), 3u);
      text += emitted;
    }
    detokenizer.Flush(text);
    EXPECT_EQ(text, expected);
  }
}

TEST(DetokenizerTest, PendingBytesRestoreTheState) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    Detokenizer original;
    std::string text, expected, actual;
    original.Push(RandomBrokenText(random, RandomBelow(random, 8)), text);
    Detokenizer restored;
    restored.Push(original.pending(), actual);
    EXPECT_EQ(actual, "");
    const std::string rest = RandomBrokenText(random, RandomBelow(random, 8));
    original.Push(rest, expected);
    restored.Push(rest, actual);
    EXPECT_EQ(actual, expected);
    EXPECT_EQ(restored.pending(), original.pending());
  }
}

TEST(DetokenizerTest, TheStateIsAFewBytes) {
  EXPECT_LE(sizeof(Detokenizer), 4u);
  EXPECT_TRUE(std::is_trivially_copyable_v<Detokenizer>);
}

}  // namespace
}  // namespace goldfinch
