#include "engine/sync/usable_cpus.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/control_groups.h"

namespace goldfinch {
namespace {

// "200000 100000": microseconds of processor time in so many that pass; version 1 has a
// file for each. "max", or -1 there, is no limit.
std::optional<double> QuotaOf(const ControlGroup& group) {
  std::string time, period;
  if (group.version == 2) {
    std::ifstream file(absl::StrCat(group.folder, "/cpu.max"));
    file >> time >> period;
  } else {
    std::ifstream(absl::StrCat(group.folder, "/cpu.cfs_quota_us")) >> time;
    std::ifstream(absl::StrCat(group.folder, "/cpu.cfs_period_us")) >> period;
  }
  double of = 0, in = 0;
  if (!absl::SimpleAtod(time, &of) || !absl::SimpleAtod(period, &in)) return std::nullopt;
  if (!(of > 0 && in > 0)) return std::nullopt;
  return of / in;
}

}  // namespace

int AllowedCpus() {
#if defined(__linux__)
  // The system refuses a set smaller than its own, however few are in it.
  for (int room = CPU_SETSIZE; room <= 1 << 20; room *= 2) {
    cpu_set_t* const set = CPU_ALLOC(room);
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(room);
    const bool is_told = sched_getaffinity(0, bytes, set) == 0;
    const bool is_small = !is_told && errno == EINVAL;
    const int count = is_told ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
    if (!is_small) break;
  }
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::optional<int> CpuQuota(const std::string& root) {
  std::optional<double> least;
  for (const ControlGroup& group : ControlGroupsOf("cpu", root)) {
    const auto quota = QuotaOf(group);
    if (quota.has_value()) least = std::min(least.value_or(*quota), *quota);
  }
  if (!least.has_value()) return std::nullopt;
  // Far beyond any machine, and still an int.
  return static_cast<int>(std::ceil(std::min(*least, 1e6)));
}

int UsableCpus() {
  const int allowed = AllowedCpus();
  return std::min(allowed, CpuQuota().value_or(allowed));
}

}  // namespace goldfinch
