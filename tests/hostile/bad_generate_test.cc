// Every bad field of Generate, over the wire: its exact status, and a message that names
// the value and the limit, before anything is allocated.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/hostile/checked_status.h"
#include "tests/hostile/shared_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr char kNoSessionId[] = "the session id must be 32 lowercase hexadecimal digits";

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
    {"LastTokenBeyondVocabulary",
     [](auto& r) {
       for (int i = 0; i < 100; ++i) r.mutable_tokens()->add_ids(999);
       r.mutable_tokens()->add_ids(std::numeric_limits<std::int32_t>::max());
     },
     "tokens[100] is 2147483647; it must be in [0, 999]"},
    {"LowestToken",
     [](auto& r) {
       r.mutable_tokens()->add_ids(std::numeric_limits<std::int32_t>::min());
     },
     "tokens[0] is -2147483648; it must be in [0, 999]"},
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
    {"Session", [](auto& r) { r.set_session("abc"); }, kNoSessionId},
    {"SessionInCapitals", [](auto& r) { r.set_session(std::string(32, 'A')); },
     kNoSessionId},
    {"SessionTooLong", [](auto& r) { r.set_session(std::string(33, '0')); },
     kNoSessionId},
    {"SessionOfAPath", [](auto& r) { r.set_session("../../../../../../../etc/passwd"); },
     kNoSessionId},
    {"SessionWithANul",
     [](auto& r) { r.set_session(std::string(31, '0') + std::string(1, '\0')); },
     kNoSessionId},
    {"SessionOfAMegabyte", [](auto& r) { r.set_session(std::string(1 << 20, '0')); },
     kNoSessionId},
    {"SessionUnknown", [](auto& r) { r.set_session(std::string(32, '0')); },
     "there is no such session", StatusCode::NOT_FOUND},
    {"SessionWithCandidates",
     [](auto& r) {
       r.set_session(std::string(32, '0'));
       r.mutable_sampling()->set_n(2);
     },
     "it must be 1 with a session"},
    {"Resume", [](auto& r) { r.mutable_resume()->set_session_id("abc"); }, kNoSessionId},
    {"ResumeOfNothing", [](auto& r) { r.mutable_resume(); }, kNoSessionId},
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
        "TopKNegative", [](S& s) { s.set_top_k(-2); },
        "top_k is -2; it must be -1 or more"),
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
        "StopTokenNegative", [](S& s) { s.add_stop_token_ids(-1); },
        "stop_token_ids[0] is -1; it must be in [0, 999]"),
    Sampling(
        "BiasTokenNegative", [](S& s) { (*s.mutable_logit_bias())[-1] = 0; },
        "logit_bias token is -1; it must be in [0, 999]"),
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

class BadGenerateTest : public testing::TestWithParam<BadGenerate> {};

TEST_P(BadGenerateTest, GetsItsStatus) {
  v1::GenerateRequest request;
  request.set_text("fine");
  GetParam().spoil(request);
  const GenerateOutput output = Generate(SharedServer().stub(), request);
  const grpc::Status status = Checked(output.status);
  EXPECT_EQ(status.error_code(), GetParam().code);
  EXPECT_THAT(status.error_message(), HasSubstr(GetParam().message));
  EXPECT_EQ(output.status.error_details(), "") << "only what can be retried has details";
  for (const CandidateOutput& candidate : output.candidates) {
    EXPECT_EQ(candidate.num_messages, 0);
  }
  ExpectSharedServerUnharmed();
}

INSTANTIATE_TEST_SUITE_P(Fields, BadGenerateTest, testing::ValuesIn(kBadGenerates),
                         [](const auto& param) { return param.param.name; });

grpc::Status StatusOf(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  const auto reader = SharedServer().stub().Generate(&context, request);
  v1::GenerateResponse message;
  EXPECT_FALSE(reader->Read(&message));
  return Checked(reader->Finish());
}

// By the descriptor, so that a field that is added later is asked as well.
TEST(BadNumbersTest, NoFieldTakesWhatIsNotFinite) {
  const auto* descriptor = v1::SamplingParams::descriptor();
  int fields = 0;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_FLOAT) continue;
    ++fields;
    for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
      SCOPED_TRACE(testing::Message() << field->name() << " is " << bad);
      v1::GenerateRequest request;
      request.set_text("fine");
      S* sampling = request.mutable_sampling();
      sampling->GetReflection()->SetFloat(sampling, field, bad);
      const grpc::Status status = StatusOf(request);
      EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
      EXPECT_THAT(status.error_message(), testing::StartsWith(field->name() + " is "));
    }
  }
  EXPECT_EQ(fields, 6);
  for (const float bad : {kNaN, kInfinity, -kInfinity}) {
    v1::GenerateRequest request;
    request.set_text("fine");
    (*request.mutable_sampling()->mutable_logit_bias())[999] = bad;
    EXPECT_EQ(StatusOf(request).error_code(), StatusCode::INVALID_ARGUMENT) << bad;
  }
  ExpectSharedServerUnharmed();
}

TEST(BadNumbersTest, NoCountIsNegative) {
  const auto* descriptor = v1::SamplingParams::descriptor();
  int fields = 0;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->is_repeated()) continue;
    const bool is_long =
        field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_INT64;
    if (!is_long &&
        field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_INT32) {
      continue;
    }
    ++fields;
    // -1 is "off" of this one.
    const std::int64_t least = field->name() == "top_k" ? -1 : 0;
    for (const std::int64_t bad :
         {least - 1, is_long ? std::numeric_limits<std::int64_t>::min()
                             : std::numeric_limits<std::int32_t>::min()}) {
      SCOPED_TRACE(testing::Message() << field->name() << " is " << bad);
      v1::GenerateRequest request;
      request.set_text("fine");
      S* sampling = request.mutable_sampling();
      if (is_long) {
        sampling->GetReflection()->SetInt64(sampling, field, bad);
      } else {
        sampling->GetReflection()->SetInt32(sampling, field,
                                            static_cast<std::int32_t>(bad));
      }
      const grpc::Status status = StatusOf(request);
      EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
      EXPECT_THAT(status.error_message(), testing::StartsWith(field->name() + " is "));
    }
  }
  EXPECT_EQ(fields, 5);
  ExpectSharedServerUnharmed();
}

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

}  // namespace
}  // namespace goldfinch
