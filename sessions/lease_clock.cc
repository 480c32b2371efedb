#include "sessions/lease_clock.h"

#include <time.h>

#include <fstream>

namespace goldfinch {
namespace {

std::chrono::nanoseconds Read(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

std::chrono::nanoseconds LeaseClock::Uptime() const { return Read(CLOCK_BOOTTIME); }
std::chrono::nanoseconds LeaseClock::World() const { return Read(CLOCK_REALTIME); }
std::string LeaseClock::BootId() const {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace goldfinch
