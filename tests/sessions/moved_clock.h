// The clocks of leases, moved by hand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "sessions/lease_clock.h"

namespace goldfinch {

// Stands still but for what a test moves it.
class MovedClock final : public LeaseClock {
 public:
  explicit MovedClock(std::string boot = "boot") : boot_(std::move(boot)) {}
  std::chrono::nanoseconds Uptime() const override { return Now(); }
  std::chrono::nanoseconds World() const override { return Now() + world_ahead_.load(); }
  std::string BootId() const override { return boot_; }
  void Advance(std::chrono::nanoseconds by) { now_ += by.count(); }
  void JumpWorld(std::chrono::nanoseconds by) { world_ahead_ = world_ahead_.load() + by; }

 private:
  std::chrono::nanoseconds Now() const { return std::chrono::nanoseconds(now_.load()); }
  const std::string boot_;
  std::atomic<std::int64_t> now_ = 1'000'000'000'000;
  std::atomic<std::chrono::nanoseconds> world_ahead_{std::chrono::hours(24 * 365 * 50)};
};

}  // namespace goldfinch
