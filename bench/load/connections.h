// Many connections to one server at once, and short calls on some of them: each stream is
// a call after another, every one on the next connection in turn, with a pause after one
// that failed. A connection costs a server more once it was used, so the time that counts
// begins when all were.
//
// Threads: one calls.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "bench/load/scenario_run.h"
#include "server/cli/commands.h"

namespace goldfinch {

struct ConnectionsLoad {
  std::int64_t connections = 100;
  std::int64_t streams = 10;  // calls at once, all the time
  double seconds = 10;        // that they go on, once each connection was used
  std::int64_t prompt_tokens = 48;
  std::int64_t max_tokens = 16;
};

struct ConnectionsResult {
  std::int64_t opened = 0;       // connections
  double open_seconds = 0;       // that took
  std::int64_t used = 0;         // on which a call has ended
  std::int64_t open_at_end = 0;  // nobody had closed them
  std::int64_t finished = 0;     // calls
  std::int64_t refused = 0;      // times that one was refused and tried again later
  std::map<std::string, std::int64_t> failed;  // by status code
  std::int64_t generated_tokens = 0;
};

// Tells when all connections are open, when each has been used, and when the streams have
// ended. An error when a connection does not open.
absl::StatusOr<ConnectionsResult> RunConnections(const ConnectionsLoad& load,
                                                 const ConnectionFlags& connection,
                                                 const TellProgress& tell);

}  // namespace goldfinch
