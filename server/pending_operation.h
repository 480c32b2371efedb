// An operation of a stream that waits for the client, and that a sweep breaks off when it
// has waited for too long.
//
// Invariant: what follows the end of an operation (the next one, or Finish, after which
// the context may go) does not run while a sweep uses the context.
//
// Threads: any.
#pragma once

#include <grpcpp/server_context.h>

#include <optional>
#include <utility>

#include "engine/sync/mutex.h"
#include "scheduler/clock.h"

namespace goldfinch {

class PendingOperation {
 public:
  // Before the operation is started; it counts as waiting since then.
  void Begin(TimePoint since) {
    const MutexLock lock(mu_);
    since_ = since;
  }

  // When it has ended, before anything follows. False: the sweep sees to what follows.
  [[nodiscard]] bool End(bool ok) {
    const MutexLock lock(mu_);
    since_.reset();
    if (cutting_off_) ended_ = ok;
    return !cutting_off_;
  }

  // Cancels the call when an operation has been waiting since before `since`: it ends
  // with false. Calls `follow(ok)` in place of an End that came meanwhile.
  template <typename FollowFunction>
  void CutOffIfStuck(TimePoint since, grpc::CallbackServerContext& context,
                     const FollowFunction& follow) {
    {
      const MutexLock lock(mu_);
      if (cutting_off_ || !since_.has_value() || *since_ >= since) return;
      cutting_off_ = true;  // no Finish, so no OnDone: the context stays
    }
    context.TryCancel();
    std::optional<bool> ended;
    {
      const MutexLock lock(mu_);
      cutting_off_ = false;
      ended = std::exchange(ended_, std::nullopt);
    }
    if (ended.has_value()) follow(*ended);
  }

 private:
  Mutex mu_;
  std::optional<TimePoint> since_ ABSL_GUARDED_BY(mu_);
  bool cutting_off_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<bool> ended_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
