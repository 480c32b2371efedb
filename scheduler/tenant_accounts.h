// Each tenant's part of the scheduler: what waits, what its running requests hold, and
// what it has been served.
//
// Invariant: an account is active while something of it waits or runs, and until Update
// has seen that it no longer competes. Accounts are never destroyed: a debt outlives an
// idle time, and there are only as many as there ever were tenants. What waits is found
// by its id and by when it is late without a look at the others, as many clients may
// leave at once.
//
// Threads: the step thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scheduler/admission.h"
#include "scheduler/clock.h"
#include "scheduler/fair_share.h"
#include "scheduler/inbox.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/running.h"

namespace goldfinch {

// A request without memory: it has not run yet, or it was put aside. One of the two.
struct Waiting {
  std::unique_ptr<AcceptedRequest> fresh;
  std::unique_ptr<RunningRequest> aside;
  PrefixCache::Lookup lookup = {};  // for `fresh`, each time that it is about to run

  const AcceptedRequest& accepted() const {
    return fresh != nullptr ? *fresh : aside->accepted();
  }
};

struct TenantAccount {
  std::string name;
  TenantPolicy policy;                 // of the newest request
  std::shared_ptr<TenantMeter> meter;  // the same; may be null
  ServiceCounter counter;
  // By priority, the highest first, and arrival: the first goes next.
  using Order = std::pair<std::int32_t, RequestId>;
  std::map<Order, Waiting> waiting;
  // Of running requests.
  std::int64_t requests = 0;
  std::int64_t slots = 0;
  std::int64_t pages = 0;
  std::int64_t prompts = 0;    // that are not fed yet, by the last Update
  std::int64_t generated = 0;  // tokens, in this step
  bool active = false;
};

class TenantAccounts {
 public:
  TenantAccounts(std::int64_t num_slots, std::int64_t num_pages)
      : num_slots_(num_slots), num_pages_(num_pages) {}
  TenantAccounts(const TenantAccounts&) = delete;
  TenantAccounts& operator=(const TenantAccounts&) = delete;

  // Queues a request that has come in, or that ran and was put aside. It is late at
  // `latest`; TimePoint::max() is never.
  void Add(Waiting waiting, TimePoint latest);
  // The request runs from now on, or no longer.
  void Run(const AcceptedRequest& accepted) { Count(accepted, +1); }
  void Stop(const AcceptedRequest& accepted) { Count(accepted, -1); }

  // Tokens of the request passed through the model.
  void ChargePrompt(const AcceptedRequest& accepted, std::int64_t tokens);
  // One was sampled for it.
  void ChargeGenerated(const AcceptedRequest& accepted);

  // Once a step before admission: who competes, from what is queued and runs.
  void Update(std::span<const std::unique_ptr<RunningRequest>> running);
  // Once a step at its end: tells the meters.
  void Report();

  std::span<TenantAccount* const> active() const { return active_; }
  // What waits: requests that never ran, their prompt tokens, and those put aside.
  std::int64_t num_fresh() const { return num_fresh_; }
  std::int64_t fresh_tokens() const { return fresh_tokens_; }
  std::int64_t num_aside() const { return num_aside_; }
  std::int64_t aside_bytes() const { return aside_bytes_; }  // RunningRequest::BytesAside
  std::uint64_t num_put_aside() const { return num_put_aside_; }  // since the start
  bool empty() const { return num_fresh_ + num_aside_ == 0; }
  // When the next one is late, if any can be.
  std::optional<TimePoint> next_late() const {
    return by_latest_.empty() ? std::nullopt : std::optional(by_latest_.begin()->first);
  }

  // The tenant whose first waiting request goes next; null when nobody's may.
  TenantAccount* Next() const;
  // Whether a running request of `holder` is put aside for the first of `newcomer`.
  Yield HasToYield(const TenantAccount& holder, const TenantAccount& newcomer,
                   double slack) const;

  // Calls `see` with all that waits, in no order.
  template <typename Function>
  void ForEachWaiting(const Function& see) const {
    for (const TenantAccount* account : active_) {
      for (const auto& [order, waiting] : account->waiting) see(waiting);
    }
  }

  // Take what waits out: the one of this id, if it waits; those that are late; all.
  std::optional<Waiting> Take(RequestId id);
  std::vector<Waiting> TakeLate(TimePoint now);
  std::vector<Waiting> TakeAll();
  // The first one that waits.
  Waiting TakeFirst(TenantAccount& account);

 private:
  // Where a request waits.
  struct Place {
    TenantAccount* account = nullptr;
    TenantAccount::Order order;
    TimePoint latest;
  };
  using Places = std::unordered_map<RequestId, Place>;

  void Open(AcceptedRequest& accepted);
  Waiting TakeFrom(Places::iterator place);
  void CountWaiting(const Waiting& waiting, std::int64_t sign);
  void Count(const AcceptedRequest& accepted, std::int64_t sign);
  void Charge(TenantAccount& account, double service);
  double Held(const TenantAccount& account, std::int64_t slots, std::int64_t pages) const;
  TenantDemand DemandOf(const TenantAccount& account) const;

  const std::int64_t num_slots_;
  const std::int64_t num_pages_;  // 0: none are needed
  std::unordered_map<std::string, std::unique_ptr<TenantAccount>> accounts_;
  std::vector<TenantAccount*> active_;  // in order of their coming
  Places places_;                       // of all that waits
  std::set<std::pair<TimePoint, RequestId>> by_latest_;  // of what can be late
  std::int64_t num_fresh_ = 0;
  std::int64_t fresh_tokens_ = 0;
  std::int64_t num_aside_ = 0;
  std::int64_t aside_bytes_ = 0;
  std::uint64_t num_put_aside_ = 0;
  FairShare fair_share_;
  std::vector<FairShare::Competitor> competitors_;  // one Update
  mutable std::vector<TenantDemand> demands_;       // one Next
};

}  // namespace goldfinch
