#include "tests/hostile/checked_status.h"

#include <grpcpp/support/error_details.h>
#include <gtest/gtest.h>
#include <regex.h>

#include <algorithm>
#include <cstddef>

#include "engine/check.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace goldfinch {

void ExpectTellsNothing(const std::string& text) {
  // POSIX: gcc 12 warns of the inside of std::regex where sanitizers are on.
  static const regex_t* const telling = [] {
    auto* const compiled = new regex_t();
    const char* const kPattern =
        "0x[0-9a-f]{3}"                  // a pointer
        "|(^|[^a-z0-9])/[a-z.]"          // a path
        "|[0-9]+[.][0-9]+[.][0-9]+[.]"   // an address
        "|\\[::|localhost"               //
        "|[.](cc|h|so|cu)([^a-z0-9]|$)"  // a source file
        "|-tenant|key-of-|canary";       // see the header
    GOLDFINCH_CHECK(regcomp(compiled, kPattern, REG_EXTENDED | REG_ICASE) == 0);
    return compiled;
  }();
  std::string line = text;  // an expression ends where a string of C does
  std::replace(line.begin(), line.end(), '\0', ' ');
  regmatch_t found{};
  if (regexec(telling, line.c_str(), 1, &found, 0) != 0) return;
  ADD_FAILURE() << "\""
                << text.substr(static_cast<std::size_t>(found.rm_so),
                               static_cast<std::size_t>(found.rm_eo - found.rm_so))
                << "\" in: " << text;
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
