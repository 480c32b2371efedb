#include "bench/load/retry_delay.h"

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
    return std::chrono::seconds(retry.retry_delay().seconds()) +
           std::chrono::nanoseconds(retry.retry_delay().nanos());
  }
  return std::nullopt;
}

}  // namespace goldfinch
