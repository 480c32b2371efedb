// What the manager counts for metrics.
//
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>

namespace goldfinch {

struct SessionStats {
  // Levels, as of the last sweep.
  std::atomic<std::int64_t> alive{0};
  std::atomic<std::int64_t> resting{0};
  std::atomic<std::int64_t> busy{0};
  std::atomic<std::int64_t> host_bytes{0};
  std::atomic<std::int64_t> stored{0};  // in the store, whoever put it there; each minute
  // Since the start.
  std::atomic<std::uint64_t> created{0};
  std::atomic<std::uint64_t> forked{0};
  std::atomic<std::uint64_t> parked{0};
  std::atomic<std::uint64_t> loaded{0};
  std::atomic<std::uint64_t> deleted{0};
  std::atomic<std::uint64_t> expired{0};
  std::atomic<std::uint64_t> stale{0};  // forgotten: another replica went on with them
  std::atomic<std::uint64_t> park_failures{0};
  std::atomic<std::uint64_t> over_quota{0};  // not parked for their tenant's limit
  std::atomic<std::uint64_t> load_failures{0};
  std::atomic<std::uint64_t> lease_lapses{0};
};

}  // namespace goldfinch
