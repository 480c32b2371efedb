#include "server/cli/retry_delay.h"

#include <algorithm>
#include <cstdint>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace goldfinch {

std::optional<std::chrono::nanoseconds> RetryDelay(const grpc::Status& status) {
  google::rpc::Status details;
  if ((status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED &&
       status.error_code() != grpc::StatusCode::UNAVAILABLE) ||
      !details.ParseFromString(status.error_details())) {
    return std::nullopt;
  }
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::RetryInfo retry;
    if (!detail.UnpackTo(&retry)) continue;
    const std::int64_t seconds = std::clamp<std::int64_t>(retry.retry_delay().seconds(),
                                                          0, kLongestRetryDelay.count());
    return std::clamp<std::chrono::nanoseconds>(
        std::chrono::seconds(seconds) +
            std::chrono::nanoseconds(retry.retry_delay().nanos()),
        std::chrono::nanoseconds(0), kLongestRetryDelay);
  }
  return std::nullopt;
}

}  // namespace goldfinch
