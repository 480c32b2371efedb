// Facts about the RWKV World vocabulary and the books, which are not in the repository:
// skipped unless GOLDFINCH_TEST_DATA names the folder that holds them.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"
#include "server/text/vocabulary.h"
#include "tests/reference/greedy_tokenizer.h"
#include "tests/server/text/text_test_support.h"

namespace goldfinch {
namespace {

constexpr int64_t kWorldVocabSize = 65536;

class WorldVocabularyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto data = TestData();
    if (!data) {
      GTEST_SKIP() << "GOLDFINCH_TEST_DATA is not set: it names the folder that holds "
                      "data/rwkv_vocab_v20230424.txt and data/books/*.txt";
    }
    data_ = *data;
    auto vocabulary =
        Vocabulary::Load((data_ / "rwkv_vocab_v20230424.txt").string(), kWorldVocabSize);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    vocabulary_ = *std::move(vocabulary);
    tokenizer_ = std::make_unique<Tokenizer>(*vocabulary_);
  }

  std::vector<TokenId> Encode(std::string_view text) const {
    std::vector<TokenId> ids;
    tokenizer_->Encode(text, ids);
    return ids;
  }

  std::filesystem::path data_;
  std::unique_ptr<Vocabulary> vocabulary_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(WorldVocabularyTest, EncodesTheGoldenTextsAsTheAuthorsDo) {
  const auto cases =
      nlohmann::json::parse(ReadFile(std::filesystem::path(GOLDFINCH_SOURCE_DIR) /
                                     "tests/golden/tokenizer_rwkv_world.json"));
  ASSERT_GT(cases.size(), 50u);
  for (const auto& golden : cases) {
    const auto text = golden.at("text").get<std::string>();
    EXPECT_EQ(Encode(text), golden.at("ids").get<std::vector<TokenId>>()) << text;
  }
}

TEST_F(WorldVocabularyTest, EveryTokenEncodesToItself) {
  int listed = 0;
  for (TokenId id = 1; id < vocabulary_->size(); ++id) {
    const std::string_view bytes = vocabulary_->bytes(id);
    if (bytes.empty()) continue;
    ++listed;
    ASSERT_EQ(Encode(bytes), std::vector<TokenId>{id});
  }
  EXPECT_EQ(listed, 65529);
  EXPECT_EQ(tokenizer_->longest_token(), 128u);
}

TEST_F(WorldVocabularyTest, DecodingWhatWasEncodedGivesRandomBytesBack) {
  Random random(4);
  for (int round = 0; round < 2000; ++round) {
    const std::string bytes = RandomBytes(random, RandomBelow(random, 2000));
    ASSERT_EQ(tokenizer_->Decode(Encode(bytes)), bytes);
  }
}

TEST_F(WorldVocabularyTest, DecodingWhatWasEncodedGivesEveryBookBack) {
  int books = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data_ / "books")) {
    if (entry.path().extension() != ".txt") continue;
    ++books;
    const std::string book = ReadFile(entry.path());
    const std::vector<TokenId> ids = Encode(book);
    EXPECT_TRUE(tokenizer_->Decode(ids) == book) << entry.path().filename();
    EXPECT_LT(ids.size(), book.size() / 3) << entry.path().filename();
  }
  EXPECT_GT(books, 0);
}

TEST_F(WorldVocabularyTest, EqualsThePlainTwin) {
  const reference::GreedyTokenizer twin(*vocabulary_);
  Random random(5);
  const std::string book = ReadFile(data_ / "books" / "Peter-Pan_16.txt");
  for (int round = 0; round < 50; ++round) {
    const std::string text = book.substr(RandomBelow(random, book.size()), 500) +
                             RandomBytes(random, 100) + "<|endoftext|>" +
                             RandomString(random, 200, "  \n\n\t=-#*0a<|");
    ASSERT_EQ(Encode(text), twin.Encode(text));
  }
}

TEST_F(WorldVocabularyTest, EmitsABookTokenByTokenAsWholeCharacters) {
  const std::string book =
      ReadFile(data_ / "books" / "Peter-Pan_16.txt") + "日本語 🙂👩‍👩‍👧";
  Detokenizer detokenizer;
  std::string text;
  for (const TokenId id : Encode(book)) {
    std::string piece;
    detokenizer.Push(vocabulary_->bytes(id), piece);
    ASSERT_TRUE(IsValidUtf8(piece));
    text += piece;
  }
  detokenizer.Flush(text);
  EXPECT_TRUE(text == book);
}

}  // namespace
}  // namespace goldfinch
