// What a server tells at /metrics: Prometheus's text format, read.
//
// The text comes from whatever answers at an address, so nothing in it is trusted: every
// length is bounded, and a line that is not of the format is an error with its number.
//
// Threads: values.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace goldfinch {

struct MetricSeries {
  std::vector<std::pair<std::string, std::string>> labels;
  double value = 0;  // may be infinite or no number

  // Null when there is none of this name.
  const std::string* Label(absl::string_view name) const;
};

class MetricsText {
 public:
  // Each of the 10,000 tenants there may be, and the former ones together, has nine
  // series, two of one name, of some hundred bytes.
  static constexpr std::size_t kMaxBytes = 16 << 20;
  static constexpr std::size_t kMaxSeries = 100000;
  static constexpr std::size_t kMaxSeriesOfName = 2 * 10001;
  static constexpr std::size_t kMaxLabels = 32;      // of a series
  static constexpr std::size_t kMaxNameBytes = 256;  // of a metric or a label
  static constexpr std::size_t kMaxValueBytes = 1024;

  // INVALID_ARGUMENT that says which line is wrong, and what about it.
  static absl::StatusOr<MetricsText> Parse(absl::string_view text);

  // Every series of a name, in the order of the text.
  std::span<const MetricSeries> All(absl::string_view name) const;

  // The first series of a name that has these labels, and maybe others.
  using Labels = std::vector<std::pair<absl::string_view, absl::string_view>>;
  std::optional<double> Find(absl::string_view name, const Labels& labels = {}) const;

 private:
  std::map<std::string, std::vector<MetricSeries>, std::less<>> series_;
};

}  // namespace goldfinch
