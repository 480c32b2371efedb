// A refusal that knows when it will end: how long to wait before trying again, or that
// waiting is of no use; carried by the status.
//
// Threads: pure functions.
#pragma once

#include <chrono>
#include <optional>

#include "absl/status/status.h"

namespace goldfinch {

absl::Status WithRetryAfter(absl::Status status, std::chrono::nanoseconds wait);

// What WithRetryAfter said; none when it said nothing.
std::optional<std::chrono::nanoseconds> RetryAfterOf(const absl::Status& status);

// It lasts until the caller does something about it: a quota of what the caller keeps.
absl::Status ForCallerToClear(absl::Status status);
bool IsForCallerToClear(const absl::Status& status);

}  // namespace goldfinch
