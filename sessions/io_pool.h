// The threads on which sessions meet disks and networks, so that neither the step thread
// nor gRPC's ever wait for them.
//
// What a call waits for goes before what nobody waits for, and has all threads but one;
// the latter never has more than half of them. Within each, tenants take turns, however
// much one of them has posted.
//
// Invariant: work runs once, work of one urgency and tenant begun in the order it was
// posted; the destructor runs what is left.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
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

  // Work that is no tenant's is that of the empty name.
  void Post(Urgency urgency, const std::string& tenant, std::function<void()> work);

  // What calls of the tenant wait for and was not begun.
  std::int64_t NumWaiting(const std::string& tenant) const;

 private:
  class Queue {
   public:
    void Push(const std::string& tenant, std::function<void()> work);
    // Of the tenant whose turn it is; there is one.
    std::function<void()> Pop();
    bool empty() const { return turns_.empty(); }
    std::int64_t NumOf(const std::string& tenant) const;

   private:
    std::map<std::string, std::deque<std::function<void()>>> of_;  // none is empty
    std::deque<std::string> turns_;  // those of of_, each once; the next one first
  };

  void Run();
  bool MayBegin(Urgency urgency) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int max_calls_;
  const int max_background_;
  mutable Mutex mu_;
  CondVar changed_;
  Queue calls_ ABSL_GUARDED_BY(mu_);
  Queue background_ ABSL_GUARDED_BY(mu_);
  int running_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int running_background_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // last: they use the members above
};

}  // namespace goldfinch
