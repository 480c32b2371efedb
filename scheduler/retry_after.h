// A refusal that knows when it will end: how long to wait before trying again, carried by
// the status.
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

}  // namespace goldfinch
