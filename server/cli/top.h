// `goldfinch top`: a live view of a server, from its metrics endpoint.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace goldfinch {

struct TopFlags {
  std::string metrics = "127.0.0.1:9464";  // HOST:PORT
  double interval = 1;                     // seconds
  std::int64_t count = 0;                  // screens; 0: until the user has seen enough
};

bool IsHostAndPort(absl::string_view address);

// Returns the exit code: 1 when the last look at the server found none.
int RunTop(const TopFlags& flags);

}  // namespace goldfinch
