// The threads on which sessions meet disks and networks, so that neither the step thread
// nor gRPC's ever wait for them.
//
// Invariant: work runs once, begun in the order it was posted; the destructor runs what
// is left.
//
// Threads: Post by any.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "engine/sync/mutex.h"

namespace goldfinch {

class IoPool {
 public:
  explicit IoPool(int num_threads);
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  void Post(std::function<void()> work);

 private:
  void Run();

  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // last: they use the members above
};

}  // namespace goldfinch
