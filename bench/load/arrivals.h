// Moments at which requests of an open loop come: a Poisson process, the same for the
// same seed on every machine.
//
// Threads: one.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>

namespace goldfinch {

class Arrivals {
 public:
  // `rate` a second, above 0.
  Arrivals(double rate, std::uint64_t seed) : rate_(rate), bits_(seed) {}

  // Seconds from one arrival to the next: exponentially distributed. By hand, since the
  // library's own distribution differs between libraries.
  double NextGap() {
    const double uniform = static_cast<double>((bits_() >> 11) + 1) * 0x1p-53;  // (0, 1]
    return -std::log(uniform) / rate_;
  }

 private:
  const double rate_;
  std::mt19937_64 bits_;
};

}  // namespace goldfinch
