#include "server/status.h"

#include <grpcpp/support/error_details.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace goldfinch {
namespace {

// A queue moves within a step or two; a restarted server takes about this long.
constexpr int kRetrySeconds = 1;

// A status is cut here: it travels in headers, whose size is bounded.
constexpr std::size_t kMaxMessageBytes = 1024;

bool CanRetry(absl::StatusCode code) {
  return code == absl::StatusCode::kResourceExhausted ||
         code == absl::StatusCode::kUnavailable;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // The codes of Abseil and gRPC are the same numbers.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(status.message().substr(0, kMaxMessageBytes));
  if (!CanRetry(status.code())) return grpc::Status(code, message);

  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  details.add_details()->PackFrom(retry);
  grpc::Status result;
  grpc::SetErrorDetails(details, &result);
  return result;
}

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace goldfinch
