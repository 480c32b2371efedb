// What a histogram of Prometheus gained between two looks at it.
//
// Threads: values.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/cli/metrics_text.h"

namespace goldfinch {

class HistogramDelta {
 public:
  // Empty where `before` is null, or where the two do not fit each other: other bounds,
  // or a count that went down.
  HistogramDelta(const MetricsText* before, const MetricsText& now,
                 absl::string_view name);

  double total() const { return buckets_.empty() ? 0 : buckets_.back().count; }

  // The value that a share `q` of what was gained lies below, in seconds: "12.3 ms". As
  // Prometheus does, values are taken to be spread evenly within their bucket. "> 5.00 s"
  // for what lies beyond the last bound, "-" when nothing was gained.
  std::string Seconds(double q) const;

 private:
  struct Bucket {
    double bound = 0;  // the last one is infinite
    double count = 0;  // of values up to it
  };
  static std::vector<Bucket> Read(const MetricsText& metrics, absl::string_view name);

  std::vector<Bucket> buckets_;  // ascending
};

}  // namespace goldfinch
