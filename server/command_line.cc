#include "server/command_line.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace goldfinch {

std::vector<std::string> ReversedArguments(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    std::string argument = argv[i];
    if (argument.starts_with("--") && argument.find('=') == argument.size() - 1) {
      arguments.emplace_back();
      argument.pop_back();
    }
    arguments.push_back(std::move(argument));
  }
  return arguments;
}

std::string UsageMistake(const CLI::App& app, const CLI::ParseError& error) {
  constexpr bool kOfSubcommands = true;
  const bool unknown = app.remaining_size(kOfSubcommands) > 0;
  const int code = error.get_exit_code();
  if (unknown && (code == static_cast<int>(CLI::ExitCodes::RequiredError) ||
                  code == static_cast<int>(CLI::ExitCodes::ExtrasError))) {
    return absl::StrCat("not known: ", absl::StrJoin(app.remaining(kOfSubcommands), " "));
  }
  // The library ends some messages with a line of advice.
  const std::string what = error.what();
  return what.substr(0, what.find('\n'));
}

CLI::Option* AddSwitch(CLI::App& app, const std::string& name, bool& value,
                       const std::string& help) {
  // The library reads these two, and more that nobody needs, as a bool.
  return app.add_option(name, value, help)
      ->check(CLI::IsMember({"on", "off"}))
      ->type_name("TEXT")
      ->default_str(value ? "on" : "off");
}

}  // namespace goldfinch
