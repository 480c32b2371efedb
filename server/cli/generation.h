// One generation, on however many servers it takes.
//
// A server that has to stop keeps what it generated and says so (Interruption); the
// generation then goes on there or elsewhere, right after the last token that came.
//
// Threads: one.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <functional>
#include <string>

#include "goldfinch/v1/generation_service.pb.h"
#include "server/cli/call.h"
#include "server/cli/retry.h"
#include "server/cli/signals.h"

namespace goldfinch {

struct GenerationOptions {
  CallLimits limits;   // the deadline is of everything, the patience until it is taken up
  bool resume = true;  // goes on when interrupted
};

struct GenerationResult {
  grpc::Status status;
  std::int64_t tokens_received = 0;  // with those that a request to resume has already
  int num_resumed = 0;
  // That has what was generated: the last interruption left it, or it was resumed.
  // Empty: none.
  std::string kept_session;
};

// Shows every message as it comes; when `show` is false, it is cancelled. The seed is in
// the first one only, as if there were one call.
GenerationResult RunGeneration(
    Connection& connection, Signals& signals, const v1::GenerateRequest& request,
    const GenerationOptions& options,
    const std::function<bool(const v1::GenerateResponse&)>& show);

}  // namespace goldfinch
