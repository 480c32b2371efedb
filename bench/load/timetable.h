// Runs things at their times, on a thread of its own.
//
// Threads: any; what is run may put more in.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

class Timetable {
 public:
  using Time = std::chrono::steady_clock::time_point;

  Timetable();
  ~Timetable();  // Stop
  Timetable(const Timetable&) = delete;
  Timetable& operator=(const Timetable&) = delete;

  // At `time` or as soon as it can be; not at all after Stop.
  void At(Time time, std::function<void()> run);
  // What has not begun is dropped; returns when nothing runs.
  void Stop();

 private:
  void Run();

  Mutex mu_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::multimap<Time, std::function<void()>> entries_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace goldfinch
