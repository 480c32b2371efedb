#include "server/memory_limit.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/control_groups.h"

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

std::int64_t PageBytes() { return sysconf(_SC_PAGESIZE); }

}  // namespace

std::optional<std::int64_t> ControlGroupLimit(const std::string& root) {
  std::optional<std::int64_t> least;
  for (const ControlGroup& group : ControlGroupsOf("memory", root)) {
    const char* const file =
        group.version == 2 ? "/memory.max" : "/memory.limit_in_bytes";
    const auto limit = ReadNumber(absl::StrCat(group.folder, file));
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
