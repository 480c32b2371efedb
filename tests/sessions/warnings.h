// What session managers warn of, for SessionOptions::warn, which takes a function and no
// object: of all managers of the process together.
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
  }
  // Those since the last time.
  static std::vector<std::string> Take() {
    const MutexLock lock(mu_);
    return std::exchange(all_, {});
  }

 private:
  static inline Mutex mu_;
  static inline std::vector<std::string> all_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
