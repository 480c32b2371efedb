// `goldfinch sessions`: what a server holds and has stored, one action each.
//
// Returns the exit code. With `json`, sessions are JSON, one object a line.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "goldfinch/v1/session_service.pb.h"
#include "server/cli/call.h"
#include "server/cli/commands.h"
#include "server/cli/input.h"

namespace goldfinch {

struct SessionsFlags {
  ConnectionFlags connection;
  std::string action;            // list, get, create, fork, park, export, import, delete
  std::string id;                // of get, fork, park and export
  std::vector<std::string> ids;  // of delete
  std::string file;              // of export and import
  TextFlags prompt;              // of create, as is `tokens`
  TokenFlags tokens;
  std::int32_t priority = 0;  // of create
  bool json = false;
};

// What makes a session prints its id and nothing else. Delete goes on after one that
// cannot be deleted.
int RunSessions(const SessionsFlags& flags);

// Deletes what is of no more use; no signal is in the way of it. If that fails, or would
// take more than a second, it goes after its time to live.
void DiscardSession(Connection& connection, const std::string& id);

// "alive", "resting" or "parked".
std::string PlaceName(v1::SessionPlace place);

// Time as people say it: "0.3s", "59s", "12m", "5h", "3d".
std::string ShortTime(double seconds);

}  // namespace goldfinch
