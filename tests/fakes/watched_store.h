// A store in memory that knows how often it is asked whether its lease is good, so that a
// test can wait for what a session manager does about the answer.
//
// Threads: any.
#pragma once

#include <map>
#include <set>
#include <thread>

#include "engine/sync/mutex.h"
#include "tests/fakes/memory_store.h"

namespace goldfinch {

class WatchedStore final : public MemoryStore {
 public:
  using MemoryStore::MemoryStore;

  absl::Status Renew() override {
    {
      const MutexLock lock(mu_);
      renewers_.insert(std::this_thread::get_id());
    }
    return MemoryStore::Renew();
  }
  bool lease_is_good() const override {
    const bool good = MemoryStore::lease_is_good();
    const MutexLock lock(mu_);
    if (!good) ++bad_looks_[std::this_thread::get_id()];
    changed_.NotifyAll();
    return good;
  }

  // Until the thread that watches for lapses, not the one that renews, has seen one and
  // looked again: what it does about a lapse is done.
  void WaitForSecondBadLook() const {
    const MutexLock lock(mu_);
    while (!WasSeenTwice()) changed_.Wait(mu_);
  }

 private:
  bool WasSeenTwice() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (const auto& [thread, looks] : bad_looks_) {
      // The one that renews does so between its first look and its second.
      if (looks > 1 && !renewers_.contains(thread)) return true;
    }
    return false;
  }

  mutable Mutex mu_;
  mutable CondVar changed_;
  std::set<std::thread::id> renewers_ ABSL_GUARDED_BY(mu_);
  mutable std::map<std::thread::id, int> bad_looks_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
