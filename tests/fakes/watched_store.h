// A store in memory that knows how often it is asked whether its lease is good, so that a
// test can wait for what a session manager does about the answer.
//
// Threads: any.
#pragma once

#include <algorithm>
#include <map>
#include <thread>

#include "engine/sync/mutex.h"
#include "tests/fakes/memory_store.h"

namespace goldfinch {

class WatchedStore final : public MemoryStore {
 public:
  using MemoryStore::MemoryStore;

  bool lease_is_good() const override {
    const bool good = MemoryStore::lease_is_good();
    const MutexLock lock(mu_);
    if (!good) ++bad_looks_[std::this_thread::get_id()];
    changed_.NotifyAll();
    return good;
  }

  // Until the two threads that look after the lease have both seen that it lapsed and
  // looked again: what either did about it is done.
  void WaitForSecondBadLook() const {
    const MutexLock lock(mu_);
    while (!BothSawItTwice()) changed_.Wait(mu_);
  }

 private:
  bool BothSawItTwice() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return std::ranges::count_if(bad_looks_,
                                 [](const auto& looks) { return looks.second > 1; }) >= 2;
  }

  mutable Mutex mu_;
  mutable CondVar changed_;
  mutable std::map<std::thread::id, int> bad_looks_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
