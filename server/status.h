// The one place where our statuses become gRPC's.
//
// Decides which carry google.rpc.RetryInfo: RESOURCE_EXHAUSTED and UNAVAILABLE, where
// trying again later can help; not a quota that is full until the caller makes room
// (scheduler/retry_after.h). Messages pass as they are: whoever makes a status for a
// client keeps paths, addresses and device errors out of it.
//
// Threads: any.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace goldfinch {

grpc::Status ToGrpcStatus(const absl::Status& status);

// UNAVAILABLE, with what the client needs to resume.
grpc::Status InterruptedStatus(const absl::Status& status, const std::string& session_id,
                               std::int64_t tokens_sent);

// The same code and message without details: nobody says what was done, so that who asks
// again does not do it twice.
grpc::Status InDoubtStatus(const absl::Status& status);

// "DEADLINE_EXCEEDED", for the log.
std::string CodeName(grpc::StatusCode code);

}  // namespace goldfinch
