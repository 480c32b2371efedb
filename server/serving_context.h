// What every call needs of the server: one set of references, made by Server and shared
// by the service and its reactors.
//
// Threads: immutable; what it refers to is safe from any thread.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "scheduler/clock.h"
#include "scheduler/observer.h"
#include "scheduler/scheduler.h"
#include "server/delivery_queue.h"
#include "server/open_calls.h"
#include "server/validation.h"
#include "sessions/session_manager.h"

namespace goldfinch {

// All outlive every call.
struct ServingContext {
  Scheduler& scheduler;
  SessionManager& sessions;
  DeliveryQueue& delivery;
  OpenCalls& calls;
  const Clock& clock;
  SchedulerObserver& observer;  // told of what is refused before it reaches the scheduler
  ServingLimits limits;
  std::atomic<std::int64_t>& transfer_bytes;  // of snapshots on their way out and in
};

// What snapshots that are being sent or received may take together.
inline constexpr std::int64_t kMaxTransferBytes = std::int64_t{1} << 30;

// What a call gets after the server began to drain.
inline absl::Status DrainingStatus() {
  return absl::UnavailableError("the server is shutting down");
}

// Whose call it is. There is one tenant while callers are not told apart.
std::string TenantOf(const grpc::ServerContextBase& context);

// The client's deadline on the scheduler's clock; none when it set none.
std::optional<TimePoint> DeadlineOf(const grpc::ServerContextBase& context,
                                    const Clock& clock);

}  // namespace goldfinch
