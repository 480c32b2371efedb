#include "server/memory_limit.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace goldfinch {
namespace {

// A file with one number. None when it is not there or says "max".
std::optional<std::int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  std::int64_t value = 0;
  if (!(file >> word) || !absl::SimpleAtoi(word, &value)) return std::nullopt;
  return value;
}

// The least of a group and those it is in; a container sees only its own, as "/".
std::optional<std::int64_t> LeastUpwards(const std::string& mount, std::string group,
                                         const char* file) {
  std::optional<std::int64_t> least;
  while (true) {
    const auto limit = ReadNumber(absl::StrCat(mount, group, "/", file));
    if (limit.has_value()) least = std::min(least.value_or(*limit), *limit);
    if (group.empty()) return least;
    group.resize(group.rfind('/'));
  }
}

std::int64_t PageBytes() { return sysconf(_SC_PAGESIZE); }

}  // namespace

std::optional<std::int64_t> ControlGroupLimit(const std::string& root) {
  std::optional<std::int64_t> least;
  std::ifstream groups(absl::StrCat(root, "/proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" of version 2; "4:memory:/path" of version 1.
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || !parts[2].starts_with('/')) continue;
    const std::string group = parts[2] == "/" ? std::string() : parts[2];
    std::optional<std::int64_t> limit;
    if (parts[1].empty()) {
      limit = LeastUpwards(absl::StrCat(root, "/sys/fs/cgroup"), group, "memory.max");
    } else if (parts[1] == "memory") {
      limit = LeastUpwards(absl::StrCat(root, "/sys/fs/cgroup/memory"), group,
                           "memory.limit_in_bytes");
    }
    if (limit.has_value()) least = std::min(least.value_or(*limit), *limit);
  }
  return least;
}

std::int64_t MemoryLimit() {
  const std::int64_t machine = sysconf(_SC_PHYS_PAGES) * PageBytes();
  // Version 1 says "no limit" with a number larger than any machine.
  return std::min(machine, ControlGroupLimit().value_or(machine));
}

std::int64_t MemoryTaken() {
  std::ifstream file("/proc/self/statm");
  std::int64_t all = 0, resident = 0, of_files = 0;
  if (!(file >> all >> resident >> of_files)) return 0;
  return (resident - of_files) * PageBytes();
}

void GiveBackMemory() { malloc_trim(0); }

}  // namespace goldfinch
