// The clocks of leases, moved by hand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "sessions/lease_clock.h"

namespace goldfinch {

// Stands still but for what a test moves it.
class MovedClock final : public LeaseClock {
 public:
  std::chrono::nanoseconds Uptime() const override { return Now(); }
  std::chrono::nanoseconds World() const override { return Now() + world_ahead_.load(); }
  std::string BootId() const override { return "boot"; }
  void Advance(std::chrono::nanoseconds by) { now_ += by.count(); }
  void JumpWorld(std::chrono::nanoseconds by) { world_ahead_ = world_ahead_.load() + by; }

 private:
  std::chrono::nanoseconds Now() const { return std::chrono::nanoseconds(now_.load()); }
  std::atomic<std::int64_t> now_ = 1'000'000'000'000;
  std::atomic<std::chrono::nanoseconds> world_ahead_{std::chrono::hours(24 * 365 * 50)};
};

}  // namespace goldfinch
