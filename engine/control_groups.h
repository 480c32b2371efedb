// The control groups that a process is in: how a container, a service manager or an
// operator bounds what it takes. Of version 1, of version 2, or both.
//
// Threads: any.
#pragma once

#include <string>
#include <vector>

namespace goldfinch {

struct ControlGroup {
  std::string folder;  // where its files are
  int version = 2;     // they have other names in each
};

// The groups that have a controller ("memory") over this process: its own and all that
// those are in, each of which bounds it. A container sees its own as the root, and then
// that is all. Folders may not exist, or lack the controller's files. `root` is "" but in
// tests.
std::vector<ControlGroup> ControlGroupsOf(const std::string& controller,
                                          const std::string& root);

}  // namespace goldfinch
