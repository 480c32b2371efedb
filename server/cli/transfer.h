// Sessions to files and back.
//
// Threads: one, while no other call of `signals` is under way.
#pragma once

#include <string>

#include "goldfinch/v1/session_service.pb.h"
#include "server/cli/call.h"
#include "server/cli/retry.h"
#include "server/cli/signals.h"

namespace goldfinch {

// Both report what goes wrong and return the exit code; "-" is standard output or input.
// A file that is there is replaced once the new one is complete.
int ExportSession(Connection& connection, Signals& signals, const CallLimits& limits,
                  const std::string& session_id, const std::string& file);
int ImportSession(Connection& connection, Signals& signals, const Deadline& deadline,
                  const std::string& file, v1::Session& imported);

}  // namespace goldfinch
