// All processes' lock on the directory of a DirectoryStore.
//
// Threads: of a store, one at a time, under its mutex.
#pragma once

#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "absl/status/status.h"
#include "sessions/directory_store.h"
#include "sessions/files.h"

namespace goldfinch {

// Held while it lives, if `status` is OK: UNAVAILABLE when another process keeps it.
class DirectoryStore::Locked {
 public:
  explicit Locked(DirectoryStore& store) : store_(store) {
    const auto give_up = std::chrono::steady_clock::now() + kLockPatience;
    while (flock(store_.lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) {
        status_ = FileError("locking", errno);
        return;
      }
      if (std::chrono::steady_clock::now() > give_up) {
        status_ = absl::UnavailableError("session directory: it stays locked");
        return;
      }
      std::this_thread::sleep_for(kLockPause);
    }
  }
  ~Locked() {
    if (status_.ok()) flock(store_.lock_.get(), LOCK_UN);
  }
  const absl::Status& status() const { return status_; }

 private:
  // Another process holds it for moments, unless it was stopped there.
  static constexpr auto kLockPatience = std::chrono::seconds(5);
  static constexpr auto kLockPause = std::chrono::milliseconds(1);

  DirectoryStore& store_;
  absl::Status status_;
};

}  // namespace goldfinch
