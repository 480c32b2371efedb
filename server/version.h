// The version of this server, from the top CMakeLists.txt, and what exactly was built.
#pragma once

namespace goldfinch {

extern const char kVersion[];

// kVersion and the commit, as 0.1.0+d28be40; without the latter where none is known.
//
// In the programs only, not in their libraries: it changes with every commit, and tests
// would be linked anew with each.
extern const char kBuild[];

}  // namespace goldfinch
