#include "server/text/python_literal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

using ::testing::HasSubstr;
using std::string_literals::operator""s;

TEST(PythonLiteralTest, ReadsBothKindsWithBothQuotes) {
  EXPECT_EQ(ParsePythonLiteral(R"('a b')").value(), "a b");
  EXPECT_EQ(ParsePythonLiteral(R"("it's")").value(), "it's");
  EXPECT_EQ(ParsePythonLiteral(R"('"')").value(), "\"");
  EXPECT_EQ(ParsePythonLiteral(R"(b'ab')").value(), "ab");
  EXPECT_EQ(ParsePythonLiteral(R"(b"a'b")").value(), "a'b");
  EXPECT_EQ(ParsePythonLiteral("''").value(), "");
  EXPECT_EQ(ParsePythonLiteral("'日本'").value(), "日本");
}

TEST(PythonLiteralTest, ReadsEveryEscape) {
  EXPECT_EQ(ParsePythonLiteral(R"('\n\t\r\\\'\"\a\b\f\v')").value(),
            "\n\t\r\\'\"\a\b\f\v");
  EXPECT_EQ(ParsePythonLiteral(R"(b'\n\t\r\\\'\"\a\b\f\v')").value(),
            "\n\t\r\\'\"\a\b\f\v");
  EXPECT_EQ(ParsePythonLiteral(R"('\0\7\101\1018')").value(), "\0\7AA8"s);
  EXPECT_EQ(ParsePythonLiteral(R"('\u00e9\u65e5\U0001F642\ud7ff\ue000')").value(),
            "é日🙂\xED\x9F\xBF\xEE\x80\x80");
  EXPECT_EQ(ParsePythonLiteral(R"('\U0010ffff')").value(), "\xF4\x8F\xBF\xBF");
  // The first and the last of each length.
  EXPECT_EQ(ParsePythonLiteral(R"('\u007f\u0080')").value(), "\x7F\xC2\x80");
  EXPECT_EQ(ParsePythonLiteral(R"('\u07ff\u0800')").value(), "\xDF\xBF\xE0\xA0\x80");
  EXPECT_EQ(ParsePythonLiteral(R"('\uffff\U00010000')").value(),
            "\xEF\xBF\xBF\xF0\x90\x80\x80");
  EXPECT_EQ(ParsePythonLiteral("b'\x7F'").value(), "\x7F");
}

TEST(PythonLiteralTest, ANumberIsACodePointInStrAndAByteInBytes) {
  EXPECT_EQ(ParsePythonLiteral(R"('\xe9')").value(), "\xC3\xA9");
  EXPECT_EQ(ParsePythonLiteral(R"(b'\xe9')").value(), "\xE9");
  EXPECT_EQ(ParsePythonLiteral(R"('\377')").value(), "\xC3\xBF");
  EXPECT_EQ(ParsePythonLiteral(R"(b'\377')").value(), "\xFF");
  EXPECT_EQ(ParsePythonLiteral(R"('\777')").value(), "\xC7\xBF");
}

TEST(PythonLiteralTest, RefusesWhatIsNotALiteralAndSaysWhy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "the token is not a str or bytes literal"},
      {"abc", "the token is not a str or bytes literal"},
      {"b", "the token is not a str or bytes literal"},
      {"r'a'", "the token is not a str or bytes literal"},
      {"B'a'", "the token is not a str or bytes literal"},
      {"u'a'", "the token is not a str or bytes literal"},
      {"f'{1}'", "the token is not a str or bytes literal"},
      {"__import__('os')", "the token is not a str or bytes literal"},
      {"'", "the literal has no closing quote"},
      {"'abc", "the literal has no closing quote"},
      {"'abc\"", "the literal has no closing quote"},
      {"'abc\\", "the literal has no closing quote"},
      {"'abc\\'", "the literal has no closing quote"},
      {"'a' 'b'", "the literal is followed by 4 more bytes; the limit is 0"},
      {"'''a'''", "the literal is followed by 5 more bytes; the limit is 0"},
      {"'a'*9", "the literal is followed by 2 more bytes; the limit is 0"},
      {R"('\q')", "the str literal has an unknown escape: backslash and byte 0x71"},
      {R"('\N{BULLET}')",
       "the str literal has an unknown escape: backslash and byte 0x4e"},
      {R"('\8')", "the str literal has an unknown escape: backslash and byte 0x38"},
      {R"(b'\u0041')",
       "the bytes literal has an unknown escape: backslash and byte 0x75"},
      {R"('\x4')", "the escape \\x has 1 hex digits; it needs 2"},
      {R"('\xg0')", "the escape \\x has 0 hex digits; it needs 2"},
      {R"('\u123')", "the escape \\u has 3 hex digits; it needs 4"},
      {R"('\U0001F64')", "the escape \\U has 7 hex digits; it needs 8"},
      {R"('\ud800')", "the code point U+D800 is a surrogate"},
      {R"('\udfff')", "the code point U+DFFF is a surrogate"},
      {R"('\U0000DABC')", "the code point U+DABC is a surrogate"},
      {R"('\U00110000')", "the code point U+110000 is above the limit U+10FFFF"},
      {R"('\Uffffffff')", "the code point U+FFFFFFFF is above the limit U+10FFFF"},
      {R"(b'\400')", "the bytes literal has an octal escape of 400; the limit is 377"},
      {"b'\xE9'", "the bytes literal holds a raw byte 0xe9; the limit is 0x7f"},
      {"'\xE9'", "the str literal is not valid UTF-8"},
      {"'\xED\xA0\x80'", "the str literal is not valid UTF-8"},
      {"'\xC3\\xa9'", "the str literal is not valid UTF-8"},
      {"'a\0b'"s, "the literal holds a raw byte 0x00, which needs an escape"},
      {"'a\rb'", "the literal holds a raw byte 0x0d, which needs an escape"},
  };
  for (const auto& [literal, message] : cases) {
    const auto result = ParsePythonLiteral(literal);
    ASSERT_FALSE(result.ok()) << literal;
    EXPECT_EQ(std::string(result.status().message()), message) << literal;
  }
}

TEST(PythonLiteralTest, AnyBytesGiveAnAnswerAndAPrintableMessage) {
  Random random(1);
  const std::string_view alphabet("'\"b\\xuUN0179afd\0\r\n\xC3\xA9", 20);
  for (int round = 0; round < 50000; ++round) {
    const std::string inner = RandomString(random, RandomBelow(random, 12), alphabet);
    for (const std::string& literal : {inner, "'" + inner + "'", "b'" + inner + "'"}) {
      const auto result = ParsePythonLiteral(literal);
      if (result.ok()) {
        EXPECT_LE(result->size(), literal.size());
        continue;
      }
      for (const char c : std::string(result.status().message())) {
        EXPECT_TRUE(c >= ' ' && c <= '~');
      }
    }
  }
}

}  // namespace
}  // namespace goldfinch
