// What every call needs of the server: one set of references, made by Server and shared
// by the service and its reactors.
//
// Threads: immutable; what it refers to is safe from any thread.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/clock.h"
#include "scheduler/observer.h"
#include "scheduler/scheduler.h"
#include "server/call_counts.h"
#include "server/delivery_queue.h"
#include "server/memory_guard.h"
#include "server/open_calls.h"
#include "server/tenants/tenant_directory.h"
#include "server/transfer_room.h"
#include "server/validation.h"
#include "sessions/session_manager.h"

namespace goldfinch {

// All outlive every call.
struct ServingContext {
  Scheduler& scheduler;
  SessionManager& sessions;
  DeliveryQueue& delivery;
  OpenCalls& calls;
  CallCounts& counts;  // of every call, first thing
  const Clock& clock;
  SchedulerObserver& observer;  // told of what is refused before it reaches the scheduler
  const TenantDirectory& tenants;
  MemoryGuard* memory;  // null: nothing is refused for it
  ServingLimits limits;
  TransferRoom& transfers;  // of snapshots on their way, and large answers
};

// Whose call it is, for as long as the call lasts.
using TenantPtr = TenantDirectory::TenantPtr;

// Every method begins with this, before it looks at its request: UNAUTHENTICATED without
// exactly one authorization header with a good key.
absl::StatusOr<TenantPtr> Authenticate(const ServingContext& serving,
                                       const grpc::ServerContextBase& context);

// Whether a call that takes memory may begin: UNAVAILABLE unless it `entered` the open
// calls, RESOURCE_EXHAUSTED when memory is short.
absl::Status MayBegin(const ServingContext& serving, bool entered);

// Makes it a request of the tenant, within its limits.
void SetTenant(const TenantPtr& tenant, Request& request);

// Makes it go on from a session. One without a history may begin like any other prompt.
void GoOnFrom(const std::shared_ptr<KeptPrefix>& kept, Request& request);

// Counts a call that is refused before it reaches the scheduler; of nobody when `tenant`
// is null.
void CountRefusal(const ServingContext& serving, const TenantPtr& tenant,
                  const absl::Status& status);

// What a call outside the scheduler ends with. A refusal is counted, as the tenant's too
// unless that is null; that a client has left is none.
grpc::Status EndStatus(const ServingContext& serving, const TenantPtr& tenant,
                       const absl::Status& status);
inline grpc::Status EndStatus(const ServingContext& serving, const absl::Status& status) {
  return EndStatus(serving, /*tenant=*/nullptr, status);
}

// The client's deadline on the scheduler's clock; none when it set none.
std::optional<TimePoint> DeadlineOf(const grpc::ServerContextBase& context,
                                    const Clock& clock);

// Of a call that begins now: from when on a client that leaves does so for its deadline.
std::optional<TimePoint> LateFrom(std::optional<TimePoint> deadline, const Clock& clock);

// What a call ends with whose client is gone: DEADLINE_EXCEEDED if that is why, else
// CANCELLED.
absl::Status ClientGoneStatus(std::optional<TimePoint> late_from, const Clock& clock);

}  // namespace goldfinch
