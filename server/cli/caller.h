// Calls of a subcommand that have one answer each.
//
// A signal ends them, and a server that refuses one sends it to the next of --server. It
// is made when the input has been read, which a signal should end like any program.
//
// Threads: one.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include "server/cli/call.h"
#include "server/cli/retry.h"
#include "server/cli/signals.h"

namespace goldfinch {

template <typename Service>
struct Caller {
  using Stub = typename Service::Stub;

  explicit Caller(const ConnectionFlags& flags)
      : connection(flags, &signals), limits(LimitsOf(flags)) {}

  template <typename Request, typename Response>
  grpc::Status Call(const Request& request, Response& response,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                 Response*)) {
    return CallPatiently(connection, signals, limits,
                         [&](const auto& channel, grpc::ClientContext& context) {
                           const auto stub = Service::NewStub(channel);
                           return ((*stub).*method)(&context, request, &response);
                         });
  }

  Signals signals;  // before the first channel
  Connection connection;
  const CallLimits limits;  // the deadline is of all calls together
};

}  // namespace goldfinch
