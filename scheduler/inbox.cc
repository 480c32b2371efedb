#include "scheduler/inbox.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "scheduler/needs.h"
#include "scheduler/retry_after.h"

namespace goldfinch {
namespace {

constexpr auto kRatePeriod = std::chrono::minutes(1);

// How long a tenant's rate needs to bring so many tokens.
std::chrono::nanoseconds TimeOf(std::int64_t tokens, const TenantPolicy& policy) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(kRatePeriod) * static_cast<double>(tokens) /
      static_cast<double>(policy.max_tokens_per_minute));
}

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

absl::StatusOr<RequestId> Inbox::Add(std::unique_ptr<AcceptedRequest> accepted) {
  const std::int64_t tokens = TokensToFeed(accepted->request);
  MutexLock lock(mu_);
  if (closed_) return absl::UnavailableError("the server is shutting down");
  absl::Status status = CheckRoom("", waiting_, limits_, tokens);
  if (!status.ok()) return status;
  Tenant& tenant = tenants_[accepted->request.tenant];
  status = CheckTenant(tenant, *accepted);
  if (!status.ok()) return status;
  waiting_.Count(tokens, +1);
  tenant.waiting.Count(tokens, +1);
  tenant.spent_until = std::max(tenant.spent_until, accepted->submitted) +
                       TimeOf(tokens, accepted->policy);
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

void Inbox::Generated(const std::string& tenant, const TenantPolicy& policy,
                      std::int64_t tokens, TimePoint now) {
  MutexLock lock(mu_);
  TimePoint& spent_until = tenants_[tenant].spent_until;
  spent_until = std::max(spent_until, now) + TimeOf(tokens, policy);
}

void Inbox::Cancel(RequestId id) {
  MutexLock lock(mu_);
  if (closed_) return;  // everything ends anyway
  contents_.cancelled.push_back(id);
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
  Tenant& tenant = tenants_[accepted.request.tenant];
  tenant.waiting.Count(tokens, -1);
  if (why == Left::kUnserved) tenant.spent_until -= TimeOf(tokens, accepted.policy);
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
