#include "server/cli/retry_delay.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace goldfinch {
namespace {

std::string Details(std::int64_t seconds = 2, std::int32_t nanos = 500000000) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(seconds);
  retry.mutable_retry_delay()->set_nanos(nanos);
  google::rpc::Status status;
  status.add_details()->PackFrom(google::rpc::Status());  // something else before it
  status.add_details()->PackFrom(retry);
  return status.SerializeAsString();
}

TEST(RetryDelayTest, ARefusalSaysWhenToComeAgain) {
  for (const grpc::StatusCode code :
       {grpc::StatusCode::RESOURCE_EXHAUSTED, grpc::StatusCode::UNAVAILABLE}) {
    EXPECT_EQ(RetryDelay({code, "full", Details()}), std::chrono::milliseconds(2500));
  }
}

TEST(RetryDelayTest, WhatNobodyCanMeanIsADayOrNothing) {
  const auto delay = [](std::int64_t seconds, std::int32_t nanos) {
    return RetryDelay({grpc::StatusCode::UNAVAILABLE, "", Details(seconds, nanos)});
  };
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(delay(kMax, 0), std::chrono::hours(24));
  EXPECT_EQ(delay(86400, 1), std::chrono::hours(24));
  EXPECT_EQ(delay(-kMax, 0), std::chrono::seconds(0));
  EXPECT_EQ(delay(0, -1), std::chrono::seconds(0));
}

TEST(RetryDelayTest, OtherStatusesAreFailures) {
  EXPECT_FALSE(RetryDelay({grpc::StatusCode::INTERNAL, "", Details()}).has_value());
  EXPECT_FALSE(RetryDelay({grpc::StatusCode::UNAVAILABLE, ""}).has_value());
  EXPECT_FALSE(
      RetryDelay({grpc::StatusCode::RESOURCE_EXHAUSTED, "", "garbage"}).has_value());
  EXPECT_FALSE(RetryDelay(grpc::Status::OK).has_value());
}

}  // namespace
}  // namespace goldfinch
