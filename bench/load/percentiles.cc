#include "bench/load/percentiles.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>

#include "engine/check.h"

namespace goldfinch {

double Percentile(std::span<const double> sorted, double q) {
  GOLDFINCH_CHECK(!sorted.empty() && q >= 0 && q <= 1);
  // The small step back keeps 0.9 of 10 at the ninth, which 0.9 * 10 may exceed by a bit.
  const double rank = std::ceil(q * static_cast<double>(sorted.size()) - 1e-9);
  const std::ptrdiff_t index = static_cast<std::ptrdiff_t>(rank) - 1;
  return sorted[static_cast<std::size_t>(std::max<std::ptrdiff_t>(index, 0))];
}

LatencySummary Summarize(std::vector<double> seconds) {
  LatencySummary summary;
  summary.count = std::ssize(seconds);
  if (seconds.empty()) return summary;
  std::ranges::sort(seconds);
  summary.p50 = Percentile(seconds, 0.5);
  summary.p90 = Percentile(seconds, 0.9);
  summary.p99 = Percentile(seconds, 0.99);
  summary.max = seconds.back();
  return summary;
}

std::vector<double> Shares(std::span<const std::int64_t> amounts) {
  double sum = 0;
  for (const std::int64_t amount : amounts) sum += static_cast<double>(amount);
  std::vector<double> shares;
  shares.reserve(amounts.size());
  for (const std::int64_t amount : amounts) {
    shares.push_back(sum == 0 ? 0 : static_cast<double>(amount) / sum);
  }
  return shares;
}

}  // namespace goldfinch
