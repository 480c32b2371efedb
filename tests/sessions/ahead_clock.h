// The clocks of leases, some seconds ahead: what others held has lapsed.
#pragma once

#include <chrono>

#include "sessions/lease_clock.h"

namespace goldfinch {

class AheadClock final : public LeaseClock {
 public:
  explicit AheadClock(std::chrono::seconds ahead) : ahead_(ahead) {}
  std::chrono::nanoseconds Uptime() const override {
    return LeaseClock::Uptime() + ahead_;
  }
  std::chrono::nanoseconds World() const override { return LeaseClock::World() + ahead_; }

 private:
  const std::chrono::seconds ahead_;
};

}  // namespace goldfinch
