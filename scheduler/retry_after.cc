#include "scheduler/retry_after.h"

#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

constexpr char kPayload[] = "goldfinch/retry-after-nanoseconds";
constexpr char kForCaller[] = "goldfinch/for-caller-to-clear";

}  // namespace

absl::Status WithRetryAfter(absl::Status status, std::chrono::nanoseconds wait) {
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(wait.count())));
  return status;
}

std::optional<std::chrono::nanoseconds> RetryAfterOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  std::int64_t nanoseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &nanoseconds)) {
    return std::nullopt;
  }
  return std::chrono::nanoseconds(nanoseconds);
}

absl::Status ForCallerToClear(absl::Status status) {
  status.SetPayload(kForCaller, absl::Cord());
  return status;
}

bool IsForCallerToClear(const absl::Status& status) {
  return status.GetPayload(kForCaller).has_value();
}

}  // namespace goldfinch
