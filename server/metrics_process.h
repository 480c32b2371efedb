// What the system knows about this process, under the names that Prometheus's own client
// libraries use: memory, processor time, file descriptors, start.
//
// Read from /proc when it is asked for; what cannot be read is left out.
//
// Threads: any.
#pragma once

#include <vector>

#include "prometheus/metric_family.h"

namespace goldfinch {

void CollectProcess(std::vector<prometheus::MetricFamily>& families);

}  // namespace goldfinch
