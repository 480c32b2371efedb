// A clock that stands still until a test moves it. Any thread.
#pragma once

#include <atomic>
#include <chrono>

#include "scheduler/clock.h"

namespace goldfinch {

class FakeClock final : public Clock {
 public:
  TimePoint Now() const override {
    return TimePoint(std::chrono::nanoseconds(now_.load()));
  }
  void Advance(std::chrono::nanoseconds by) { now_ += by.count(); }

 private:
  // Not zero: a default TimePoint must not pass for a real one.
  std::atomic<std::chrono::nanoseconds::rep> now_ = 1'000'000'000;
};

}  // namespace goldfinch
