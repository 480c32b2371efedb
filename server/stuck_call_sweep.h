// A thread that now and then cuts off calls whose client has stopped reading, or sending
// what it began to send (open_calls.h).
//
// The scheduler ends the request of such a client by itself (SchedulerOptions:
// slow_reader), but a call with a write that never completes cannot be told so and would
// stay open as long as its connection. Here it is broken off, at the latest about 1.5
// times slow_reader after its last write began.
//
// Threads: its own; made and destroyed by one.
#pragma once

#include <chrono>
#include <thread>

#include "engine/sync/mutex.h"
#include "scheduler/clock.h"
#include "server/open_calls.h"

namespace goldfinch {

class StuckCallSweep {
 public:
  // `calls` and `clock` outlive the sweep.
  StuckCallSweep(OpenCalls& calls, const Clock& clock, std::chrono::nanoseconds limit);
  ~StuckCallSweep();
  StuckCallSweep(const StuckCallSweep&) = delete;
  StuckCallSweep& operator=(const StuckCallSweep&) = delete;

 private:
  void Run();

  OpenCalls& calls_;
  const Clock& clock_;
  const std::chrono::nanoseconds limit_;

  Mutex mu_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace goldfinch
