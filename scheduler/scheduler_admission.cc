// The part of a step that gives memory to waiting requests, and takes it from running
// ones for tenants that were served less (admission.h).
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "scheduler/grant.h"
#include "scheduler/scheduler_impl.h"

namespace goldfinch {
namespace {

// Services may drift apart by so many steps full of prompt, and no more than so many
// tokens of it, before requests of one tenant are put aside for another that already
// holds its part. Each costs two copies of a state.
constexpr std::int64_t kSlackSteps = 4, kSlackTokens = 2048;

// A request that came back runs for so many steps before its tenant's excess can put it
// aside again.
constexpr std::uint64_t kMinTurn = 16;

}  // namespace

void Scheduler::Impl::AdmitWaiting(TimePoint now) {
  tenants_.Update(running_);
  while (TenantAccount* next = tenants_.Next()) {
    const Admission admission = AdmitFirst(*next, now);
    if (admission == Admission::kDone) continue;
    copying_ = copying_ || admission == Admission::kLater;
    if (admission == Admission::kLater || !PutAsideFor(*next)) break;
  }
}

Scheduler::Impl::Admission Scheduler::Impl::AdmitFirst(TenantAccount& account,
                                                       TimePoint now) {
  Waiting& first = account.waiting.begin()->second;
  // Before anything is looked up for it.
  const std::int64_t free = engine_.info().num_slots - engine_.usage().slots_used;
  if (free < (first.fresh != nullptr ? first.fresh->needs.slots : 1)) {
    return Admission::kNoRoom;
  }
  return first.fresh != nullptr ? AdmitFresh(account, first, now)
                                : AdmitAside(account, *first.aside, now);
}

Scheduler::Impl::Admission Scheduler::Impl::AdmitFresh(TenantAccount& account,
                                                       Waiting& first, TimePoint now) {
  const AcceptedRequest& accepted = *first.fresh;
  const AdmittedFrom from =
      FindBase(context_, accepted, options_.prefix_interval_tokens, first.lookup);
  const Grant grant = MakeRoom(context_, accepted, from);
  if (grant == Grant::kCopying) return Admission::kLater;
  if (grant == Grant::kNoRoom) return Admission::kNoRoom;
  absl::StatusOr<std::vector<SequenceId>> sequences =
      OpenSequences(context_, accepted, from);
  if (!sequences.ok()) return NotOpened(account, sequences.status(), now);
  inbox_->LeftQueue(accepted, Inbox::Left::kToRun);
  if (first.lookup.outcome != PrefixLookup::kNone) {
    observer_.OnPrefixLookup(first.lookup.outcome);
  }
  tenants_.Run(accepted);
  running_.push_back(std::make_unique<RunningRequest>(
      context_, tenants_.TakeFirst(account).fresh, from, *sequences, now));
  // Nothing of its prompt was left to run, and what it holds is for whoever waits behind.
  if (running_.back()->finished()) EndFinished(now);
  return Admission::kDone;
}

Scheduler::Impl::Admission Scheduler::Impl::AdmitAside(TenantAccount& account,
                                                       RunningRequest& aside,
                                                       TimePoint now) {
  const absl::StatusOr<Grant> grant = aside.Resume();
  if (!grant.ok()) return NotOpened(account, grant.status(), now);
  if (*grant == Grant::kCopying) return Admission::kLater;
  if (*grant == Grant::kNoRoom) return Admission::kNoRoom;
  tenants_.Run(aside.accepted());
  // Its reader may have made room meanwhile, and will not say so again.
  aside.UpdatePaused();
  aside.set_resumed_in(engine_step_);
  running_.push_back(tenants_.TakeFirst(account).aside);
  return Admission::kDone;
}

// The engine did not open what there was room for. The request only stays while something
// runs whose end will free memory; else it would wait for ever.
Scheduler::Impl::Admission Scheduler::Impl::NotOpened(TenantAccount& account,
                                                      const absl::Status& status,
                                                      TimePoint now) {
  observer_.OnEngineError(status);
  if (absl::IsResourceExhausted(status) && !running_.empty()) return Admission::kNoRoom;
  EndWaiting(tenants_.TakeFirst(account),
             absl::InternalError("the request could not be given its memory"),
             RunningRequest::Leaving::kEnded, now);
  return Admission::kDone;
}

// False when the first request of `newcomer` has to wait. What is put aside is enough for
// it, or nothing is.
bool Scheduler::Impl::PutAsideFor(TenantAccount& newcomer) {
  const std::vector<std::size_t> yielding = ThoseWhoYield(newcomer);
  for (const std::size_t i : yielding) {
    if (keeper_.copy_bytes_left() <= 0) {
      copying_ = true;
      break;
    }
    tenants_.Stop(running_[i]->accepted());
    running_[i]->PutAside();
    Queue({.fresh = nullptr, .aside = std::move(running_[i])});
  }
  std::erase(running_, nullptr);
  return !yielding.empty() && !copying_;
}

std::vector<std::size_t> Scheduler::Impl::ThoseWhoYield(TenantAccount& newcomer) {
  if (options_.aside_bytes == 0) return {};
  const RequestNeeds& needs = newcomer.waiting.begin()->second.accepted().needs;
  const EngineInfo& info = engine_.info();
  const EngineUsage usage = engine_.usage();
  std::int64_t slots = needs.slots - (info.num_slots - usage.slots_used);
  std::int64_t pages = needs.pages - (info.num_pages - usage.pages_open);
  if (info.num_pages == 0) pages = 0;
  // One that comes back gives up what it takes aside.
  const Waiting& first = newcomer.waiting.begin()->second;
  std::int64_t bytes = options_.aside_bytes - tenants_.aside_bytes() +
                       (first.aside != nullptr ? first.aside->BytesAside() : 0);
  std::vector<std::size_t> yielding;
  while (slots > 0 || pages > 0) {
    const std::optional<std::size_t> next = NextToYield(newcomer, yielding, bytes);
    if (!next.has_value()) break;
    yielding.push_back(*next);
    const RunningRequest& request = *running_[*next];
    bytes -= request.BytesAside();
    slots -= request.num_open_sequences();
    pages -= request.accepted().needs.pages;
    tenants_.Stop(request.accepted());  // for the moment: it holds less
  }
  for (const std::size_t i : yielding) tenants_.Run(running_[i]->accepted());
  if (slots > 0 || pages > 0) yielding.clear();
  return yielding;
}

// Of the most served tenant that has to: a request that is paused, of the lowest
// priority, the newest, of those that take no more than `bytes` aside.
std::optional<std::size_t> Scheduler::Impl::NextToYield(
    const TenantAccount& newcomer, std::span<const std::size_t> yielding,
    std::int64_t bytes) const {
  std::optional<std::size_t> next;
  const auto order = [this](std::size_t i) {
    const RunningRequest& request = *running_[i];
    const AcceptedRequest& accepted = request.accepted();
    return std::tuple(accepted.account->counter.service, request.paused(),
                      -accepted.request.priority, accepted.id);
  };
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const RunningRequest& request = *running_[i];
    const TenantAccount& holder = *request.accepted().account;
    if (&holder == &newcomer || request.finished() || !request.CanBePutAside() ||
        std::ranges::count(yielding, i) > 0) {
      continue;
    }
    const double slack =
        kPromptTokenService *
        static_cast<double>(std::min(kSlackSteps * step_tokens_, kSlackTokens)) /
        std::min(holder.policy.weight, newcomer.policy.weight);
    const Yield yield = tenants_.HasToYield(holder, newcomer, slack);
    if (yield == Yield::kNo) continue;
    const bool just_back = request.resumed_in().has_value() &&
                           engine_step_ - *request.resumed_in() < kMinTurn;
    if (yield == Yield::kExcess && just_back) continue;
    if (request.BytesAside() > bytes) continue;
    if (!next.has_value() || order(i) > order(*next)) next = i;
  }
  return next;
}

}  // namespace goldfinch
