#include "engine/control_groups.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace goldfinch {

std::vector<ControlGroup> ControlGroupsOf(const std::string& controller,
                                          const std::string& root) {
  std::vector<ControlGroup> found;
  std::ifstream groups(absl::StrCat(root, "/proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" of version 2; "4:cpu,cpuacct:/path" of version 1.
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || !parts[2].starts_with('/')) continue;
    const int version = parts[1].empty() ? 2 : 1;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (version == 1 && std::find(controllers.begin(), controllers.end(), controller) ==
                            controllers.end())
      continue;
    const std::string mount = absl::StrCat(
        root, "/sys/fs/cgroup", version == 1 ? absl::StrCat("/", controller) : "");
    std::string group = parts[2] == "/" ? std::string() : parts[2];
    while (true) {
      found.push_back({.folder = absl::StrCat(mount, group), .version = version});
      if (group.empty()) break;
      group.resize(group.rfind('/'));
    }
  }
  return found;
}

}  // namespace goldfinch
