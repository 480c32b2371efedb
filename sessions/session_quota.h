// What one tenant may hold of sessions.
//
// Threads: a value; shared ones are immutable.
#pragma once

#include <cstdint>
#include <limits>

namespace goldfinch {

struct SessionQuota {
  // Held by this server at once, alive and resting. Beyond it new ones are refused, and
  // one to be loaded waits until one of the tenant's own, used longest ago, is parked.
  std::int64_t max_sessions = 10000;
  // Host memory of those. Beyond it the tenant's own, used longest ago, are parked; a new
  // one, or one to be loaded, waits for that and is refused when none can be.
  std::int64_t max_resident_bytes = std::int64_t{2} << 30;
  // In the store, by all servers together. What would exceed it is not parked, but for
  // sessions that a drain or a lost lease would else lose.
  std::int64_t max_parked_bytes = std::int64_t{64} << 30;
};

inline constexpr SessionQuota kNoQuota = {
    .max_sessions = std::numeric_limits<std::int64_t>::max(),
    .max_resident_bytes = std::numeric_limits<std::int64_t>::max(),
    .max_parked_bytes = std::numeric_limits<std::int64_t>::max()};

}  // namespace goldfinch
