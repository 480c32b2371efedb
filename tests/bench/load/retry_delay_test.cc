#include "bench/load/retry_delay.h"

#include <gtest/gtest.h>

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace goldfinch {
namespace {

std::string Details() {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  retry.mutable_retry_delay()->set_nanos(500000000);
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

TEST(RetryDelayTest, OtherStatusesAreFailures) {
  EXPECT_FALSE(RetryDelay({grpc::StatusCode::INTERNAL, "", Details()}).has_value());
  EXPECT_FALSE(RetryDelay({grpc::StatusCode::UNAVAILABLE, ""}).has_value());
  EXPECT_FALSE(
      RetryDelay({grpc::StatusCode::RESOURCE_EXHAUSTED, "", "garbage"}).has_value());
  EXPECT_FALSE(RetryDelay(grpc::Status::OK).has_value());
}

}  // namespace
}  // namespace goldfinch
