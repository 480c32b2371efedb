#include "server/cli/retry.h"

#include <algorithm>
#include <utility>

#include "google/rpc/status.pb.h"
#include "server/cli/retry_delay.h"

namespace goldfinch {
namespace {

constexpr std::chrono::milliseconds kFirstPause{100};
constexpr std::chrono::seconds kLongestPause{2};

}  // namespace

Advice AdviceOf(const grpc::Status& status) {
  Advice advice;
  advice.retry_after = RetryDelay(status);
  google::rpc::Status details;
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE ||
      !details.ParseFromString(status.error_details())) {
    return advice;
  }
  for (const google::protobuf::Any& detail : details.details()) {
    v1::Interruption interruption;
    if (detail.UnpackTo(&interruption)) advice.interruption = std::move(interruption);
  }
  return advice;
}

bool WasRefused(const grpc::Status& status, const Connection& connection) {
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
      status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) {
    return false;
  }
  // Without details the connection broke: nobody knows what the server still did.
  return !connection.reached() || AdviceOf(status).retry_after.has_value();
}

CallLimits LimitsOf(const ConnectionFlags& flags) {
  return {.deadline = DeadlineOf(flags),
          .patience = std::chrono::seconds(flags.retry_seconds)};
}

Patience::Patience(Connection& connection, const Signals& signals,
                   const Deadline& deadline, std::chrono::seconds limit)
    : connection_(connection),
      signals_(signals),
      deadline_(deadline),
      limit_(limit),
      pause_(kFirstPause),
      random_(std::random_device()()) {}

bool Patience::WaitForNextTry(const Advice& advice) {
  if (signals_.interrupted()) return false;
  // A server that was reached has refused; where none was, all were tried.
  if (connection_.reached()) {
    soonest_ = std::min(soonest_.value_or(std::chrono::nanoseconds::max()),
                        advice.retry_after.value_or(std::chrono::nanoseconds(0)));
    connection_.Leave();
    if (++num_failed_ % connection_.num_servers() != 0) return true;
  }
  const Clock::time_point now = Clock::now();
  if (!first_failure_.has_value()) first_failure_ = now;
  const Clock::duration left = *first_failure_ + limit_ - now;
  const std::chrono::nanoseconds wished =
      std::exchange(soonest_, std::nullopt).value_or(std::chrono::nanoseconds(0));
  if (left <= Clock::duration::zero() || wished > left) return false;
  // Not all clients of a server that went away at the same moment.
  std::chrono::nanoseconds pause =
      pause_ * std::uniform_int_distribution<int>(75, 125)(random_) / 100;
  pause = std::min<std::chrono::nanoseconds>(std::max(pause, wished), left);
  if (deadline_.has_value()) {
    pause = std::min<std::chrono::nanoseconds>(
        pause, *deadline_ - std::chrono::system_clock::now());
  }
  pause_ = std::min<std::chrono::nanoseconds>(2 * pause_, kLongestPause);
  return signals_.Sleep(pause);
}

void Patience::Restore() {
  first_failure_.reset();
  num_failed_ = 0;
  soonest_.reset();
  pause_ = kFirstPause;
}

}  // namespace goldfinch
