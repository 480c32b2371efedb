// Where metrics may be served.
//
// Threads: a pure function.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace goldfinch {

// INVALID_ARGUMENT for an IPv6 HOST:PORT where the library that serves metrics was built
// without IPv6, as Debian 12's is: it would fail without a word of that. A name is for
// the library to look up.
absl::Status CheckMetricsAddress(const std::string& address);

}  // namespace goldfinch
