#include "tests/hostile/checked_status.h"

#include <grpcpp/support/error_details.h>
#include <gtest/gtest.h>

#include <regex>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace goldfinch {

void ExpectTellsNothing(const std::string& text) {
  static const std::regex telling(
      "0x[0-9a-f]{3}"                 // a pointer
      "|(^|[^A-Za-z0-9])/[A-Za-z.]"   // a path
      "|[0-9]+\\.[0-9]+\\.[0-9]+\\."  // an address
      "|\\[::|localhost"              //
      "|\\.(cc|h|so|cu)\\b"           // a source file
      "|-tenant|key-of-|canary",      // see the header
      std::regex::icase | std::regex::optimize);
  std::smatch found;
  EXPECT_FALSE(std::regex_search(text, found, telling))
      << "\"" << found.str() << "\" in: " << text;
}

grpc::Status Checked(grpc::Status status) {
  if (status.error_message().starts_with("failed to connect to all addresses")) {
    return status;
  }
  ExpectTellsNothing(status.error_message());
  google::rpc::Status details;
  if (!status.error_details().empty() &&
      grpc::ExtractErrorDetails(status, &details).ok()) {
    EXPECT_EQ(details.code(), status.error_code());
    EXPECT_EQ(details.message(), status.error_message());
  }
  return status;
}

bool CarriesRetryInfo(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  return grpc::ExtractErrorDetails(status, &details).ok() &&
         details.details_size() >= 1 && details.details(0).UnpackTo(&retry) &&
         retry.retry_delay().seconds() + retry.retry_delay().nanos() > 0;
}

}  // namespace goldfinch
