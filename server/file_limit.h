// How many files, connections among them, a process may have open.
//
// Threads: any.
#pragma once

namespace goldfinch {

// As many as the system lets this process have. Else it stays as it was.
void RaiseFileLimit();

}  // namespace goldfinch
