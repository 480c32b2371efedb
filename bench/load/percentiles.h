// What many measurements come to.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace goldfinch {

// The smallest of the measurements that at least the part `q` of them do not exceed
// (nearest rank); `sorted` in ascending order, not empty, q in [0, 1].
double Percentile(std::span<const double> sorted, double q);

struct LatencySummary {
  std::int64_t count = 0;
  // Seconds; 0 where there is nothing.
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

LatencySummary Summarize(std::vector<double> seconds);

// The part of their sum that each has; all 0 when the sum is.
std::vector<double> Shares(std::span<const std::int64_t> amounts);

}  // namespace goldfinch
