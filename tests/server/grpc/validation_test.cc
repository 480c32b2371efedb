// What validation makes of messages, and of the last turn of a session, which is read as
// a message would be.
#include "server/validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::ElementsAre;

const ServingLimits& Limits() {
  static const Tokenizer* const tokenizer = new Tokenizer(TestVocabulary());
  static const auto* const limits = new ServingLimits{.vocabulary = TestVocabulary(),
                                                      .tokenizer = *tokenizer,
                                                      .max_context_tokens = 1 << 20,
                                                      .default_max_tokens = 16,
                                                      .max_message_bytes = 1 << 25};
  return *limits;
}

GenerateCall Validated(const v1::GenerateRequest& request) {
  auto call = ValidateGenerate(request, Limits());
  EXPECT_TRUE(call.ok()) << call.status();
  return call.value_or(GenerateCall());
}

// Every field that a turn remembers, none of them as it is by default.
v1::GenerateRequest WithEverything() {
  v1::GenerateRequest request = TextRequest("text", 100);
  request.set_priority(-7);
  v1::SamplingParams& in = *request.mutable_sampling();
  in.set_min_tokens(9);
  in.set_temperature(0.5f);
  in.set_top_p(0.75f);
  in.set_top_k(40);
  in.set_min_p(0.125f);
  in.set_repetition_penalty(1.25f);
  in.set_frequency_penalty(-0.5f);
  in.set_presence_penalty(0.25f);
  in.set_seed(std::numeric_limits<std::uint64_t>::max());
  in.add_stop("one");
  in.add_stop("another");
  for (const TokenId token : {300, 20, 300, 10, 20}) in.add_stop_token_ids(token);
  in.set_include_stop_str_in_output(true);
  in.set_ignore_eos(true);
  in.set_logprobs(3);
  (*in.mutable_logit_bias())[17] = -1.5f;
  (*in.mutable_logit_bias())[11] = 2.0f;
  return request;
}

// The scheduler takes them as sorted, and a turn that has them twice is none.
TEST(ValidationTest, StopTokensAreSortedAndEachIsThereOnce) {
  EXPECT_THAT(Validated(WithEverything()).request.stop_token_ids,
              ElementsAre(10, 20, 300));
}

TEST(ValidationTest, BiasesAreSorted) {
  EXPECT_THAT(Validated(WithEverything()).request.sampling.logit_bias,
              ElementsAre(std::pair(11, 2.0f), std::pair(17, -1.5f)));
}

TEST(ValidationTest, ATurnMakesTheCallThatItCameFrom) {
  const GenerateCall made = Validated(WithEverything());
  const Turn turn = TurnOf(made);
  const auto again = CallOf(turn, {}, Limits());
  ASSERT_TRUE(again.ok()) << again.status();
  const Request &a = made.request, &b = again->request;
  EXPECT_EQ(b.kind, RequestKind::kGenerate);
  EXPECT_EQ(b.priority, -7);
  EXPECT_EQ(b.max_tokens, 100);
  EXPECT_EQ(b.num_generated, 0);
  EXPECT_EQ(b.stop_token_ids, a.stop_token_ids);
  EXPECT_TRUE(b.ignore_eos);
  EXPECT_EQ(b.sampling.min_tokens, 9);
  EXPECT_EQ(b.sampling.banned_before_min_tokens, a.sampling.banned_before_min_tokens);
  EXPECT_EQ(b.sampling.temperature, 0.5f);
  EXPECT_EQ(b.sampling.top_p, 0.75f);
  EXPECT_EQ(b.sampling.top_k, 40);
  EXPECT_EQ(b.sampling.min_p, 0.125f);
  EXPECT_EQ(b.sampling.repetition_penalty, 1.25f);
  EXPECT_EQ(b.sampling.frequency_penalty, -0.5f);
  EXPECT_EQ(b.sampling.presence_penalty, 0.25f);
  EXPECT_EQ(b.sampling.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(b.sampling.logit_bias, a.sampling.logit_bias);
  EXPECT_EQ(b.sampling.num_logprobs, 3);
  EXPECT_THAT(again->stop, ElementsAre("one", "another"));
  EXPECT_EQ(again->text.min_tokens, 9);
  EXPECT_EQ(again->text.stop_text, StopText::kInclude);
  EXPECT_NE(again->text.stops, nullptr);
  EXPECT_NE(b.make_stop_condition, nullptr);
}

TEST(ValidationTest, TopKOfMinusOneIsOff) {
  v1::GenerateRequest request = TextRequest("text", 100);
  request.mutable_sampling()->set_top_k(-1);
  EXPECT_EQ(Validated(request).request.sampling.top_k, 0);
}

TEST(ValidationTest, AnUnsetMaxTokensLeavesRoomForMinTokens) {
  v1::GenerateRequest request = TextRequest("text", 100);
  request.mutable_sampling()->clear_max_tokens();
  EXPECT_EQ(Validated(request).request.max_tokens, Limits().default_max_tokens);
  request.mutable_sampling()->set_min_tokens(300);
  EXPECT_EQ(Validated(request).request.max_tokens, 300);
  request.mutable_sampling()->set_min_tokens((1 << 20) + 1);
  EXPECT_FALSE(ValidateGenerate(request, Limits()).ok());
}

TEST(ValidationTest, WhatIsJustBeyondABoundLooksBeyondIt) {
  v1::GenerateRequest request = TextRequest("text", 100);
  request.mutable_sampling()->set_min_p(std::nextafter(1.0f, 2.0f));
  EXPECT_EQ(ValidateGenerate(request, Limits()).status().message(),
            "min_p is 1.0000001; it must be in [0, 1]");
  request.mutable_sampling()->set_min_p(1.1f);
  EXPECT_EQ(ValidateGenerate(request, Limits()).status().message(),
            "min_p is 1.1; it must be in [0, 1]");
}

// Whatever a snapshot says: a request for no more tokens would be one that never ends.
TEST(ValidationTest, ATurnThatHasAllItsTokensHasEnded) {
  const std::vector<TokenId> generated(101, 300);
  const auto read = [&](std::int64_t num_generated, bool ended) {
    Turn turn = TurnOf(Validated(TextRequest("text", 100)));
    turn.num_generated = num_generated;
    if (ended) turn.end = Turn::End{.reason = FinishReason::kLength, .match = {}};
    return CallOf(turn,
                  std::span(generated).first(static_cast<std::size_t>(num_generated)),
                  Limits())
        .status();
  };
  EXPECT_EQ(read(99, false), absl::OkStatus());
  EXPECT_EQ(read(100, true), absl::OkStatus());
  EXPECT_TRUE(absl::IsDataLoss(read(100, false)));
  EXPECT_TRUE(absl::IsDataLoss(read(101, false)));
  EXPECT_TRUE(absl::IsDataLoss(read(101, true)));
}

}  // namespace
}  // namespace goldfinch
