// Score, Tokenize, Detokenize and GetModel over a real channel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/text/tokenizer.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

class UnaryTest : public testing::Test {
 protected:
  v1::ScoreResponse Score(const v1::ScoreRequest& request) {
    grpc::ClientContext context;
    v1::ScoreResponse response;
    const grpc::Status status = server_.stub().Score(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  TestServer server_;
};

TEST_F(UnaryTest, ScoreGivesTheEnginesScoresOfTheContinuation) {
  v1::ScoreRequest request;
  request.set_context_text("the context");
  request.set_continuation_text(" the continuation");
  const v1::ScoreResponse response = Score(request);
  const std::vector<TokenId> continuation = Encode(" the continuation");
  const std::vector<ScoredToken> expected =
      FakeEngine::ExpectedScores(Encode("the context"), continuation);
  ASSERT_EQ(response.tokens_size(), continuation.size());
  double total = 0;
  bool is_greedy = true;
  for (int i = 0; i < response.tokens_size(); ++i) {
    const ScoredToken& want = expected[static_cast<std::size_t>(i)];
    EXPECT_EQ(response.tokens(i).token(), continuation[static_cast<std::size_t>(i)]);
    EXPECT_EQ(response.tokens(i).logprob(), want.logprob);
    EXPECT_EQ(response.tokens(i).is_greedy(), want.is_greedy);
    total += want.logprob;
    is_greedy = is_greedy && want.is_greedy;
  }
  EXPECT_EQ(response.total_logprob(), total);
  EXPECT_EQ(response.is_greedy(), is_greedy);
  EXPECT_EQ(response.usage().prompt_tokens(), Encode("the context").size());
  EXPECT_EQ(response.usage().generated_tokens(), 0);
  EXPECT_EQ(response.usage().scored_tokens(), continuation.size());
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(UnaryTest, AnEmptyContextIsEndOfText) {
  v1::ScoreRequest request;
  request.mutable_continuation_tokens()->add_ids(300);
  const v1::ScoreResponse response = Score(request);
  const std::vector<TokenId> context = {kEndOfText};
  const std::vector<TokenId> continuation = {300};
  EXPECT_EQ(response.tokens(0).logprob(),
            FakeEngine::ExpectedScores(context, continuation)[0].logprob);
  request.set_context_text("");
  EXPECT_EQ(Score(request).tokens(0).logprob(), response.tokens(0).logprob());
}

TEST_F(UnaryTest, TokenizeAndDetokenizeAreInverse) {
  for (const std::string text : {"", "the caf\u00e9, 水 and the 🐦", " w12 w13\n\n"}) {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text(text);
    v1::TokenizeResponse tokens;
    ASSERT_TRUE(server_.stub().Tokenize(&context, request, &tokens).ok());
    EXPECT_EQ(std::vector<TokenId>(tokens.tokens().begin(), tokens.tokens().end()),
              Encode(text));
    grpc::ClientContext second;
    v1::DetokenizeRequest back;
    *back.mutable_tokens() = tokens.tokens();
    v1::DetokenizeResponse answer;
    ASSERT_TRUE(server_.stub().Detokenize(&second, back, &answer).ok());
    EXPECT_EQ(answer.text(), text);
  }
}

TEST_F(UnaryTest, BytesOfTokensAreTheirOwn) {
  const std::string text = "naïve 漢字";
  v1::DetokenizeRequest request;
  for (const TokenId token : Encode(text)) request.add_tokens(token);
  request.add_tokens(0);     // end of text
  request.add_tokens(0xff);  // a byte of no character
  for (const bool wanted : {true, false}) {
    grpc::ClientContext context;
    request.set_with_token_bytes(wanted);
    v1::DetokenizeResponse response;
    ASSERT_TRUE(server_.stub().Detokenize(&context, request, &response).ok());
    ASSERT_EQ(response.token_bytes_size(), wanted ? request.tokens_size() : 0);
    std::string joined;
    for (int i = 0; i < response.token_bytes_size(); ++i) {
      EXPECT_EQ(response.token_bytes(i), TestVocabulary().bytes(request.tokens(i)));
      joined += response.token_bytes(i);
    }
    if (wanted) {
      EXPECT_TRUE(joined.starts_with(text));
    }
  }
  request.set_with_token_bytes(true);
  request.mutable_tokens()->Resize(65537, 1);
  grpc::ClientContext context;
  v1::DetokenizeResponse response;
  const grpc::Status status = server_.stub().Detokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(),
            "tokens has 65537 ids; the limit with with_token_bytes is 65536");
}

TEST_F(UnaryTest, DetokenizeReplacesWhatIsNotUtf8) {
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_tokens(1 + 0xff);
  v1::DetokenizeResponse response;
  ASSERT_TRUE(server_.stub().Detokenize(&context, request, &response).ok());
  EXPECT_EQ(response.text(), "\ufffd");
}

// Messages of a size that may come, whose answers may not go.
TEST(AnswerBytesTest, WhatWouldBeTooMuchIsRefusedBeforeItIsMade) {
  TestServerOptions options;
  options.connections.max_message_bytes = 65536;
  TestServer server(options);
  const auto detokenize = [&server](int count) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.mutable_tokens()->Resize(count, kEndOfText);
    v1::DetokenizeResponse response;
    const grpc::Status status = server.stub().Detokenize(&context, request, &response);
    if (status.ok()) {
      EXPECT_EQ(response.text().size(),
                static_cast<std::size_t>(count) * Tokenizer::kEndOfTextSpelling.size());
    }
    return status;
  };
  EXPECT_TRUE(detokenize(5000).ok());
  const grpc::Status status = detokenize(60000);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(),
            "the answer would have 780000 bytes; the limit is 65536");

  // A byte that is no text becomes three.
  grpc::ClientContext broken;
  v1::DetokenizeRequest bytes;
  bytes.mutable_tokens()->Resize(30000, 1 + 0xff);
  v1::DetokenizeResponse replaced;
  EXPECT_EQ(server.stub().Detokenize(&broken, bytes, &replaced).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  // Ids may take more bytes than what they stand for.
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text(std::string(60000, '\xc2'));
  for (std::size_t i = 1; i < request.text().size(); i += 2)
    (*request.mutable_text())[i] = '\xa9';
  v1::TokenizeResponse tokens;
  EXPECT_EQ(server.stub().Tokenize(&context, request, &tokens).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  // So may scores, which are computed for nobody otherwise.
  const auto score = [&server](int count) {
    grpc::ClientContext scoring;
    v1::ScoreRequest scored;
    scored.mutable_continuation_tokens()->mutable_ids()->Resize(count, 400);
    v1::ScoreResponse scores;
    return server.stub().Score(&scoring, scored, &scores);
  };
  EXPECT_TRUE(score(4500).ok());
  const grpc::Status refused = score(5000);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refused.error_message(),
            "the answer would have 70256 bytes; the limit is 65536");
}

TEST_F(UnaryTest, GetModelDescribesTheModelAndTheLimits) {
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server_.stub().GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "fake");
  EXPECT_EQ(model.fingerprint(), "0123456789abcdef");
  EXPECT_EQ(model.numerics_id(), "fake");
  EXPECT_EQ(model.num_layers(), 12);
  EXPECT_EQ(model.num_gold_layers(), 4);
  EXPECT_EQ(model.embedding_size(), 256);
  EXPECT_EQ(model.vocab_size(), kTestVocabularySize);
  EXPECT_EQ(model.num_parameters(), 1234567);
  EXPECT_EQ(model.compute_dtype(), "f32");
  EXPECT_EQ(model.weight_dtype(), "int8");
  EXPECT_EQ(model.cache_dtype(), "f32");
  EXPECT_EQ(model.cache_bytes_per_token(), 68);
  EXPECT_EQ(model.state_bytes_per_sequence(), 4096);
  EXPECT_EQ(model.training_context_tokens(), 512);
  EXPECT_EQ(model.max_context_tokens(), 1048576);
  EXPECT_EQ(model.default_max_tokens(), 16);
  EXPECT_EQ(model.max_sequences(), 64);
  EXPECT_EQ(model.num_pages(), 1024);
  EXPECT_EQ(model.page_tokens(), 16);
  EXPECT_FALSE(model.server_version().empty());
}

}  // namespace
}  // namespace goldfinch
