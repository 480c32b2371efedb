#include "server/memory_guard.h"
#include "server/metric_families.h"
#include "server/metrics.h"

namespace goldfinch {
namespace {

using prometheus::MetricFamily;

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

void Metrics::CollectMemory(std::vector<MetricFamily>& families) const {
  AddOne(families,
         Gauges("goldfinch_expanded_pages_used", "Pages with expanded keys and values"),
         static_cast<double>(expanded_used_.load(kRelaxed)));
  AddOne(families,
         Gauges("goldfinch_expanded_pages", "Pages that can be expanded at once"),
         static_cast<double>(info_.expanded_pages));
  AddOne(families,
         Counters("goldfinch_expanded_hits_total",
                  "Pages that a step attended to and found expanded"),
         static_cast<double>(expanded_hits_.load(kRelaxed)));
  AddOne(families,
         Counters("goldfinch_expanded_misses_total",
                  "Pages that a step attended to and had to expand first"),
         static_cast<double>(expanded_misses_.load(kRelaxed)));
  AddOne(families,
         Counters("goldfinch_expanded_evictions_total",
                  "Expanded pages that gave their place to another one"),
         static_cast<double>(expanded_evictions_.load(kRelaxed)));
  AddOne(families,
         Counters("goldfinch_expanded_rebuilt_total",
                  "Pages that a step attended to and expanded for itself alone, for want "
                  "of room"),
         static_cast<double>(expanded_rebuilt_.load(kRelaxed)));

  const MutexLock lock(watched_mu_);
  if (memory_ != nullptr) {
    AddOne(families,
           Gauges("goldfinch_memory_limit_bytes",
                  "Host memory beyond which new work is refused"),
           static_cast<double>(memory_->limit()));
    AddOne(families,
           Counters("goldfinch_requests_shed_total",
                    "Calls refused because memory was short"),
           static_cast<double>(memory_->num_refused()));
  }

  const DeviceBytes& bytes = info_.device_bytes;
  MetricFamily device =
      Gauges("goldfinch_device_memory_bytes",
             "Device memory that the engine took, by what for; on the CPU the host's");
  AddGauge(device, {{"use", "weights"}}, bytes.weights);
  AddGauge(device, {{"use", "cache"}}, bytes.cache);
  AddGauge(device, {{"use", "expanded"}}, bytes.expanded);
  AddGauge(device, {{"use", "state"}}, bytes.state);
  AddGauge(device, {{"use", "work"}}, bytes.work);
  families.push_back(std::move(device));
}

}  // namespace goldfinch
