#include "sessions/io_pool.h"

#include <iterator>
#include <utility>

#include "engine/check.h"

namespace goldfinch {

void IoPool::Queue::Push(const std::string& tenant, std::function<void()> work) {
  std::deque<std::function<void()>>& mine = of_[tenant];
  if (mine.empty()) turns_.push_back(tenant);
  mine.push_back(std::move(work));
}

std::function<void()> IoPool::Queue::Pop() {
  std::string tenant = std::move(turns_.front());
  turns_.pop_front();
  const auto mine = of_.find(tenant);
  std::function<void()> work = std::move(mine->second.front());
  mine->second.pop_front();
  if (mine->second.empty()) {
    of_.erase(mine);
  } else {
    turns_.push_back(std::move(tenant));
  }
  return work;
}

std::int64_t IoPool::Queue::NumOf(const std::string& tenant) const {
  const auto mine = of_.find(tenant);
  return mine == of_.end() ? 0 : std::ssize(mine->second);
}

IoPool::IoPool(int num_threads)
    : max_calls_(num_threads - 1), max_background_(num_threads / 2) {
  GOLDFINCH_CHECK(num_threads >= 2);
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] { Run(); });
  }
}

IoPool::~IoPool() {
  {
    const MutexLock lock(mu_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void IoPool::Post(Urgency urgency, const std::string& tenant,
                  std::function<void()> work) {
  {
    const MutexLock lock(mu_);
    (urgency == Urgency::kCall ? calls_ : background_).Push(tenant, std::move(work));
  }
  changed_.NotifyOne();
}

std::int64_t IoPool::NumWaiting(const std::string& tenant) const {
  const MutexLock lock(mu_);
  return calls_.NumOf(tenant);
}

bool IoPool::MayBegin(Urgency urgency) const {
  // One thread is left to the background: what it moves out of memory makes room.
  if (urgency == Urgency::kCall) {
    return !calls_.empty() && running_calls_ < max_calls_;
  }
  return !background_.empty() && running_background_ < max_background_;
}

void IoPool::Run() {
  const MutexLock lock(mu_);
  while (true) {
    const bool call = MayBegin(Urgency::kCall);
    if (!call && !MayBegin(Urgency::kBackground)) {
      // Whoever is at work takes what is left.
      if (stopping_) return;
      changed_.Wait(mu_);
      continue;
    }
    std::function<void()> work = (call ? calls_ : background_).Pop();
    ++(call ? running_calls_ : running_background_);
    mu_.Unlock();
    work();
    work = nullptr;
    mu_.Lock();
    --(call ? running_calls_ : running_background_);
    changed_.NotifyOne();
  }
}

}  // namespace goldfinch
