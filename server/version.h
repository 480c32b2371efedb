// The version of this server, from the top CMakeLists.txt.
#pragma once

namespace goldfinch {

extern const char kVersion[];

}  // namespace goldfinch
