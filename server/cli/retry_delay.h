// How long a server wants to be left alone by a request that it refused.
//
// Threads: pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>

namespace goldfinch {

// What is taken for the longest that anybody means; a message can say 300 thousand years.
inline constexpr std::chrono::seconds kLongestRetryDelay = std::chrono::hours(24);

// The delay of the RetryInfo that RESOURCE_EXHAUSTED or UNAVAILABLE carries, from 0 to
// kLongestRetryDelay. None: the call failed and was not merely refused.
std::optional<std::chrono::nanoseconds> RetryDelay(const grpc::Status& status);

}  // namespace goldfinch
