// The section of a snapshot that holds the session's last turn.
//
// Pure functions; any thread.
#pragma once

#include <vector>

#include "sessions/bytes.h"
#include "sessions/snapshot.h"

namespace goldfinch {

void WriteTurn(const Turn& turn, ByteWriter& out);

// Fails `in` for what no generation of a session with the tokens `history` can be.
Turn ReadTurn(const std::vector<TokenId>& history, ByteReader& in);

}  // namespace goldfinch
