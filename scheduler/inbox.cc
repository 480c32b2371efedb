#include "scheduler/inbox.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "scheduler/needs.h"
#include "scheduler/retry_after.h"

namespace goldfinch {
namespace {

constexpr auto kRatePeriod = std::chrono::minutes(1);

// What is owed is known for no longer, so that time is a number that can be added to.
constexpr std::chrono::duration<double> kLongestDebt = std::chrono::years(10);

// Whether a request of `tokens` may join what waits, `whose` it all is.
absl::Status CheckRoom(const char* whose, const Inbox::Load& waiting,
                       const Inbox::Limits& limits, std::int64_t tokens) {
  if (waiting.requests >= limits.requests) {
    return absl::ResourceExhaustedError(absl::StrCat(waiting.requests, " requests", whose,
                                                     " are waiting; the limit is ",
                                                     limits.requests));
  }
  if (waiting.requests > 0 && tokens > limits.tokens - waiting.tokens) {
    return absl::ResourceExhaustedError(absl::StrCat(
        waiting.tokens, " prompt tokens", whose, " are waiting and this request has ",
        tokens, "; the limit is ", limits.tokens));
  }
  return absl::OkStatus();
}

}  // namespace

// What is owed beyond a minute's worth is tokens, and takes the time that the new rate
// needs for them. What was used of a minute's worth is tokens as well, but never more
// than a minute of the new rate: at the old one it was no debt.
void Inbox::Tenant::SetRate(std::int64_t new_rate, TimePoint now) {
  if (new_rate == tokens_per_minute) return;
  const double slower =
      static_cast<double>(tokens_per_minute) / static_cast<double>(new_rate);
  const std::chrono::duration<double> minute = kRatePeriod;
  const std::chrono::duration<double> spent = std::max(spent_until, now) - now;
  const auto used = std::min(spent, minute) * std::min(slower, 1.0);
  const auto owed = std::max(spent - minute, minute.zero()) * slower;
  spent_until = now + std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::min(used + owed, kLongestDebt));
  tokens_per_minute = new_rate;
}

std::chrono::nanoseconds Inbox::Tenant::TimeOf(std::int64_t tokens) const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(kRatePeriod) * static_cast<double>(tokens) /
      static_cast<double>(tokens_per_minute));
}

absl::StatusOr<RequestId> Inbox::Add(std::unique_ptr<AcceptedRequest> accepted) {
  const std::int64_t tokens = TokensToFeed(accepted->request);
  MutexLock lock(mu_);
  if (closed_ || interrupted_all_) return ShuttingDown();
  absl::Status status = CheckRoom("", waiting_, limits_, tokens);
  if (!status.ok()) return status;
  Tenant& tenant = tenants_[accepted->request.tenant];
  tenant.SetRate(accepted->policy.max_tokens_per_minute, accepted->submitted);
  status = CheckTenant(tenant, *accepted);
  if (!status.ok()) return status;
  waiting_.Count(tokens, +1);
  tenant.waiting.Count(tokens, +1);
  tenant.spent_until =
      std::max(tenant.spent_until, accepted->submitted) + tenant.TimeOf(tokens);
  const RequestId id{++last_id_};
  accepted->id = id;
  contents_.submitted.push_back(std::move(accepted));
  woken_ = true;
  changed_.NotifyOne();
  return id;
}

absl::Status Inbox::CheckTenant(const Tenant& tenant,
                                const AcceptedRequest& accepted) const {
  const TenantPolicy& policy = accepted.policy;
  const absl::Status status = CheckRoom(
      " of this tenant", tenant.waiting,
      {.requests = policy.max_queued_requests, .tokens = policy.max_queued_tokens},
      TokensToFeed(accepted.request));
  if (!status.ok()) return status;
  const auto ahead = tenant.spent_until - accepted.submitted;
  if (ahead < kRatePeriod) return absl::OkStatus();
  return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                            "this tenant's tokens per minute are used up; the limit is ",
                            policy.max_tokens_per_minute)),
                        ahead - kRatePeriod);
}

Inbox::Tenant& Inbox::Known(const std::string& name) {
  const auto tenant = tenants_.find(name);
  GOLDFINCH_CHECK(tenant != tenants_.end());
  return tenant->second;
}

void Inbox::Generated(std::span<const GeneratedTokens> of_tenants, TimePoint now) {
  MutexLock lock(mu_);
  for (const auto& [tenant, tokens] : of_tenants) {
    Tenant& spender = Known(*tenant);
    spender.spent_until = std::max(spender.spent_until, now) + spender.TimeOf(tokens);
  }
}

void Inbox::Cancel(RequestId id, absl::Status status) {
  MutexLock lock(mu_);
  if (closed_) return;  // everything ends anyway
  contents_.cancelled.emplace_back(id, std::move(status));
  woken_ = true;
  changed_.NotifyOne();
}

void Inbox::Interrupt(RequestId id, absl::Status status) {
  MutexLock lock(mu_);
  if (closed_) return;  // everything is interrupted anyway
  contents_.interrupted.emplace_back(id, std::move(status));
  woken_ = true;
  changed_.NotifyOne();
}

void Inbox::InterruptAll() {
  MutexLock lock(mu_);
  if (closed_) return;
  interrupted_all_ = true;
  contents_.interrupt_all = true;
  woken_ = true;
  changed_.NotifyOne();
}

bool Inbox::Post(std::function<void()> task) {
  MutexLock lock(mu_);
  if (closed_) return false;
  contents_.tasks.push_back(std::move(task));
  woken_ = true;
  changed_.NotifyOne();
  return true;
}

void Inbox::Wake() {
  MutexLock lock(mu_);
  room_made_ = true;
  woken_ = true;
  changed_.NotifyOne();
}

void Inbox::WakeIfIdle() {
  MutexLock lock(mu_);
  woken_ = true;
  changed_.NotifyOne();
}

void Inbox::Close() {
  MutexLock lock(mu_);
  closed_ = true;
  changed_.NotifyAll();
}

bool Inbox::closed() const {
  MutexLock lock(mu_);
  return closed_;
}

Inbox::Contents Inbox::TakeAll() {
  MutexLock lock(mu_);
  room_made_ = false;
  return std::exchange(contents_, {});
}

bool Inbox::HasNews() const {
  MutexLock lock(mu_);
  return closed_ || room_made_ || contents_.interrupt_all ||
         !contents_.submitted.empty() || !contents_.cancelled.empty() ||
         !contents_.interrupted.empty() || !contents_.tasks.empty();
}

void Inbox::LeftQueue(const AcceptedRequest& accepted, Left why) {
  const std::int64_t tokens = TokensToFeed(accepted.request);
  MutexLock lock(mu_);
  waiting_.Count(tokens, -1);
  Tenant& tenant = Known(accepted.request.tenant);
  tenant.waiting.Count(tokens, -1);
  if (why == Left::kUnserved) tenant.spent_until -= tenant.TimeOf(tokens);
}

void Inbox::Wait(std::optional<TimePoint> until) {
  MutexLock lock(mu_);
  while (!woken_ && !closed_) {
    if (!until) {
      changed_.Wait(mu_);
    } else if (!changed_.WaitUntil(mu_, *until)) {
      break;
    }
  }
  woken_ = false;
}

}  // namespace goldfinch
