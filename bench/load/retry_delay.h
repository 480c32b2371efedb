// How long a server wants to be left alone by a request that it refused.
//
// Threads: pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <optional>

namespace goldfinch {

// The delay of the RetryInfo that RESOURCE_EXHAUSTED or UNAVAILABLE carries. None:
// the call failed and was not merely refused.
std::optional<std::chrono::nanoseconds> RetryDelay(const grpc::Status& status);

}  // namespace goldfinch
