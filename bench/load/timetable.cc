#include "bench/load/timetable.h"

#include <utility>

namespace goldfinch {

Timetable::Timetable() : thread_([this] { Run(); }) {}

Timetable::~Timetable() { Stop(); }

void Timetable::At(Time time, std::function<void()> run) {
  MutexLock lock(mu_);
  if (stopped_) return;
  entries_.emplace(time, std::move(run));
  changed_.NotifyOne();
}

void Timetable::Stop() {
  {
    MutexLock lock(mu_);
    stopped_ = true;
    changed_.NotifyOne();
  }
  if (thread_.joinable()) thread_.join();
}

void Timetable::Run() {
  for (;;) {
    std::function<void()> run;
    {
      MutexLock lock(mu_);
      while (!stopped_) {
        if (entries_.empty()) {
          changed_.Wait(mu_);
        } else if (entries_.begin()->first > std::chrono::steady_clock::now()) {
          changed_.WaitUntil(mu_, entries_.begin()->first);
        } else {
          break;
        }
      }
      if (stopped_) return;
      run = std::move(entries_.begin()->second);
      entries_.erase(entries_.begin());
    }
    run();
  }
}

}  // namespace goldfinch
