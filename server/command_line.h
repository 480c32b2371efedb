// What the programs make of a command line around the library that reads it.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
class ParseError;
}  // namespace CLI

namespace goldfinch {

// The exit code when a command line is wrong.
inline constexpr int kUsageExit = 2;

// The arguments of a program as the library wants them: reversed, without the program's
// name.
//
// `--flag=` with nothing after it becomes two arguments, the second empty: the library
// would take the next flag for the value, and an empty one is meant (--metrics=).
std::vector<std::string> ReversedArguments(int argc, const char* const* argv);

// What is wrong, in one line, when `app` has thrown `error`. Where something is missing
// and something else not known, the latter: mostly it is the former misspelled, and the
// library would not tell.
std::string UsageMistake(const CLI::App& app, const CLI::ParseError& error);

// Adds an option that says "on" or "off" for `value`, and has what it is now as its
// default.
CLI::Option* AddSwitch(CLI::App& app, const std::string& name, bool& value,
                       const std::string& help);

}  // namespace goldfinch
