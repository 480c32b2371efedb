#include "sessions/io_pool.h"

#include <utility>

namespace goldfinch {

IoPool::IoPool(int num_threads)
    : max_calls_(num_threads - 1), max_background_(num_threads / 2) {
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

void IoPool::Post(Urgency urgency, std::function<void()> work) {
  {
    const MutexLock lock(mu_);
    (urgency == Urgency::kCall ? calls_ : background_).push_back(std::move(work));
  }
  changed_.NotifyOne();
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
    std::deque<std::function<void()>>& queue = call ? calls_ : background_;
    std::function<void()> work = std::move(queue.front());
    queue.pop_front();
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
