// What `goldfinch top` shows: lines of text from two looks at a server's metrics.
//
// Levels are those of the later look; rates, shares and quantiles are of what happened
// between the two, and "-" where that cannot be told: there was no earlier look, nothing
// happened, or the server was started anew. Lines hold printable ASCII only, whatever the
// labels of the metrics are; those about metrics that are not there are left out.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "server/cli/metrics_text.h"

namespace goldfinch {

struct TopSample {
  MetricsText metrics = {};
  double seconds = 0;       // on a clock that never jumps
  double unix_seconds = 0;  // since 1970
};

// Whether these are metrics of a GoldFinch server at all.
bool IsGoldFinch(const MetricsText& metrics);

// Whether the counters began anew between the two.
bool Restarted(const TopSample& before, const TopSample& now);

// `before` may be null. `address` is where the metrics are from.
std::vector<std::string> TopLines(const std::string& address, const TopSample* before,
                                  const TopSample& now);

}  // namespace goldfinch
