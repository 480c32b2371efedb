// Generate over a real channel: what arrives is what the engine made, shaped as asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "server/text/detokenizer.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;

class GenerateTest : public testing::Test {
 protected:
  CandidateOutput One(const v1::GenerateRequest& request) {
    GenerateOutput output = Generate(server_.stub(), request);
    EXPECT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_TRUE(output.candidates[0].last.has_value());
    if (!output.candidates[0].last.has_value()) output.candidates[0].last.emplace();
    return output.candidates[0];
  }

  TestServer server_;
};

TEST_F(GenerateTest, StreamsTheTokensOfTheEngineAndTheirText) {
  const v1::GenerateRequest request = TextRequest("the quick brown fox", 40);
  const CandidateOutput output = One(request);
  EXPECT_EQ(output.tokens, ExpectedTokens(request));
  EXPECT_EQ(output.text, TextOf(output.tokens));
  EXPECT_EQ(output.seed, 7u);
  EXPECT_EQ(output.last->usage().prompt_tokens(), Encode("the quick brown fox").size());
  EXPECT_EQ(output.last->usage().generated_tokens(), output.tokens.size());
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(GenerateTest, TokensAsInputAreTheSamePromptAsTheirText) {
  const v1::GenerateRequest by_text = TextRequest("the the café", 20);
  v1::GenerateRequest by_tokens = by_text;
  const std::vector<TokenId> ids = Encode("the the café");
  by_tokens.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  EXPECT_EQ(One(by_text).tokens, One(by_tokens).tokens);
}

TEST_F(GenerateTest, LengthIsTheReasonWhenMaxTokensIsReached) {
  v1::GenerateRequest request = TextRequest("a", 5);
  request.mutable_sampling()->set_ignore_eos(true);
  const CandidateOutput output = One(request);
  EXPECT_EQ(output.tokens.size(), 5);
  EXPECT_EQ(output.last->finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(output.last->stop_match_case(), v1::GenerateResponse::STOP_MATCH_NOT_SET);
}

TEST_F(GenerateTest, UnsetMaxTokensIsTheServersDefault) {
  v1::GenerateRequest request = TextRequest("a", 1);
  request.mutable_sampling()->clear_max_tokens();
  request.mutable_sampling()->set_ignore_eos(true);
  EXPECT_EQ(One(request).tokens.size(), 16);
}

TEST_F(GenerateTest, EndOfTextEndsWithStopAndShowsNothing) {
  // Some seed ends early; which one is a property of the fake engine.
  for (std::uint64_t seed = 0;; ++seed) {
    v1::GenerateRequest request = TextRequest("a", 64);
    request.mutable_sampling()->set_seed(seed);
    const std::vector<TokenId> expected = ExpectedTokens(request);
    if (expected.back() != kEndOfText || expected.size() < 2) continue;
    const CandidateOutput output = One(request);
    EXPECT_EQ(output.tokens, expected);
    EXPECT_EQ(output.text, TextOf({expected.begin(), expected.end() - 1}));
    EXPECT_EQ(output.last->finish_reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(output.last->stop_match_case(), v1::GenerateResponse::STOP_MATCH_NOT_SET);
    return;
  }
}

TEST_F(GenerateTest, TheSameSeedGivesTheSameTokensAndAnotherDoesNot) {
  v1::GenerateRequest request = TextRequest("seeds", 30);
  const CandidateOutput first = One(request);
  EXPECT_EQ(One(request).tokens, first.tokens);
  request.mutable_sampling()->set_seed(8);
  EXPECT_NE(One(request).tokens, first.tokens);
}

TEST_F(GenerateTest, AnUnsetSeedIsReportedAndRepeatsTheTokens) {
  v1::GenerateRequest request = TextRequest("seeds", 30);
  request.mutable_sampling()->clear_seed();
  const CandidateOutput first = One(request);
  ASSERT_TRUE(first.seed.has_value());
  EXPECT_NE(One(request).seed, first.seed);
  request.mutable_sampling()->set_seed(*first.seed);
  EXPECT_EQ(One(request).tokens, first.tokens);
}

TEST_F(GenerateTest, CandidatesAreIndependentAndEachEndsOnce) {
  v1::GenerateRequest request = TextRequest("several", 25);
  request.mutable_sampling()->set_n(4);
  const GenerateOutput output = Generate(server_.stub(), request);
  ASSERT_TRUE(output.status.ok());
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(output.candidates[i].tokens, ExpectedTokens(request, i));
    ASSERT_TRUE(output.candidates[i].last.has_value());
    EXPECT_EQ(output.candidates[i].last->usage().generated_tokens(),
              output.candidates[i].tokens.size());
  }
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(GenerateTest, LogprobsComeOneATokenWithAsManyAlternativesAsAsked) {
  v1::GenerateRequest request = TextRequest("logs", 10);
  EXPECT_TRUE(One(request).logprobs.empty());
  for (const int count : {0, 1, 20}) {
    request.mutable_sampling()->set_logprobs(count);
    const CandidateOutput output = One(request);
    ASSERT_EQ(output.logprobs.size(), output.tokens.size());
    for (const v1::TokenLogprobs& entry : output.logprobs) {
      EXPECT_EQ(entry.top_size(), count);
      EXPECT_LE(entry.logprob(), 0);
    }
  }
}

// Every substring of the whole text that begins at a few places, so that stops fall on,
// inside and across tokens.
TEST_F(GenerateTest, StopStringsEndTheTextBeforeThemWhereverTokensEnd) {
  const v1::GenerateRequest plain = TextRequest("stops", 24);
  const std::string whole = One(plain).text;
  ASSERT_GT(whole.size(), 40u);
  for (std::size_t begin = 1; begin < 30; ++begin) {
    for (const std::size_t length : {1u, 2u, 5u, 9u}) {
      const std::string stop = whole.substr(begin, length);
      if (ToValidUtf8(stop) != stop) continue;  // not a string on its own
      v1::GenerateRequest request = plain;
      request.mutable_sampling()->add_stop("never in the text");
      request.mutable_sampling()->add_stop(stop);
      const CandidateOutput output = One(request);
      EXPECT_EQ(output.text, whole.substr(0, whole.find(stop)));
      EXPECT_EQ(output.last->finish_reason(), v1::FINISH_REASON_STOP);
      EXPECT_EQ(output.last->matched_stop(), stop);
      request.mutable_sampling()->set_include_stop_str_in_output(true);
      EXPECT_EQ(One(request).text, whole.substr(0, whole.find(stop) + length));
    }
  }
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(GenerateTest, AStopStringThatNeverMatchesHoldsNothingBackInTheEnd) {
  v1::GenerateRequest request = TextRequest("stops", 24);
  const std::string whole = One(request).text;
  request.mutable_sampling()->add_stop(whole.substr(whole.size() - 6) + "and more");
  const CandidateOutput output = One(request);
  EXPECT_EQ(output.text, whole);
  EXPECT_THAT(output.last->matched_stop(), testing::IsEmpty());
}

TEST_F(GenerateTest, StopStringsCountOnlyAfterMinTokens) {
  v1::GenerateRequest request = TextRequest("minimum", 24);
  request.mutable_sampling()->set_ignore_eos(true);
  const std::vector<TokenId> tokens = ExpectedTokens(request);
  // The text of the third token is a stop: without min_tokens it ends there.
  const std::string stop = TextOf({tokens[2]});
  request.mutable_sampling()->add_stop(stop);
  EXPECT_LE(One(request).tokens.size(), 3u);
  request.mutable_sampling()->set_min_tokens(10);
  const CandidateOutput output = One(request);
  EXPECT_GT(output.tokens.size(), 10u);
  EXPECT_THAT(output.text, HasSubstr(stop));
}

// Its text is a stop string, too, and it is the token that ends the candidate, shown or
// not.
TEST_F(GenerateTest, WhatEndedIsTheSameWhetherItIsShownOrNot) {
  v1::GenerateRequest request = TextRequest("stop token", 24);
  const TokenId stop = ExpectedTokens(request).at(5);
  request.mutable_sampling()->add_stop_token_ids(stop);
  request.mutable_sampling()->add_stop(TextOf({stop}));
  for (const bool shown : {false, true}) {
    request.mutable_sampling()->set_include_stop_str_in_output(shown);
    const CandidateOutput output = One(request);
    EXPECT_EQ(output.last->matched_stop_token(), stop) << shown;
    EXPECT_THAT(output.last->matched_stop(), testing::IsEmpty()) << shown;
  }
}

TEST_F(GenerateTest, AStopTokenIsInTokensAndInTheTextOnlyIfAskedFor) {
  v1::GenerateRequest request = TextRequest("stop token", 24);
  const std::vector<TokenId> tokens = ExpectedTokens(request);
  ASSERT_GT(tokens.size(), 6u);
  const TokenId stop = tokens[5];
  const auto first = std::find(tokens.begin(), tokens.end(), stop);
  const std::vector<TokenId> before(tokens.begin(), first);
  const std::vector<TokenId> through(tokens.begin(), first + 1);
  request.mutable_sampling()->add_stop_token_ids(stop);
  CandidateOutput output = One(request);
  EXPECT_EQ(output.tokens, through);
  EXPECT_EQ(output.text, TextOf(before));
  EXPECT_EQ(output.last->finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(output.last->matched_stop_token(), stop);
  request.mutable_sampling()->set_include_stop_str_in_output(true);
  output = One(request);
  EXPECT_EQ(output.tokens, through);
  EXPECT_EQ(output.text, TextOf(through));
}

TEST_F(GenerateTest, SixtyFourConcurrentStreamsEqualSixtyFourAlone) {
  std::vector<v1::GenerateRequest> requests;
  std::vector<std::vector<TokenId>> alone;
  for (int i = 0; i < 64; ++i) {
    requests.push_back(TextRequest("prompt number " + std::to_string(i), 10 + 5 * i));
    requests.back().mutable_sampling()->set_seed(static_cast<std::uint64_t>(i));
    alone.push_back(One(requests.back()).tokens);
  }
  std::vector<GenerateOutput> together(requests.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    threads.emplace_back([&, i] { together[i] = Generate(server_.stub(), requests[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(together[i].status.ok());
    EXPECT_EQ(together[i].candidates[0].tokens, alone[i]);
  }
  EXPECT_TRUE(server_.BecomesIdle());
}

}  // namespace
}  // namespace goldfinch
