// One server for all cases of bad input, which need none of their own: what each leaves
// behind is nothing.
#pragma once

#include "tests/server/grpc/harness.h"

namespace goldfinch {

// 4096 tokens of context, and a store in memory. Gone before the libraries' statics are.
TestServer& SharedServer();

// I1 and I4: nothing is held, and the server answers rightly.
void ExpectSharedServerUnharmed();

}  // namespace goldfinch
