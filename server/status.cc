#include "server/status.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/support/error_details.h>

#include <chrono>

#include "goldfinch/v1/generation_service.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "scheduler/retry_after.h"

namespace goldfinch {
namespace {

// Unless the status knows better: a queue moves within a step or two; a restarted server
// takes about this long.
constexpr auto kRetryAfter = std::chrono::seconds(1);

// A status is cut here: it travels in headers, whose size is bounded.
constexpr std::size_t kMaxMessageBytes = 1024;

bool CanRetry(const absl::Status& status) {
  return (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) &&
         !IsForCallerToClear(status);
}

// With RetryInfo, and `more` if there is any.
grpc::Status WithDetails(const absl::Status& status,
                         const google::protobuf::Message* more) {
  google::rpc::RetryInfo retry;
  *retry.mutable_retry_delay() = google::protobuf::util::TimeUtil::NanosecondsToDuration(
      RetryAfterOf(status).value_or(kRetryAfter).count());
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(std::string(status.message().substr(0, kMaxMessageBytes)));
  details.add_details()->PackFrom(retry);
  if (more != nullptr) details.add_details()->PackFrom(*more);
  grpc::Status result;
  grpc::SetErrorDetails(details, &result);
  return result;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return CanRetry(status) ? WithDetails(status, nullptr) : InDoubtStatus(status);
}

grpc::Status InDoubtStatus(const absl::Status& status) {
  // The codes of Abseil and gRPC are the same numbers.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message().substr(0, kMaxMessageBytes)));
}

grpc::Status InterruptedStatus(const absl::Status& status, const std::string& session_id,
                               std::int64_t tokens_sent) {
  v1::Interruption interruption;
  interruption.set_session_id(session_id);
  interruption.set_tokens_sent(tokens_sent);
  return WithDetails(status, &interruption);
}

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace goldfinch
