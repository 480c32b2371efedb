// Where every other thread leaves what the step thread has to know: new requests,
// cancellations, work on kept prefixes, readers that made room, shutdown. The step thread
// takes it whole at the start of a step and sleeps on it when there is nothing to run.
//
// It also bounds the queue, because whoever submits must be refused at once: it counts
// the requests that wait and their tokens (TokensToFeed), here or with the step thread,
// of all and of each tenant, and the tokens that each used of its rate.
//
// A rate is a bucket that holds a minute's worth. A prompt counts when it is accepted
// (and no longer if it leaves the queue unserved), generated tokens when they are there,
// so a request that runs is never held up; the debt it leaves is paid before the next.
// The rate is that of the newest request; it holds for what older ones still use, and for
// what is owed, from then on.
//
// Invariant: a request accepted by Add is taken by exactly one TakeAll; none is accepted
// after InterruptAll or Close.
//
// Threads: Add, Cancel, Interrupt, InterruptAll, Post, Wake, WakeIfIdle and Close by any;
// the others by the step thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sync/mutex.h"
#include "scheduler/clock.h"
#include "scheduler/needs.h"
#include "scheduler/request.h"
#include "scheduler/request_info.h"
#include "scheduler/scheduler.h"
#include "scheduler/tenant_policy.h"
#include "scheduler/token_stream.h"

namespace goldfinch {

struct TenantAccount;

// A request from its acceptance to its end.
struct AcceptedRequest {
  RequestId id{};  // grows in the order of acceptance
  Request request;
  TenantPolicy policy;               // the request's, or the default
  TenantAccount* account = nullptr;  // of the step thread, from TakeAll on
  RequestNeeds needs;
  std::shared_ptr<TokenStream> stream;
  TimePoint submitted;
  TimePoint arrived;  // no later
};

// As it is before it runs.
RequestInfo InfoOf(const AcceptedRequest& accepted, TimePoint now);

class Inbox {
 public:
  struct Limits {
    std::int64_t requests = 0;
    std::int64_t tokens = 0;
  };
  // What waits.
  struct Load {
    std::int64_t requests = 0;
    std::int64_t tokens = 0;  // to be fed

    void Count(std::int64_t more_tokens, std::int64_t sign) {
      requests += sign;
      tokens += sign * more_tokens;
    }
  };
  struct Contents {
    std::vector<std::unique_ptr<AcceptedRequest>> submitted;  // in order of id
    std::vector<std::pair<RequestId, absl::Status>> cancelled;
    std::vector<std::pair<RequestId, absl::Status>> interrupted;
    bool interrupt_all = false;  // all there is
    std::vector<std::function<void()>> tasks;
  };

  explicit Inbox(Limits limits) : limits_(limits) {}
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  // Gives the request its id. RESOURCE_EXHAUSTED when too many requests or tokens wait,
  // of all or of its tenant (a prompt above the limit of tokens is taken when nothing
  // else waits), or the tenant's rate is used up; UNAVAILABLE after InterruptAll or Close.
  absl::StatusOr<RequestId> Add(std::unique_ptr<AcceptedRequest> accepted);

  void Cancel(RequestId id, absl::Status status);
  void Interrupt(RequestId id, absl::Status status);
  // No further Add succeeds: what came after it would run until Close, and what that
  // interrupts nobody can copy out any more.
  void InterruptAll();

  // `task` will run on the step thread (see Scheduler::GetImage). False after Close.
  bool Post(std::function<void()> task);

  // A reader has made room: ends a Wait, or the next one.
  void Wake();
  // So does this, but it is no news to a step that runs: there is something to free,
  // which the next step does at its start.
  void WakeIfIdle();

  // No further Add succeeds; ends every Wait.
  void Close();
  bool closed() const;

  Contents TakeAll();

  // Whether there is something to take, somebody has made room since the last TakeAll, or
  // it is closed.
  bool HasNews() const;

  // The request waits no longer: it runs, or it ended unserved.
  enum class Left { kToRun, kUnserved };
  void LeftQueue(const AcceptedRequest& accepted, Left why);

  // What the tenants of a step generated.
  struct GeneratedTokens {
    const std::string* tenant = nullptr;
    std::int64_t tokens = 0;
  };
  void Generated(std::span<const GeneratedTokens> of_tenants, TimePoint now);

  // Returns when there is something to take, after Wake or Close, or at `until`.
  void Wait(std::optional<TimePoint> until);

 private:
  // One tenant's; there are as many as there ever were tenants.
  struct Tenant {
    Load waiting;
    // Until when the tenant's rate is spent; a minute ahead of now is all of it.
    TimePoint spent_until{};
    std::int64_t tokens_per_minute = 0;  // that rate; 0: nothing was asked for yet

    void SetRate(std::int64_t new_rate, TimePoint now);
    // How long the rate needs to bring so many tokens.
    std::chrono::nanoseconds TimeOf(std::int64_t tokens) const;
  };

  // Of one that has asked for something.
  Tenant& Known(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckTenant(const Tenant& tenant, const AcceptedRequest& accepted) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Limits limits_;

  mutable Mutex mu_;
  CondVar changed_;
  Contents contents_ ABSL_GUARDED_BY(mu_);
  std::uint64_t last_id_ ABSL_GUARDED_BY(mu_) = 0;
  Load waiting_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<std::string, Tenant> tenants_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;      // something happened since the last Wait
  bool room_made_ ABSL_GUARDED_BY(mu_) = false;  // since the last TakeAll
  bool interrupted_all_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace goldfinch
