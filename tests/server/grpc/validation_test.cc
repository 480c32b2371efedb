// Every bad field of every method, over the wire: its exact status, and a message that
// names the value and the limit. Nothing is left behind by any of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct BadGenerate {
  const char* name;
  std::function<void(v1::GenerateRequest&)> spoil;
  const char* message;
  StatusCode code = StatusCode::INVALID_ARGUMENT;
};

// What makes the name of a case in the list of tests.
void PrintTo(const BadGenerate& bad, std::ostream* out) { *out << bad.name; }

template <typename Spoil>
BadGenerate Sampling(const char* name, Spoil spoil, const char* message) {
  return {name, [spoil](v1::GenerateRequest& r) { spoil(*r.mutable_sampling()); },
          message};
}

using S = v1::SamplingParams;

const BadGenerate kBadGenerates[] = {
    {"NoInput", [](auto& r) { r.clear_text(); }, "no input is set"},
    {"EmptyText", [](auto& r) { r.set_text(""); }, "prompt has 0 tokens"},
    {"EmptyTokens", [](auto& r) { r.mutable_tokens(); }, "prompt has 0 tokens"},
    {"NegativeToken", [](auto& r) { r.mutable_tokens()->add_ids(-1); },
     "tokens[0] is -1; it must be in [0, 999]"},
    {"TokenBeyondVocabulary", [](auto& r) { r.mutable_tokens()->add_ids(1000); },
     "tokens[0] is 1000; it must be in [0, 999]"},
    {"PromptTooLong", [](auto& r) { r.set_text(std::string(5000, '.')); },
     "prompt has 5000 tokens; the limit is 4096"},
    {"PromptAndMaxTokensTooLong",
     [](auto& r) {
       r.set_text(std::string(4000, '.'));
       r.mutable_sampling()->set_max_tokens(97);
     },
     "4000 + 97 tokens; the limit of both together is 4096"},
    {"PromptFillsTheContext", [](auto& r) { r.set_text(std::string(4096, '.')); },
     "4096 + 1 tokens; the limit of both together is 4096"},
    {"Priority", [](auto& r) { r.set_priority(101); },
     "priority is 101; it must be in [-100, 100]"},
    {"PriorityLow", [](auto& r) { r.set_priority(-101); },
     "priority is -101; it must be in [-100, 100]"},
    {"Session", [](auto& r) { r.set_session("abc"); },
     "the session id must be 32 lowercase hexadecimal digits"},
    {"SessionUnknown", [](auto& r) { r.set_session(std::string(32, '0')); },
     "there is no such session", StatusCode::NOT_FOUND},
    {"SessionWithCandidates",
     [](auto& r) {
       r.set_session(std::string(32, '0'));
       r.mutable_sampling()->set_n(2);
     },
     "it must be 1 with a session"},
    {"Resume", [](auto& r) { r.mutable_resume()->set_session_id("abc"); },
     "the session id must be 32 lowercase hexadecimal digits"},
    {"ResumeUnknown",
     [](auto& r) { r.mutable_resume()->set_session_id(std::string(32, '0')); },
     "there is no such session", StatusCode::NOT_FOUND},
    {"ResumeTokensReceived",
     [](auto& r) {
       r.mutable_resume()->set_session_id(std::string(32, '0'));
       r.mutable_resume()->set_tokens_received(-1);
     },
     "tokens_received is -1; it must be 0 or more"},
    {"ResumeWithSampling",
     [](auto& r) {
       r.mutable_resume()->set_session_id(std::string(32, '0'));
       r.mutable_sampling()->set_seed(1);
     },
     "session, sampling and priority must be unset with resume"},
    Sampling(
        "MaxTokensZero", [](S& s) { s.set_max_tokens(0); },
        "max_tokens is 0; it must be in [1, 4096]"),
    Sampling(
        "MaxTokensNegative", [](S& s) { s.set_max_tokens(-5); }, "max_tokens is -5"),
    Sampling(
        "MaxTokensHuge",
        [](S& s) { s.set_max_tokens(std::numeric_limits<std::int64_t>::max()); },
        "max_tokens is 9223372036854775807; it must be in [1, 4096]"),
    Sampling(
        "MinTokensNegative", [](S& s) { s.set_min_tokens(-1); },
        "min_tokens is -1; it must be in [0, "),
    Sampling(
        "MinTokensAboveMaxTokens",
        [](S& s) {
          s.set_max_tokens(5);
          s.set_min_tokens(6);
        },
        "min_tokens is 6; it must be in [0, 5]"),
    Sampling(
        "TemperatureNegative", [](S& s) { s.set_temperature(-1); },
        "temperature is -1; it must be in [0, 100]"),
    Sampling(
        "TemperatureTooHigh", [](S& s) { s.set_temperature(101); },
        "temperature is 101; it must be in [0, 100]"),
    Sampling(
        "TemperatureNaN", [](S& s) { s.set_temperature(kNaN); }, "temperature is nan"),
    Sampling(
        "TemperatureInfinite", [](S& s) { s.set_temperature(kInfinity); },
        "temperature is inf"),
    Sampling(
        "TopPZero", [](S& s) { s.set_top_p(0); }, "top_p is 0; it must be in (0, 1]"),
    Sampling(
        "TopPAboveOne", [](S& s) { s.set_top_p(1.5f); },
        "top_p is 1.5; it must be in (0, 1]"),
    Sampling(
        "TopPNaN", [](S& s) { s.set_top_p(kNaN); }, "top_p is nan"),
    Sampling(
        "TopKNegative", [](S& s) { s.set_top_k(-1); },
        "top_k is -1; it must be 0 or more"),
    Sampling(
        "MinPNegative", [](S& s) { s.set_min_p(-0.5f); },
        "min_p is -0.5; it must be in [0, 1]"),
    Sampling(
        "MinPNaN", [](S& s) { s.set_min_p(kNaN); }, "min_p is nan"),
    Sampling(
        "RepetitionPenaltyZero", [](S& s) { s.set_repetition_penalty(0); },
        "repetition_penalty is 0; it must be in (0, 100]"),
    Sampling(
        "RepetitionPenaltyNaN", [](S& s) { s.set_repetition_penalty(kNaN); },
        "repetition_penalty is nan"),
    Sampling(
        "FrequencyPenalty", [](S& s) { s.set_frequency_penalty(-101); },
        "frequency_penalty is -101; it must be in [-100, 100]"),
    Sampling(
        "FrequencyPenaltyInfinite", [](S& s) { s.set_frequency_penalty(-kInfinity); },
        "frequency_penalty is -inf"),
    Sampling(
        "PresencePenalty", [](S& s) { s.set_presence_penalty(101); },
        "presence_penalty is 101; it must be in [-100, 100]"),
    Sampling(
        "PresencePenaltyNaN", [](S& s) { s.set_presence_penalty(kNaN); },
        "presence_penalty is nan"),
    Sampling(
        "TooManyStops",
        [](S& s) {
          for (int i = 0; i < 17; ++i) s.add_stop(std::string(2, 'x'));
        },
        "stop has 17 entries; the limit is 16"),
    Sampling(
        "EmptyStop", [](S& s) { s.add_stop(std::string()); },
        "stop[0] has 0 bytes; it must have 1 to 256"),
    Sampling(
        "LongStop", [](S& s) { s.add_stop(std::string(257, 'x')); },
        "stop[0] has 257 bytes; it must have 1 to 256"),
    Sampling(
        "TooManyStopTokens",
        [](S& s) {
          for (int i = 0; i < 65; ++i) s.add_stop_token_ids(1);
        },
        "stop_token_ids has 65 entries; the limit is 64"),
    Sampling(
        "StopTokenBeyondVocabulary", [](S& s) { s.add_stop_token_ids(1000); },
        "stop_token_ids[0] is 1000; it must be in [0, 999]"),
    Sampling(
        "TooManyBiases",
        [](S& s) {
          for (int i = 0; i < 1025; ++i) (*s.mutable_logit_bias())[i] = 0;
        },
        "logit_bias has 1025 entries; the limit is 1024"),
    Sampling(
        "BiasTokenBeyondVocabulary", [](S& s) { (*s.mutable_logit_bias())[1000] = 0; },
        "logit_bias token is 1000; it must be in [0, 999]"),
    Sampling(
        "BiasTooLarge", [](S& s) { (*s.mutable_logit_bias())[3] = 101; },
        "logit_bias of token 3 is 101; it must be in [-100, 100]"),
    Sampling(
        "BiasNaN", [](S& s) { (*s.mutable_logit_bias())[3] = kNaN; },
        "logit_bias of token 3 is nan"),
    Sampling(
        "LogprobsNegative", [](S& s) { s.set_logprobs(-1); },
        "logprobs is -1; it must be in [0, 20]"),
    Sampling(
        "LogprobsTooMany", [](S& s) { s.set_logprobs(21); },
        "logprobs is 21; it must be in [0, 20]"),
    Sampling(
        "NZero", [](S& s) { s.set_n(0); }, "n is 0; it must be in [1, 16]"),
    Sampling(
        "NTooMany", [](S& s) { s.set_n(17); }, "n is 17; it must be in [1, 16]"),
};

TestServerOptions SmallContext() {
  TestServerOptions options;
  options.scheduler.max_context_tokens = 4096;
  return options;
}

// One server for all cases, gone before the libraries' statics are.
class SharedServerEnvironment : public testing::Environment {
 public:
  void TearDown() override { server_.reset(); }
  TestServer& server() {
    if (server_ == nullptr) server_ = std::make_unique<TestServer>(SmallContext());
    return *server_;
  }

 private:
  std::unique_ptr<TestServer> server_;
};

SharedServerEnvironment* const kEnvironment = [] {
  auto* const environment = new SharedServerEnvironment();
  testing::AddGlobalTestEnvironment(environment);  // which deletes it
  return environment;
}();

TestServer& SharedServer() { return kEnvironment->server(); }

class BadGenerateTest : public testing::TestWithParam<BadGenerate> {};

TEST_P(BadGenerateTest, GetsItsStatus) {
  v1::GenerateRequest request;
  request.set_text("fine");
  GetParam().spoil(request);
  const GenerateOutput output = Generate(SharedServer().stub(), request);
  EXPECT_EQ(output.status.error_code(), GetParam().code);
  EXPECT_THAT(output.status.error_message(), HasSubstr(GetParam().message));
  EXPECT_EQ(output.status.error_details(), "") << "only what can be retried has details";
  for (const CandidateOutput& candidate : output.candidates) {
    EXPECT_EQ(candidate.num_messages, 0);
  }
  EXPECT_TRUE(SharedServer().BecomesIdle());
}

INSTANTIATE_TEST_SUITE_P(Fields, BadGenerateTest, testing::ValuesIn(kBadGenerates),
                         [](const auto& param) { return param.param.name; });

TEST(GoodGenerateTest, EveryBoundItselfIsAccepted) {
  v1::GenerateRequest request;
  request.set_text(std::string(4095, '.'));
  request.set_priority(-100);
  v1::SamplingParams& s = *request.mutable_sampling();
  s.set_max_tokens(1);
  s.set_min_tokens(1);
  s.set_temperature(100);
  s.set_top_p(1);
  s.set_top_k(std::numeric_limits<std::int32_t>::max());
  s.set_min_p(1);
  s.set_repetition_penalty(100);
  s.set_frequency_penalty(-100);
  s.set_presence_penalty(100);
  s.set_seed(std::numeric_limits<std::uint64_t>::max());
  for (int i = 0; i < 16; ++i) s.add_stop(std::string(256, 'x'));
  for (int i = 0; i < 64; ++i) s.add_stop_token_ids(999);
  for (int i = 0; i < 1000; ++i) (*s.mutable_logit_bias())[i] = 100;
  s.set_logprobs(20);
  s.set_n(16);
  const GenerateOutput output = Generate(SharedServer().stub(), request);
  EXPECT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[15].tokens.size(), 1u);
  EXPECT_EQ(output.candidates[0].seed, std::numeric_limits<std::uint64_t>::max());
}

TEST(GoodGenerateTest, TinyNumbersAreNotErrors) {
  v1::GenerateRequest request = TextRequest("tiny", 3);
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  request.mutable_sampling()->set_temperature(kTiny);
  request.mutable_sampling()->set_top_p(kTiny);
  request.mutable_sampling()->set_repetition_penalty(kTiny);
  EXPECT_TRUE(Generate(SharedServer().stub(), request).status.ok());
}

TEST(GoodGenerateTest, UnsetMaxTokensShrinksToWhatTheContextLeaves) {
  v1::GenerateRequest request;
  request.set_text(std::string(4090, '.'));
  request.mutable_sampling()->set_ignore_eos(true);
  const GenerateOutput output = Generate(SharedServer().stub(), request);
  ASSERT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[0].tokens.size(), 6u);
}

TEST(BadGenerateTest, MoreThanTheWholePoolIsInvalidAtOnce) {
  TestServerOptions options;
  options.engine.num_pages = 10;
  options.engine.num_slots = 4;
  TestServer server(options);
  GenerateOutput output = Generate(server.stub(), TextRequest("big", 1000));
  EXPECT_EQ(output.status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(output.status.error_message(), HasSubstr("the limit is 10"));
  v1::GenerateRequest many = TextRequest("many", 1);
  many.mutable_sampling()->set_n(5);
  output = Generate(server.stub(), many);
  EXPECT_EQ(output.status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(output.status.error_message(), HasSubstr("the limit is 4"));
}

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
    {"ContextToken", [](auto& r) { r.mutable_context_tokens()->add_ids(1000); },
     "context_tokens[0] is 1000; it must be in [0, 999]"},
    {"Priority", [](auto& r) { r.set_priority(-1000); }, "priority is -1000"},
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
    const grpc::Status status = SharedServer().stub().Score(&context, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(bad.message));
  }
  EXPECT_TRUE(SharedServer().BecomesIdle());
}

TEST(BadDetokenizeTest, AnIdBeyondTheVocabularyIsInvalid) {
  for (const std::int32_t id : {-1, 1000}) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_tokens(5);
    request.add_tokens(id);
    v1::DetokenizeResponse response;
    const grpc::Status status =
        SharedServer().stub().Detokenize(&context, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("tokens[1] is "));
  }
}

}  // namespace
}  // namespace goldfinch
