#include "scheduler/tenant_accounts.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "engine/check.h"
#include "scheduler/needs.h"

namespace goldfinch {

// The account of a request that has come in, as it says.
void TenantAccounts::Open(AcceptedRequest& accepted) {
  std::unique_ptr<TenantAccount>& account = accounts_[accepted.request.tenant];
  if (account == nullptr) {
    account = std::make_unique<TenantAccount>();
    account->name = accepted.request.tenant;
  }
  account->policy = accepted.policy;
  account->meter = accepted.request.meter;
  accepted.account = account.get();
}

void TenantAccounts::Add(Waiting waiting, TimePoint latest) {
  if (waiting.fresh != nullptr) Open(*waiting.fresh);
  const AcceptedRequest& accepted = waiting.accepted();
  TenantAccount& account = *accepted.account;
  if (waiting.aside != nullptr) {
    ++num_put_aside_;
    if (account.meter != nullptr) ++account.meter->put_aside;
  }
  if (!std::exchange(account.active, true)) active_.push_back(&account);
  CountWaiting(waiting, +1);
  const Place place{.account = &account,
                    .order = {-accepted.request.priority, accepted.id},
                    .latest = latest};
  places_.emplace(accepted.id, place);
  if (latest != TimePoint::max()) by_latest_.emplace(latest, accepted.id);
  account.waiting.emplace(place.order, std::move(waiting));
}

void TenantAccounts::CountWaiting(const Waiting& waiting, std::int64_t sign) {
  if (waiting.aside != nullptr) {
    num_aside_ += sign;
    aside_bytes_ += sign * waiting.aside->BytesAside();
    return;
  }
  num_fresh_ += sign;
  fresh_tokens_ += sign * TokensToFeed(waiting.fresh->request);
}

Waiting TenantAccounts::TakeFirst(TenantAccount& account) {
  GOLDFINCH_CHECK(!account.waiting.empty());
  return TakeFrom(places_.find(account.waiting.begin()->first.second));
}

std::optional<Waiting> TenantAccounts::Take(RequestId id) {
  const auto place = places_.find(id);
  if (place == places_.end()) return std::nullopt;
  return TakeFrom(place);
}

std::vector<Waiting> TenantAccounts::TakeLate(TimePoint now) {
  std::vector<Waiting> late;
  while (!by_latest_.empty() && by_latest_.begin()->first <= now) {
    late.push_back(TakeFrom(places_.find(by_latest_.begin()->second)));
  }
  return late;
}

std::vector<Waiting> TenantAccounts::TakeAll() {
  std::vector<Waiting> all;
  for (TenantAccount* account : active_) {
    while (!account->waiting.empty()) all.push_back(TakeFirst(*account));
  }
  return all;
}

Waiting TenantAccounts::TakeFrom(Places::iterator place) {
  const auto& [account, order, latest] = place->second;
  const auto node = account->waiting.extract(order);
  Waiting waiting = std::move(node.mapped());
  CountWaiting(waiting, -1);
  by_latest_.erase({latest, place->first});
  places_.erase(place);
  return waiting;
}

void TenantAccounts::Count(const AcceptedRequest& accepted, std::int64_t sign) {
  TenantAccount& account = *accepted.account;
  account.requests += sign;
  account.slots += sign * accepted.needs.slots;
  account.pages += sign * accepted.needs.pages;
}

void TenantAccounts::Charge(TenantAccount& account, double service) {
  account.counter.service += service / account.policy.weight;
  if (account.meter != nullptr) {
    account.meter->service += static_cast<std::int64_t>(service);
  }
}

void TenantAccounts::ChargePrompt(const AcceptedRequest& accepted, std::int64_t tokens) {
  Charge(*accepted.account, kPromptTokenService * static_cast<double>(tokens));
  if (accepted.account->meter != nullptr)
    accepted.account->meter->prompt_tokens += tokens;
}

void TenantAccounts::ChargeGenerated(const AcceptedRequest& accepted) {
  TenantAccount& account = *accepted.account;
  Charge(account, kGeneratedTokenService);
  ++account.generated;
  if (account.meter != nullptr) ++account.meter->generated_tokens;
}

void TenantAccounts::Update(std::span<const std::unique_ptr<RunningRequest>> running) {
  for (TenantAccount* account : active_) account->prompts = 0;
  for (const auto& request : running) {
    if (request->feeds_prompt()) ++request->accepted().account->prompts;
  }
  competitors_.clear();
  for (TenantAccount* account : active_) {
    const bool waits = DemandOf(*account).waits;
    competitors_.push_back(
        {.counter = &account->counter, .backlogged = waits || account->prompts > 0});
  }
  fair_share_.Update(competitors_);
}

void TenantAccounts::Report() {
  for (const TenantAccount* account : active_) {
    if (account->meter == nullptr) continue;
    account->meter->running_requests = account->requests;
    account->meter->waiting_requests = std::ssize(account->waiting);
  }
  std::erase_if(active_, [](TenantAccount* account) {
    const bool has_work = !account->waiting.empty() || account->requests > 0;
    account->active = has_work || account->counter.backlogged;
    return !account->active;
  });
}

double TenantAccounts::Held(const TenantAccount& account, std::int64_t slots,
                            std::int64_t pages) const {
  const double of_slots = static_cast<double>(slots) / static_cast<double>(num_slots_);
  const double of_pages =
      num_pages_ == 0 ? 0 : static_cast<double>(pages) / static_cast<double>(num_pages_);
  return std::max(of_slots, of_pages) / account.policy.weight;
}

TenantDemand TenantAccounts::DemandOf(const TenantAccount& account) const {
  TenantDemand demand;
  demand.service = account.counter.service;
  demand.held = Held(account, account.slots, account.pages);
  demand.waits =
      !account.waiting.empty() && account.requests < account.policy.max_running_requests;
  if (demand.waits) {
    demand.arrival = static_cast<std::uint64_t>(account.waiting.begin()->first.second);
  }
  return demand;
}

TenantAccount* TenantAccounts::Next() const {
  demands_.clear();
  for (const TenantAccount* account : active_) demands_.push_back(DemandOf(*account));
  const std::optional<std::size_t> next = NextTenant(demands_);
  return next.has_value() ? active_[*next] : nullptr;
}

Yield TenantAccounts::HasToYield(const TenantAccount& holder,
                                 const TenantAccount& newcomer, double slack) const {
  const RequestNeeds& needs = newcomer.waiting.begin()->second.accepted().needs;
  return goldfinch::HasToYield(
      DemandOf(holder), DemandOf(newcomer),
      Held(newcomer, newcomer.slots + needs.slots, newcomer.pages + needs.pages), slack);
}

}  // namespace goldfinch
