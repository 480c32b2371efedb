// The command by which a person goes on with a generation that was given up.
//
// It works as it is: in a shell, for the same servers, with output of the same form. Only
// the key is not in it, which others could read on the screen or in a log.
//
// Threads: a pure function.
#pragma once

#include <cstdint>
#include <string>

#include "server/cli/commands.h"

namespace goldfinch {

// `flags` are those of the command that was given up.
std::string ResumeCommand(const GenerateFlags& flags, const std::string& session_id,
                          std::int64_t tokens_received);

}  // namespace goldfinch
