#include "scheduler/inbox.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
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

}  // namespace

absl::StatusOr<RequestId> Inbox::Add(std::unique_ptr<AcceptedRequest> accepted) {
  const std::int64_t tokens = std::ssize(accepted->request.prompt);
  MutexLock lock(mu_);
  if (closed_) return absl::UnavailableError("the server is shutting down");
  if (waiting_requests_ >= limits_.requests) {
    return absl::ResourceExhaustedError(absl::StrCat(
        waiting_requests_, " requests are waiting; the limit is ", limits_.requests));
  }
  if (waiting_requests_ > 0 && tokens > limits_.tokens - waiting_tokens_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(waiting_tokens_, " prompt tokens are waiting and this prompt has ",
                     tokens, "; the limit is ", limits_.tokens));
  }
  TenantQueue& tenant = tenants_[accepted->request.tenant];
  if (absl::Status status = CheckTenant(tenant, *accepted); !status.ok()) return status;
  ++waiting_requests_;
  waiting_tokens_ += tokens;
  ++tenant.requests;
  tenant.tokens += tokens;
  tenant.spent_until = std::max(tenant.spent_until, accepted->submitted) +
                       TimeOf(tokens, accepted->policy);
  const RequestId id{++last_id_};
  accepted->id = id;
  contents_.submitted.push_back(std::move(accepted));
  woken_ = true;
  changed_.NotifyOne();
  return id;
}

absl::Status Inbox::CheckTenant(const TenantQueue& queue,
                                const AcceptedRequest& accepted) const {
  const TenantPolicy& policy = accepted.policy;
  const std::int64_t tokens = std::ssize(accepted.request.prompt);
  if (queue.requests >= policy.max_queued_requests) {
    return absl::ResourceExhaustedError(absl::StrCat(
        queue.requests, " requests of this tenant are waiting; the limit is ",
        policy.max_queued_requests));
  }
  if (queue.requests > 0 && tokens > policy.max_queued_tokens - queue.tokens) {
    return absl::ResourceExhaustedError(absl::StrCat(
        queue.tokens, " prompt tokens of this tenant are waiting and this prompt has ",
        tokens, "; the limit is ", policy.max_queued_tokens));
  }
  const auto ahead = queue.spent_until - accepted.submitted;
  if (ahead < kRatePeriod) return absl::OkStatus();
  return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                            "this tenant's tokens per minute are used up; the limit is ",
                            policy.max_tokens_per_minute)),
                        ahead - kRatePeriod);
}

void Inbox::Generated(const std::string& tenant, const TenantPolicy& policy,
                      std::int64_t tokens, TimePoint now) {
  MutexLock lock(mu_);
  TenantQueue& queue = tenants_[tenant];
  queue.spent_until = std::max(queue.spent_until, now) + TimeOf(tokens, policy);
}

void Inbox::Cancel(RequestId id) {
  MutexLock lock(mu_);
  if (closed_) return;  // everything ends anyway
  contents_.cancelled.push_back(id);
  woken_ = true;
  changed_.NotifyOne();
}

void Inbox::Interrupt(RequestId id) {
  MutexLock lock(mu_);
  if (closed_) return;  // everything is interrupted anyway
  contents_.interrupted.push_back(id);
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
  return std::exchange(contents_, {});
}

void Inbox::LeftQueue(const AcceptedRequest& accepted, Left why) {
  const std::int64_t tokens = std::ssize(accepted.request.prompt);
  MutexLock lock(mu_);
  --waiting_requests_;
  waiting_tokens_ -= tokens;
  TenantQueue& tenant = tenants_[accepted.request.tenant];
  --tenant.requests;
  tenant.tokens -= tokens;
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
