// What every call needs of the server: one set of references, made by Server and shared
// by the service and its reactors.
//
// Threads: immutable; what it refers to is safe from any thread.
#pragma once

#include <grpcpp/server_context.h>

#include <optional>

#include "absl/status/status.h"
#include "scheduler/clock.h"
#include "scheduler/observer.h"
#include "scheduler/scheduler.h"
#include "server/delivery_queue.h"
#include "server/open_calls.h"
#include "server/validation.h"

namespace goldfinch {

// All outlive every call.
struct ServingContext {
  Scheduler& scheduler;
  DeliveryQueue& delivery;
  OpenCalls& calls;
  const Clock& clock;
  SchedulerObserver& observer;  // told of what is refused before it reaches the scheduler
  ServingLimits limits;
};

// What a call gets after the server began to drain.
inline absl::Status DrainingStatus() {
  return absl::UnavailableError("the server is shutting down");
}

// The client's deadline on the scheduler's clock; none when it set none.
std::optional<TimePoint> DeadlineOf(const grpc::ServerContextBase& context,
                                    const Clock& clock);

}  // namespace goldfinch
