// Calls that have one answer each.
//
// A Caller is made when the input has been read, which a signal should end like any
// program.
//
// Threads: one.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include "server/cli/call.h"
#include "server/cli/retry.h"
#include "server/cli/signals.h"

namespace goldfinch {

// One call, by the method of that stub: a signal ends it, and a server that refuses it
// sends it to the next one.
template <typename Service, typename Request, typename Response>
grpc::Status CallMethod(Connection& connection, Signals& signals,
                        const CallLimits& limits, const Request& request,
                        Response& response,
                        grpc::Status (Service::Stub::*method)(grpc::ClientContext*,
                                                              const Request&,
                                                              Response*)) {
  return CallPatiently(connection, signals, limits,
                       [&](const auto& channel, grpc::ClientContext& context) {
                         const auto stub = Service::NewStub(channel);
                         return ((*stub).*method)(&context, request, &response);
                       });
}

// The calls of a subcommand.
template <typename Service>
struct Caller {
  using Stub = typename Service::Stub;

  explicit Caller(const ConnectionFlags& flags)
      : connection(flags, &signals), limits(LimitsOf(flags)) {}

  template <typename Request, typename Response>
  grpc::Status Call(const Request& request, Response& response,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                 Response*)) {
    return CallMethod<Service>(connection, signals, limits, request, response, method);
  }

  Signals signals;  // before the first channel
  Connection connection;
  const CallLimits limits;  // the deadline is of all calls together
};

}  // namespace goldfinch
