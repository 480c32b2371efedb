// What the manager counts for metrics.
//
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/sync/atomic_histogram.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

// Levels by tenant, replaced together.
class TenantLevels {
 public:
  void Set(std::map<std::string, std::int64_t> levels) {
    const MutexLock lock(mu_);
    levels_ = std::move(levels);
  }
  std::map<std::string, std::int64_t> Get() const {
    const MutexLock lock(mu_);
    return levels_;
  }

 private:
  mutable Mutex mu_;
  std::map<std::string, std::int64_t> levels_ ABSL_GUARDED_BY(mu_);
};

// Sessions on their way to the store or from it.
struct MoveStats {
  // Those that came to something, and those that are counted as failures.
  AtomicHistogram done{Bounds()};
  AtomicHistogram failed{Bounds()};
  std::atomic<std::uint64_t> bytes{0};  // of snapshots, written or read

 private:
  // Seconds, up to what the time-outs of stores let a few calls take.
  static std::vector<double> Bounds() {
    return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
            0.5,   1,      2.5,   5,    10,    30,   60,  120};
  }
};

struct SessionStats {
  // Levels, as of the last sweep.
  std::atomic<std::int64_t> alive{0};
  std::atomic<std::int64_t> resting{0};
  std::atomic<std::int64_t> busy{0};
  std::atomic<std::int64_t> host_bytes{0};
  std::atomic<std::int64_t> stored{0};  // in the store, whoever put it there; each minute
  std::atomic<int> lease_good{-1};  // 1 or 0, as last looked at; -1: there is no store
  TenantLevels tenant_host_bytes;       // what forks share counts for each of them
  TenantLevels tenant_stored_bytes;     // as `stored`
  // Since the start.
  std::atomic<std::uint64_t> created{0};
  std::atomic<std::uint64_t> forked{0};
  std::atomic<std::uint64_t> parked{0};
  std::atomic<std::uint64_t> loaded{0};
  std::atomic<std::uint64_t> deleted{0};
  std::atomic<std::uint64_t> expired{0};         // of those held
  std::atomic<std::uint64_t> expired_stored{0};  // of those in the store, by this server
  std::atomic<std::uint64_t> stale{0};  // values here: another replica went on with them
  std::atomic<std::uint64_t> park_failures{0};
  std::atomic<std::uint64_t> over_quota{0};  // not parked for their tenant's limit
  std::atomic<std::uint64_t> load_failures{0};  // but for a store that does not answer
  std::atomic<std::uint64_t> lease_lapses{0};
  MoveStats loads;  // from the claim on; as many as `loaded` and `load_failures`
  // From being asked for, with the copy from the device and the wait for room for it; as
  // many as `parked` and `park_failures`.
  MoveStats parks;
};

}  // namespace goldfinch
