// Whether an address is one that other machines cannot reach.
//
// Threads: a pure function.
#pragma once

#include <string>

namespace goldfinch {

// HOST:PORT with a host that is 127.x.x.x, [::1] or localhost; or unix:PATH. Names are
// not looked up: whatever else it is, is not.
bool IsLoopback(const std::string& address);

}  // namespace goldfinch
