#include "sessions/io_pool.h"

#include <utility>

namespace goldfinch {

IoPool::IoPool(int num_threads) : max_background_(num_threads / 2) {
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
  if (urgency == Urgency::kCall) return !calls_.empty();
  return !background_.empty() && running_background_ < max_background_;
}

void IoPool::Run() {
  const MutexLock lock(mu_);
  while (true) {
    const bool call = MayBegin(Urgency::kCall);
    if (!call && !MayBegin(Urgency::kBackground)) {
      // Whoever runs the rest of the background takes what is left there.
      if (stopping_) return;
      changed_.Wait(mu_);
      continue;
    }
    std::deque<std::function<void()>>& queue = call ? calls_ : background_;
    std::function<void()> work = std::move(queue.front());
    queue.pop_front();
    if (!call) ++running_background_;
    mu_.Unlock();
    work();
    work = nullptr;
    mu_.Lock();
    if (!call) --running_background_;
  }
}

}  // namespace goldfinch
