// Each tenant's part of the scheduler: what waits, what its running requests hold, and
// what it has been served.
//
// Invariant: an account is active while something of it waits or runs, and until Update
// has seen that it no longer competes. Accounts are never destroyed: a debt outlives an
// idle time, and there are only as many as there ever were tenants.
//
// Threads: the step thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scheduler/admission.h"
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
  std::map<std::pair<std::int32_t, RequestId>, Waiting> waiting;
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

  // Queues a request that has come in, or that ran and was put aside.
  void Add(Waiting waiting);
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

  // Takes what waits out where `take` says so, in no order.
  template <typename Predicate>
  std::vector<Waiting> Extract(const Predicate& take) {
    std::vector<Waiting> taken;
    for (TenantAccount* account : active_) {
      for (auto it = account->waiting.begin(); it != account->waiting.end();) {
        if (!take(std::as_const(it->second))) {
          ++it;
          continue;
        }
        taken.push_back(std::move(it->second));
        it = account->waiting.erase(it);
        CountWaiting(taken.back(), -1);
      }
    }
    return taken;
  }
  // The first one that waits.
  Waiting TakeFirst(TenantAccount& account);

 private:
  void Open(AcceptedRequest& accepted);
  void CountWaiting(const Waiting& waiting, std::int64_t sign);
  void Count(const AcceptedRequest& accepted, std::int64_t sign);
  void Charge(TenantAccount& account, double service);
  double Held(const TenantAccount& account, std::int64_t slots, std::int64_t pages) const;
  TenantDemand DemandOf(const TenantAccount& account) const;

  const std::int64_t num_slots_;
  const std::int64_t num_pages_;  // 0: none are needed
  std::unordered_map<std::string, std::unique_ptr<TenantAccount>> accounts_;
  std::vector<TenantAccount*> active_;  // in order of their coming
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
