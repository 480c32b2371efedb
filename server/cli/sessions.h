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
  // list, get, create, append, history, fork, park, export, import or delete.
  std::string action;
  std::string id;                // of those about one session
  std::vector<std::string> ids;  // of delete
  std::string file;              // of export and import
  TextFlags prompt;              // of create and append, as are the next two
  TokenFlags tokens;
  std::int32_t priority = 0;
  std::int64_t first_token = 0;  // of history
  bool json = false;
};

// What makes a session prints its id and nothing else. History prints the bytes of the
// text as they are. Delete goes on after one that cannot be deleted.
int RunSessions(const SessionsFlags& flags);

// Deletes what is of no more use; no signal is in the way of it. If that fails, or would
// take more than a second, it goes after its time to live.
void DiscardSession(Connection& connection, const std::string& id);

// "alive", "resting" or "parked".
std::string PlaceName(v1::SessionPlace place);

// Time as people say it: "0.3s", "59s", "12m", "5h", "3d".
std::string ShortTime(double seconds);

}  // namespace goldfinch
