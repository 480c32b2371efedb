// Refuses work before memory runs out.
//
// Everything the server keeps has a bound of its own, but the bounds can add up to more
// than there is. Beyond a limit new work is refused, with a status that asks to come
// again, while what runs goes on: to be killed would end that, too.
//
// Invariant: work that was refused has taken nothing.
//
// Threads: any. A call may look at the memory of the process on its way (some
// microseconds, every so often), or give some back first (milliseconds, seldom).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "engine/sync/mutex.h"
#include "scheduler/clock.h"

namespace goldfinch {

class MemoryGuard {
 public:
  // The process, or what a test puts in its place. Any thread, one at a time.
  struct Memory {
    std::function<std::int64_t()> taken;  // in bytes
    std::function<void()> give_back;      // what is taken and not used
  };

  // `limit` in bytes. The clock outlives the guard.
  MemoryGuard(std::int64_t limit, Memory memory, const Clock& clock);

  // RESOURCE_EXHAUSTED when more is taken than the limit says.
  absl::Status Check();

  std::int64_t limit() const { return limit_; }
  std::int64_t num_refused() const { return num_refused_; }

 private:
  void Look(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::int64_t limit_;
  const Memory memory_;
  const Clock& clock_;
  std::atomic<std::int64_t> num_refused_ = 0;
  Mutex mu_;
  TimePoint next_look_ ABSL_GUARDED_BY(mu_) = TimePoint::min();
  TimePoint next_give_back_ ABSL_GUARDED_BY(mu_) = TimePoint::min();
  bool short_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace goldfinch
