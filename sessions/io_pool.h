// The threads on which sessions meet disks and networks, so that neither the step thread
// nor gRPC's ever wait for them.
//
// What a call waits for goes before what nobody waits for, and has all threads but one;
// the latter never has more than half of them.
//
// Invariant: work runs once, work of one urgency begun in the order it was posted; the
// destructor runs what is left.
//
// Threads: Post by any.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "engine/sync/mutex.h"

namespace goldfinch {

enum class Urgency { kCall, kBackground };

class IoPool {
 public:
  explicit IoPool(int num_threads);  // two or more
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  void Post(Urgency urgency, std::function<void()> work);

 private:
  void Run();
  bool MayBegin(Urgency urgency) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int max_calls_;
  const int max_background_;
  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> calls_ ABSL_GUARDED_BY(mu_);
  std::deque<std::function<void()>> background_ ABSL_GUARDED_BY(mu_);
  int running_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int running_background_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // last: they use the members above
};

}  // namespace goldfinch
