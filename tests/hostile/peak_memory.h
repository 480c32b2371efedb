// The most memory this process has had, for tests of what a fault may cost.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace goldfinch {

// Since ForgetPeakMemory, in bytes.
inline std::int64_t PeakMemory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:"))
      return std::strtoll(line.c_str() + 6, nullptr, 10) << 10;
  }
  return -1;
}
inline bool ForgetPeakMemory() {
  return static_cast<bool>(std::ofstream("/proc/self/clear_refs") << 5 << std::flush);
}

}  // namespace goldfinch
