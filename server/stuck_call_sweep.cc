#include "server/stuck_call_sweep.h"

namespace goldfinch {

StuckCallSweep::StuckCallSweep(OpenCalls& calls, const Clock& clock,
                               std::chrono::nanoseconds limit)
    : calls_(calls), clock_(clock), limit_(limit), thread_([this] { Run(); }) {}

StuckCallSweep::~StuckCallSweep() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void StuckCallSweep::Run() {
  while (true) {
    {
      MutexLock lock(mu_);
      const auto next = std::chrono::steady_clock::now() + limit_ / 4;
      while (!stopping_ && changed_.WaitUntil(mu_, next)) {
      }
      if (stopping_) return;
    }
    // A little later than the scheduler, so that its status goes out if it still can.
    calls_.CutOffStuck(clock_.Now() - limit_ - limit_ / 4);
  }
}

}  // namespace goldfinch
