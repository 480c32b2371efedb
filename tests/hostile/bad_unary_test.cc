// Every bad field of the unary methods of GenerationService: its exact status, and a
// message that names the value and the limit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "tests/hostile/checked_status.h"
#include "tests/hostile/shared_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

struct BadScore {
  const char* name;
  std::function<void(v1::ScoreRequest&)> spoil;
  const char* message;
};

const BadScore kBadScores[] = {
    {"NoContinuation", [](auto& r) { r.clear_continuation(); }, "no continuation is set"},
    {"EmptyContinuation", [](auto& r) { r.set_continuation_text(""); },
     "continuation has 0 tokens; it must have at least 1"},
    {"EmptyContinuationTokens", [](auto& r) { r.mutable_continuation_tokens(); },
     "continuation has 0 tokens"},
    {"ContinuationToken", [](auto& r) { r.mutable_continuation_tokens()->add_ids(-2); },
     "continuation_tokens[0] is -2; it must be in [0, 999]"},
    {"ContinuationTokenBeyondVocabulary",
     [](auto& r) { r.mutable_continuation_tokens()->add_ids(1000); },
     "continuation_tokens[0] is 1000; it must be in [0, 999]"},
    {"ContextToken", [](auto& r) { r.mutable_context_tokens()->add_ids(1000); },
     "context_tokens[0] is 1000; it must be in [0, 999]"},
    {"ContextTokenNegative", [](auto& r) { r.mutable_context_tokens()->add_ids(-1); },
     "context_tokens[0] is -1; it must be in [0, 999]"},
    {"Priority", [](auto& r) { r.set_priority(-1000); },
     "priority is -1000; it must be in [-100, 100]"},
    {"PriorityHigh",
     [](auto& r) { r.set_priority(std::numeric_limits<std::int32_t>::max()); },
     "priority is 2147483647; it must be in [-100, 100]"},
    {"TooLong", [](auto& r) { r.set_context_text(std::string(4096, '.')); },
     "context and continuation have 4097 tokens; the limit is 4096"},
};

TEST(BadScoreTest, EveryBadFieldIsInvalid) {
  for (const BadScore& bad : kBadScores) {
    SCOPED_TRACE(bad.name);
    v1::ScoreRequest request;
    request.set_continuation_text(".");
    bad.spoil(request);
    grpc::ClientContext context;
    v1::ScoreResponse response;
    const grpc::Status status =
        Checked(SharedServer().stub().Score(&context, request, &response));
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(bad.message));
    EXPECT_EQ(status.error_details(), "");
  }
  ExpectSharedServerUnharmed();
}

TEST(BadDetokenizeTest, AnIdBeyondTheVocabularyIsInvalid) {
  for (const std::int32_t id : {-1, 1000, std::numeric_limits<std::int32_t>::min(),
                                std::numeric_limits<std::int32_t>::max()}) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_tokens(5);
    request.add_tokens(id);
    v1::DetokenizeResponse response;
    const grpc::Status status =
        Checked(SharedServer().stub().Detokenize(&context, request, &response));
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("tokens[1] is " + std::to_string(id) +
                                                  "; it must be in [0, 999]"));
  }
  ExpectSharedServerUnharmed();
}

// Any text has tokens, however odd, and any tokens have text.
TEST(BadTokenizeTest, OddTextComesBackAsItWas) {
  std::string nul = "a";
  nul += '\0';
  for (const std::string& text :
       {std::string(), nul, std::string("\xef\xbf\xbd\xf0\x9f\x90\xa6"),
        std::string(100000, '\n')}) {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text(text);
    v1::TokenizeResponse tokens;
    ASSERT_TRUE(SharedServer().stub().Tokenize(&context, request, &tokens).ok());
    grpc::ClientContext back;
    v1::DetokenizeRequest ids;
    *ids.mutable_tokens() = tokens.tokens();
    v1::DetokenizeResponse response;
    ASSERT_TRUE(SharedServer().stub().Detokenize(&back, ids, &response).ok());
    EXPECT_EQ(response.text(), text);
  }
}

// Bytes that are no characters, of tokens that may be sent and must come back as text.
TEST(BadTokenizeTest, TokensThatAreNoTextBecomeReplacementCharacters) {
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_tokens(1 + 0xff);
  request.add_tokens(1 + 0xc3);
  request.add_tokens(1 + 'x');
  v1::DetokenizeResponse response;
  ASSERT_TRUE(SharedServer().stub().Detokenize(&context, request, &response).ok());
  EXPECT_EQ(response.text(), "\xef\xbf\xbd\xef\xbf\xbdx");
}

}  // namespace
}  // namespace goldfinch
