// Short ways to write down metric families.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/sync/atomic_histogram.h"
#include "prometheus/metric_family.h"

namespace goldfinch {

using Labels = std::vector<std::pair<std::string, std::string>>;

inline prometheus::ClientMetric WithLabels(const Labels& labels) {
  prometheus::ClientMetric metric;
  for (const auto& [name, value] : labels) metric.label.push_back({name, value});
  return metric;
}

inline void AddCounter(prometheus::MetricFamily& family, const Labels& labels,
                       std::uint64_t value) {
  prometheus::ClientMetric metric = WithLabels(labels);
  metric.counter.value = static_cast<double>(value);
  family.metric.push_back(std::move(metric));
}

inline void AddGauge(prometheus::MetricFamily& family, const Labels& labels,
                     std::int64_t value) {
  prometheus::ClientMetric metric = WithLabels(labels);
  metric.gauge.value = static_cast<double>(value);
  family.metric.push_back(std::move(metric));
}

inline void AddHistogram(prometheus::MetricFamily& family, const Labels& labels,
                         const AtomicHistogram& histogram) {
  const AtomicHistogram::Snapshot snapshot = histogram.Read();
  prometheus::ClientMetric metric = WithLabels(labels);
  metric.histogram.sample_count = snapshot.cumulative.back();
  metric.histogram.sample_sum = snapshot.sum;
  for (std::size_t i = 0; i < snapshot.cumulative.size(); ++i) {
    prometheus::ClientMetric::Bucket bucket;
    bucket.cumulative_count = snapshot.cumulative[i];
    bucket.upper_bound = i < histogram.bounds().size()
                             ? histogram.bounds()[i]
                             : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back(bucket);
  }
  family.metric.push_back(std::move(metric));
}

// A family with one value and no labels.
inline void AddOne(std::vector<prometheus::MetricFamily>& families,
                   prometheus::MetricFamily family, double value) {
  prometheus::ClientMetric metric;
  if (family.type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
  families.push_back(std::move(family));
}

inline prometheus::MetricFamily Counters(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Counter, {}};
}
inline prometheus::MetricFamily Gauges(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Gauge, {}};
}
inline prometheus::MetricFamily Histograms(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Histogram, {}};
}

}  // namespace goldfinch
