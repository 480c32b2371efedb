#include "server/open_calls.h"

#include <vector>

namespace goldfinch {

bool OpenCalls::Enter(const std::shared_ptr<OpenCall>& call) {
  MutexLock lock(mu_);
  if (closed_) return false;
  calls_.insert(call);
  return true;
}

void OpenCalls::Leave(const std::shared_ptr<OpenCall>& call) {
  MutexLock lock(mu_);
  calls_.erase(call);
  // Under the lock: the waiter may destroy this as soon as it sees the set empty.
  changed_.NotifyAll();
}

void OpenCalls::Close() {
  MutexLock lock(mu_);
  closed_ = true;
}

bool OpenCalls::closed() const {
  MutexLock lock(mu_);
  return closed_;
}

std::size_t OpenCalls::size() const {
  const MutexLock lock(mu_);
  return calls_.size();
}

bool OpenCalls::WaitUntilEmpty(std::chrono::steady_clock::time_point deadline,
                               Waiting waiting) {
  MutexLock lock(mu_);
  while (!calls_.empty() && (waiting == Waiting::kAnyway || !interrupted_)) {
    if (!changed_.WaitUntil(mu_, deadline)) break;
  }
  return calls_.empty();
}

void OpenCalls::Interrupt() {
  MutexLock lock(mu_);
  interrupted_ = true;
  changed_.NotifyAll();
}

void OpenCalls::CutOffStuck(TimePoint since) {
  std::vector<std::shared_ptr<OpenCall>> calls;
  {
    MutexLock lock(mu_);
    calls.assign(calls_.begin(), calls_.end());
  }
  for (const std::shared_ptr<OpenCall>& call : calls) call->CutOffIfStuck(since);
}

}  // namespace goldfinch
