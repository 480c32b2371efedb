// Which calls are open, so that the server can refuse new ones, wait for the old ones
// and cut off the ones whose client has stopped reading, or sending.
//
// Invariant: after Close, Enter is false forever; a call that entered leaves exactly
// once. No lock is held while a call is told anything.
//
// Threads: any.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <unordered_set>

#include "engine/sync/mutex.h"
#include "scheduler/clock.h"

namespace goldfinch {

// A call as OpenCalls sees it.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Breaks the call off if a write has been under way since before `since`, or a client's
  // message awaited: it takes nothing, so no status can reach it in order either, or
  // holds room that others need. May come after the call has left.
  virtual void CutOffIfStuck(TimePoint since) = 0;
};

class OpenCalls {
 public:
  // False when the server takes no new calls.
  bool Enter(const std::shared_ptr<OpenCall>& call);
  void Leave(const std::shared_ptr<OpenCall>& call);

  void Close();
  bool closed() const;
  std::size_t size() const;

  // True when all calls have left before `deadline`; false when it passed first, or, for
  // who waits with kPatience only, Interrupt was called.
  enum class Waiting { kPatience, kAnyway };
  bool WaitUntilEmpty(std::chrono::steady_clock::time_point deadline,
                      Waiting waiting = Waiting::kPatience);

  // Ends the patience of this and every later WaitUntilEmpty.
  void Interrupt();

  void CutOffStuck(TimePoint since);

 private:
  mutable Mutex mu_;
  CondVar changed_;
  // Shared: a sweep may still look at a call that is leaving.
  std::unordered_set<std::shared_ptr<OpenCall>> calls_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace goldfinch
