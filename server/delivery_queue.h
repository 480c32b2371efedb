// A thread that carries finished tokens from the step thread to gRPC.
//
// Why: a ready callback of a TokenStream runs on the step thread, and starting a gRPC
// write there would put serialisation and a system call per stream into every step. The
// callback posts instead, which is a push under a lock held for nanoseconds.
//
// Invariant: everything posted runs once, in order; the destructor runs what is left.
//
// Threads: Post by any.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "engine/sync/mutex.h"

namespace goldfinch {

class DeliveryQueue {
 public:
  DeliveryQueue();
  ~DeliveryQueue();
  DeliveryQueue(const DeliveryQueue&) = delete;
  DeliveryQueue& operator=(const DeliveryQueue&) = delete;

  // `work` must not block.
  void Post(std::function<void()> work);

 private:
  void Run();

  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace goldfinch
