// What session managers tell, for SessionOptions::warn or note, which take a function and
// no object: of all managers of the process together.
//
// Threads: any.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/sync/mutex.h"

namespace goldfinch {

class Warnings {
 public:
  static void Add(const std::string& message) {
    const MutexLock lock(mu_);
    all_.push_back(message);
    added_.NotifyAll();
  }
  static void WaitForOne() {
    const MutexLock lock(mu_);
    while (all_.empty()) added_.Wait(mu_);
  }
  // Those since the last time.
  static std::vector<std::string> Take() {
    const MutexLock lock(mu_);
    return std::exchange(all_, {});
  }

 private:
  static inline Mutex mu_;
  static inline CondVar added_;
  static inline std::vector<std::string> all_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
