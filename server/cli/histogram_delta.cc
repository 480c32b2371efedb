#include "server/cli/histogram_delta.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/cli/top_text.h"

namespace goldfinch {

std::vector<HistogramDelta::Bucket> HistogramDelta::Read(const MetricsText& metrics,
                                                         absl::string_view name) {
  std::vector<Bucket> buckets;
  for (const MetricSeries& series : metrics.All(absl::StrCat(name, "_bucket"))) {
    const std::string* bound = series.Label("le");
    Bucket bucket{.count = series.value};
    if (bound == nullptr || !absl::SimpleAtod(*bound, &bucket.bound) ||
        std::isnan(bucket.bound) || !std::isfinite(bucket.count))
      return {};
    buckets.push_back(bucket);
  }
  std::sort(buckets.begin(), buckets.end(),
            [](const Bucket& a, const Bucket& b) { return a.bound < b.bound; });
  if (buckets.empty() || !std::isinf(buckets.back().bound)) return {};
  return buckets;
}

HistogramDelta::HistogramDelta(const MetricsText* before, const MetricsText& now,
                               absl::string_view name) {
  if (before == nullptr) return;
  const std::vector<Bucket> from = Read(*before, name);
  std::vector<Bucket> gained = Read(now, name);
  if (from.size() != gained.size()) return;
  double last = 0;
  for (std::size_t i = 0; i < gained.size(); ++i) {
    gained[i].count -= from[i].count;
    if (gained[i].bound != from[i].bound || gained[i].count < last) return;
    last = gained[i].count;
  }
  buckets_ = std::move(gained);
}

std::string HistogramDelta::Seconds(double q) const {
  if (!(total() > 0)) return "-";
  const double rank = q * total();
  Bucket below;  // values start at 0
  for (const Bucket& bucket : buckets_) {
    if (bucket.count < rank) {
      below = bucket;
      continue;
    }
    if (std::isinf(bucket.bound)) break;
    const double part = (rank - below.count) / (bucket.count - below.count);
    return SecondsText(below.bound + part * (bucket.bound - below.bound));
  }
  return absl::StrCat("> ", SecondsText(below.bound));
}

}  // namespace goldfinch
