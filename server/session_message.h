// A session as the contract tells of it.
//
// Threads: a pure function.
#pragma once

#include "goldfinch/v1/session_service.pb.h"
#include "sessions/session_manager.h"

namespace goldfinch {

void FillSession(const SessionInfo& info, v1::Session& out);

}  // namespace goldfinch
