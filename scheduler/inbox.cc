#include "scheduler/inbox.h"

#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace goldfinch {

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
  ++waiting_requests_;
  waiting_tokens_ += tokens;
  const RequestId id{++last_id_};
  accepted->id = id;
  contents_.submitted.push_back(std::move(accepted));
  woken_ = true;
  changed_.NotifyOne();
  return id;
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

void Inbox::LeftQueue(std::int64_t prompt_tokens) {
  MutexLock lock(mu_);
  --waiting_requests_;
  waiting_tokens_ -= prompt_tokens;
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
