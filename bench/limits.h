// The limits that an engine's figures are quoted against: what the backend that it runs
// on can do right now.
//
// Threads: one at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bench/median.h"
#include "engine/backend/backend.h"
#include "engine/check.h"

namespace goldfinch {

class Limits {
 public:
  virtual ~Limits() = default;
  // Medians of `passes`. Bytes per second that can be read: by threads of the CPU
  // (machine.h), or read and written by copies in a device's memory.
  virtual double Bandwidth(int passes) = 0;
  // Floating-point operations per second of products in the compute type.
  virtual double PeakFlops(int passes) = 0;
};

std::unique_ptr<Limits> CpuLimits(int threads, bool bf16);

// Of a device, measured with a backend of its own on it: copies, and large square
// products of `size`, by the best that the backend has for prompts.
struct DeviceLimitSizes {
  std::int64_t copy_bytes = std::int64_t{1} << 28;
  std::int64_t product = 8192;
};
std::unique_ptr<Limits> DeviceLimits(std::unique_ptr<Backend> backend, bool bf16,
                                     const DeviceLimitSizes& sizes = {});

// `work` per second of what queue() queues on a backend, so much of it each time; the
// median of `passes`, each of which waits for the device.
template <typename Queue>
double MedianRate(Backend& backend, int passes, double work, const Queue& queue) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> rates;
  backend.BeginStep();
  queue();  // warm
  backend.Synchronize();
  for (int i = 0; i < passes; ++i) {
    const auto start = Clock::now();
    queue();
    backend.Synchronize();
    rates.push_back(work / std::chrono::duration<double>(Clock::now() - start).count());
  }
  backend.EndStep();
  GOLDFINCH_CHECK(backend.status().ok());
  return Median(std::move(rates));
}

// Bytes per second that copies within the backend's memory read and write, the median of
// `passes`.
double CopyBandwidth(Backend& backend, int passes,
                     std::int64_t bytes = DeviceLimitSizes().copy_bytes);

}  // namespace goldfinch
