// `goldfinch admin`: what an operator asks of a running server's admin service, one action
// each.
//
// Returns the exit code. With `json`, requests are JSON, one object a line.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/cli/commands.h"

namespace goldfinch {

struct AdminFlags {
  ConnectionFlags connection{.server = "127.0.0.1:50052"};
  std::string action;              // drain, reload, requests, cancel, log_level
  bool hurry = false;              // of drain
  std::string tenant;              // of requests; empty: all
  bool json = false;               // the same
  std::vector<std::uint64_t> ids;  // of cancel
  std::string level;               // of log_level
};

// Cancel goes on after one that is not there.
int RunAdmin(const AdminFlags& flags);

}  // namespace goldfinch
