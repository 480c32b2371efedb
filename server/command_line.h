// The arguments of a program as the command-line library wants them: reversed, without
// the program's name.
//
// `--flag=` with nothing after it becomes two arguments, the second empty: the library
// would take the next flag for the value, and an empty one is meant (--metrics=).
//
// Threads: a pure function.
#pragma once

#include <string>
#include <vector>

namespace goldfinch {

std::vector<std::string> ReversedArguments(int argc, const char* const* argv);

}  // namespace goldfinch
