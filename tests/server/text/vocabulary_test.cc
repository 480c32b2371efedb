#include "server/text/vocabulary.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

// What Load says about a file of these lines for a model of 300 ids.
std::string Refusal(const std::string& lines) {
  const TempDir dir;
  const auto vocabulary = Vocabulary::Load(dir.Write("vocab.txt", lines), 300);
  return vocabulary.ok() ? "accepted" : std::string(vocabulary.status().message());
}

// The same, for one line after 256 good ones.
std::string RefusalOfLine(const std::string& line) {
  return Refusal(SingleByteLines() + line);
}

TEST(VocabularyTest, GivesTheBytesOfEveryId) {
  const auto vocabulary = SmallVocabulary({"the", "日本"});
  EXPECT_EQ(vocabulary->size(), 262);
  EXPECT_EQ(vocabulary->bytes('a' + 1), "a");
  EXPECT_EQ(vocabulary->bytes(1), std::string(1, '\0'));
  EXPECT_EQ(vocabulary->bytes(256), "\xFF");
  EXPECT_EQ(vocabulary->bytes(257), "the");
  EXPECT_EQ(vocabulary->bytes(258), "日本");
}

TEST(VocabularyTest, EndOfTextAndUnlistedIdsHaveNoBytes) {
  const auto vocabulary = SmallVocabulary();
  EXPECT_EQ(vocabulary->bytes(kEndOfText), "");
  EXPECT_EQ(vocabulary->bytes(257), "");
  EXPECT_EQ(vocabulary->bytes(259), "");
}

TEST(VocabularyTest, KnowsWhichIdsItHas) {
  const auto vocabulary = SmallVocabulary();
  EXPECT_TRUE(vocabulary->Contains(0));
  EXPECT_TRUE(vocabulary->Contains(259));
  EXPECT_FALSE(vocabulary->Contains(260));
  EXPECT_FALSE(vocabulary->Contains(-1));
}

TEST(VocabularyTest, LinesMayComeInAnyOrderAndTheLastNeedsNoNewline) {
  const TempDir dir;
  const std::string lines = "299 'zz' 2\n" + SingleByteLines() + "257 'yy' 2";
  const auto vocabulary = Vocabulary::Load(dir.Write("vocab.txt", lines), 300);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ((*vocabulary)->bytes(299), "zz");
  EXPECT_EQ((*vocabulary)->bytes(257), "yy");
}

TEST(VocabularyTest, ATokenMayContainSpaces) {
  const TempDir dir;
  const auto vocabulary = Vocabulary::Load(
      dir.Write("vocab.txt", SingleByteLines() + "257 ' a  b ' 6\n"), 300);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ((*vocabulary)->bytes(257), " a  b ");
}

TEST(VocabularyTest, RefusesALineThatIsNotALiteral) {
  EXPECT_EQ(RefusalOfLine("257 abc 3\n"),
            "vocab.txt line 257: the token is not a str or bytes literal");
  EXPECT_EQ(RefusalOfLine("257 __import__('os').getcwd() 3\n"),
            "vocab.txt line 257: the token is not a str or bytes literal");
  EXPECT_EQ(RefusalOfLine("257 'abc 3\n"),
            "vocab.txt line 257: the literal has no closing quote");
  EXPECT_EQ(
      RefusalOfLine("257 'ab' 'c' 3\n"),
      "vocab.txt line 257: the literal is followed by 4 more bytes; the limit is 0");
  EXPECT_EQ(RefusalOfLine("257  'abc' 3\n"),
            "vocab.txt line 257: the token is not a str or bytes literal");
  EXPECT_EQ(RefusalOfLine("257 '\\ud83d' 3\n"),
            "vocab.txt line 257: the code point U+D83D is a surrogate");
}

TEST(VocabularyTest, RefusesALineOfAnotherForm) {
  EXPECT_EQ(RefusalOfLine("\n"),
            "vocab.txt line 257: \"\" is not of the form `id literal length`");
  EXPECT_EQ(RefusalOfLine("257 'abc'\n"),
            "vocab.txt line 257: \"257 'abc'\" is not of the form `id literal length`");
  EXPECT_EQ(RefusalOfLine("x 'abc' 3\n"), "vocab.txt line 257: id \"x\" is not a number");
  EXPECT_EQ(RefusalOfLine("99999999999999999999 'abc' 3\n"),
            "vocab.txt line 257: id \"99999999999999999999\" is not a number");
  EXPECT_EQ(RefusalOfLine("257 'abc' three\n"),
            "vocab.txt line 257: length \"three\" is not a number");
  EXPECT_EQ(RefusalOfLine("257 'abc' 3\r\n"),
            "vocab.txt line 257: length \"3\\x0d\" is not a number");
  EXPECT_EQ(
      RefusalOfLine("257 'abc' 3 \n"),
      "vocab.txt line 257: the literal is followed by 2 more bytes; the limit is 0");
}

TEST(VocabularyTest, AMessageIsOneShortLineWhateverTheFileHolds) {
  const std::string message = RefusalOfLine("\x01\xFF" + std::string(5000, 'x'));
  EXPECT_LT(message.size(), 200u);
  EXPECT_EQ(message.find_first_of("\n\x01\xFF"), std::string::npos);
}

TEST(VocabularyTest, RefusesAWrongLength) {
  EXPECT_EQ(RefusalOfLine("257 'abc' 4\n"),
            "vocab.txt line 257: the token has 3 bytes; the line says 4");
  EXPECT_EQ(RefusalOfLine("257 '\xC3\xA9' 1\n"),
            "vocab.txt line 257: the token has 2 bytes; the line says 1");
  EXPECT_EQ(RefusalOfLine("257 'abc' -3\n"),
            "vocab.txt line 257: the token has 3 bytes; the line says -3");
}

TEST(VocabularyTest, RefusesAnIdOutsideTheModel) {
  EXPECT_EQ(RefusalOfLine("300 'abc' 3\n"),
            "vocab.txt line 257: id 300 is out of range; the limit is 299");
  EXPECT_EQ(RefusalOfLine("4294967553 'abc' 3\n"),
            "vocab.txt line 257: id 4294967553 is out of range; the limit is 299");
  EXPECT_EQ(RefusalOfLine("-1 'abc' 3\n"),
            "vocab.txt line 257: id -1 is out of range; the limit is 299");
  EXPECT_EQ(
      RefusalOfLine("0 'abc' 3\n"),
      "vocab.txt line 257: id 0 is listed; it is end of text and the lowest id of a "
      "line is 1");
}

TEST(VocabularyTest, RefusesADuplicate) {
  EXPECT_EQ(RefusalOfLine("257 'abc' 3\n257 'abd' 3\n"),
            "vocab.txt line 258: id 257 is already given by line 257");
  EXPECT_EQ(RefusalOfLine("257 'abc' 3\n258 b'abc' 3\n"),
            "vocab.txt line 258: the token of id 258 has the same bytes as line 257");
}

TEST(VocabularyTest, RefusesATokenThatIsEmptyOrTooLong) {
  EXPECT_EQ(RefusalOfLine("257 '' 0\n"),
            "vocab.txt line 257: the token has 0 bytes; it needs at least 1");
  EXPECT_EQ(RefusalOfLine("257 '" + std::string(1024, 'x') + "' 1024\n"), "accepted");
  EXPECT_EQ(RefusalOfLine("257 '" + std::string(1025, 'x') + "' 1025\n"),
            "vocab.txt line 257: the token has 1025 bytes; the limit is 1024");
}

TEST(VocabularyTest, RefusesAFileThatLacksASingleByte) {
  std::string lines = SingleByteLines();
  const std::string line_of_a = VocabularyLine('a' + 1, "a");
  lines.erase(lines.find(line_of_a), line_of_a.size());
  EXPECT_EQ(Refusal(lines),
            "vocab.txt: byte 0x61 is not a token; each of the 256 single bytes must be");
  EXPECT_EQ(Refusal(""),
            "vocab.txt: byte 0x00 is not a token; each of the 256 single bytes must be");
}

TEST(VocabularyTest, RefusesAFileThatCannotBeRead) {
  const TempDir dir;
  const auto message = [&](const std::string& name) {
    const auto vocabulary = Vocabulary::Load((dir.path() / name).string(), 300);
    return vocabulary.ok() ? "accepted" : std::string(vocabulary.status().message());
  };
  EXPECT_EQ(message("missing.txt"),
            "missing.txt: cannot be read: No such file or directory");
  std::filesystem::create_directory(dir.path() / "folder.txt");
  EXPECT_EQ(message("folder.txt"),
            "folder.txt: cannot be read: it is not a regular file");
  ASSERT_EQ(mkfifo((dir.path() / "fifo.txt").c_str(), 0600), 0);
  EXPECT_EQ(message("fifo.txt"), "fifo.txt: cannot be read: it is not a regular file");
}

TEST(VocabularyTest, RefusesAnAbsurdlyLargeFileWithoutReadingIt) {
  const TempDir dir;
  const std::string path = dir.Write("vocab.txt", "");
  std::filesystem::resize_file(path, uintmax_t{1} << 40);  // sparse
  const auto vocabulary = Vocabulary::Load(path, 300);
  ASSERT_FALSE(vocabulary.ok());
  EXPECT_EQ(std::string(vocabulary.status().message()),
            "vocab.txt: file has 1099511627776 bytes; the limit is 67108864");
}

TEST(VocabularyTest, NoDamageToAFileCrashesLoad) {
  Random random(2);
  const std::string good = SingleByteLines() + "257 '\\u65e5\\n' 4\n258 \"it's\" 4\n";
  const TempDir dir;
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = good;
    const size_t at = RandomBelow(random, damaged.size());
    if (round % 3 == 0) {
      damaged.resize(at);
    } else if (round % 3 == 1) {
      damaged[at] = static_cast<char>(random() & 0xFF);
    } else {
      damaged.erase(at, 1 + RandomBelow(random, 20));
    }
    const auto vocabulary = Vocabulary::Load(dir.Write("vocab.txt", damaged), 300);
    if (vocabulary.ok()) continue;
    ++refused;
    EXPECT_EQ(std::string(vocabulary.status().message()).rfind("vocab.txt", 0), 0u);
  }
  EXPECT_GT(refused, 250);
}

}  // namespace
}  // namespace goldfinch
