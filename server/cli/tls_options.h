// The flags of a program that calls a server by TLS, the same for each of them.
//
// Threads: a pure function.
#pragma once

#include <CLI/CLI.hpp>

#include "server/cli/commands.h"

namespace goldfinch {

void AddTls(CLI::App& app, ConnectionFlags& flags);

}  // namespace goldfinch
