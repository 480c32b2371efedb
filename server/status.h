// The one place where our statuses become gRPC's.
//
// Decides which carry google.rpc.RetryInfo (RESOURCE_EXHAUSTED and UNAVAILABLE: trying
// again later can help) and what is kept from clients: the message of a fault of ours
// may name addresses or paths, so it is logged and a general one is sent.
//
// Threads: any.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace goldfinch {

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace goldfinch
