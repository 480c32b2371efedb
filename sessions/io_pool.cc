#include "sessions/io_pool.h"

#include <utility>

namespace goldfinch {

IoPool::IoPool(int num_threads) {
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

void IoPool::Post(std::function<void()> work) {
  {
    const MutexLock lock(mu_);
    queue_.push_back(std::move(work));
  }
  changed_.NotifyOne();
}

void IoPool::Run() {
  while (true) {
    std::function<void()> work;
    {
      const MutexLock lock(mu_);
      while (queue_.empty() && !stopping_) changed_.Wait(mu_);
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace goldfinch
