// Counts of observations up to fixed bounds, and their sum, for whoever reads them while
// others add.
//
// Every number is an atomic with a fixed place, so that an observation is two relaxed
// additions and a reader never holds one up. (The Prometheus library's own histograms
// take a lock that a scrape holds.)
//
// All of it is here: rooms above include headers of this one, and link without it.
//
// Threads: any.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace goldfinch {

class AtomicHistogram {
 public:
  explicit AtomicHistogram(std::vector<double> bounds)  // ascending
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void Observe(double value) {
    const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
    counts_[static_cast<std::size_t>(bound - bounds_.begin())].fetch_add(1, kRelaxed);
    sum_.fetch_add(value, kRelaxed);
  }
  void ObserveSeconds(std::chrono::nanoseconds time) {
    Observe(std::chrono::duration<double>(time).count());
  }

  // Since the parts are read one after another, a reader may catch an observation half
  // counted; the next one has it whole.
  struct Snapshot {
    std::vector<std::uint64_t> cumulative;  // per bound, then the total
    double sum = 0;
  };
  Snapshot Read() const {
    Snapshot snapshot;
    std::uint64_t total = 0;
    for (const std::atomic<std::uint64_t>& count : counts_) {
      total += count.load(kRelaxed);
      snapshot.cumulative.push_back(total);
    }
    snapshot.sum = sum_.load(kRelaxed);
    return snapshot;
  }
  const std::vector<double>& bounds() const { return bounds_; }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;

  const std::vector<double> bounds_;
  std::vector<std::atomic<std::uint64_t>> counts_;  // one more than bounds: the rest
  std::atomic<double> sum_{0};
};

}  // namespace goldfinch
