#include "bench/load/tally.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace goldfinch {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::Pair;

// The window is from the tenth to the twentieth second.
LoadTime At(double second) {
  return LoadTime() + milliseconds(static_cast<std::int64_t>(second * 1000));
}

class TallyTest : public testing::Test {
 protected:
  TenantResult Result() { return tally_.Result("a"); }
  Tally tally_{{.begin = At(10), .end = At(20)}};
};

TEST_F(TallyTest, ARequestBelongsToTheWindowInWhichItWasDue) {
  tally_.Due(At(9.999));
  tally_.Finished(At(9.999));
  EXPECT_EQ(Result().requests, 0);
  EXPECT_EQ(Result().finished, 0);
  tally_.Due(At(10));
  tally_.FirstTokens(At(10), At(21), 100, 1);  // after the window: a latency, no tokens
  tally_.Finished(At(10));
  tally_.Due(At(20));
  const TenantResult result = Result();
  EXPECT_EQ(result.name, "a");
  EXPECT_EQ(result.requests, 1);
  EXPECT_EQ(result.finished, 1);
  EXPECT_EQ(result.cut, 0);
  EXPECT_EQ(result.prompt_tokens, 0);
  EXPECT_EQ(result.generated_tokens, 0);
  EXPECT_EQ(result.first_token.count, 1);
  EXPECT_DOUBLE_EQ(result.first_token.p50, 11);
}

TEST_F(TallyTest, ATokenBelongsToTheWindowInWhichItCame) {
  tally_.Due(At(1));
  tally_.FirstTokens(At(1), At(11), 100, 1);
  tally_.MoreTokens(At(11), At(11.5), 1);
  tally_.MoreTokens(At(11.5), At(20), 1);
  const TenantResult result = Result();
  EXPECT_EQ(result.prompt_tokens, 100);
  EXPECT_EQ(result.generated_tokens, 2);
  EXPECT_EQ(result.first_token.count, 0);
  EXPECT_EQ(result.inter_token.count, 1);
  EXPECT_DOUBLE_EQ(result.inter_token.p50, 0.5);
}

// Four gaps for five tokens, whatever messages they came in.
TEST_F(TallyTest, TokensOfOneMessageHaveNoTimeBetweenThem) {
  tally_.FirstTokens(At(11), At(12), 7, 2);
  tally_.MoreTokens(At(12), At(12.5), 3);
  const TenantResult result = Result();
  EXPECT_EQ(result.generated_tokens, 5);
  EXPECT_EQ(result.messages, 2);
  EXPECT_EQ(result.inter_token.count, 4);
  EXPECT_DOUBLE_EQ(result.inter_token.p50, 0);
  EXPECT_DOUBLE_EQ(result.inter_token.max, 0.5);
}

TEST_F(TallyTest, WhatDidNotEndIsCutAndMaybeUnanswered) {
  for (int i = 0; i < 6; ++i) tally_.Due(At(11));
  tally_.FirstTokens(At(11), At(12), 1, 1);  // ends
  tally_.Finished(At(11));
  tally_.FirstTokens(At(11), At(12), 1, 1);  // does not
  tally_.FirstTokens(At(11), At(12), 1, 1);  // fails later
  tally_.Failed(At(11), grpc::StatusCode::INTERNAL, /*answered=*/true);
  tally_.Failed(At(11), grpc::StatusCode::UNAVAILABLE, /*answered=*/false);
  tally_.Refused(At(11));
  const TenantResult result = Result();
  EXPECT_EQ(result.finished, 1);
  EXPECT_EQ(result.refused, 1);
  EXPECT_THAT(result.failed, ElementsAre(Pair("INTERNAL", 1), Pair("UNAVAILABLE", 1)));
  EXPECT_EQ(result.cut, 3);
  EXPECT_EQ(result.unanswered, 2);
}

}  // namespace
}  // namespace goldfinch
