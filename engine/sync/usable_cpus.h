// How many processors this process may keep busy, which is how many threads an engine has
// unless it is told: with more, each loop waits for a thread that the system holds up.
//
// Threads: any.
#pragma once

#include <optional>
#include <string>

namespace goldfinch {

// Those that the calling thread may run on, by its affinity or a cpuset. What the system
// counts as online may be far more.
int AllowedCpus();

// Processor time that control groups allow in the time that passes, the least of them,
// rounded up: with 1.5 a second thread has half of its time. None when nothing is said,
// or nothing can be read below `root` ("" but in tests).
std::optional<int> CpuQuota(const std::string& root = "");

// The lesser of the two, as they are now; 1 at least.
int UsableCpus();

}  // namespace goldfinch
