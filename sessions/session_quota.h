// What one tenant may hold of sessions.
//
// Threads: a value; shared ones are immutable.
#pragma once

#include <cstdint>

namespace goldfinch {

struct SessionQuota {
  // Held by this server at once, alive and resting; more are refused.
  std::int64_t max_sessions = 10000;
  // Host memory of those; beyond it, new ones are refused.
  std::int64_t max_resident_bytes = std::int64_t{2} << 30;
  // In the store. Read from the file, and not enforced yet.
  std::int64_t max_parked_bytes = std::int64_t{64} << 30;
};

}  // namespace goldfinch
