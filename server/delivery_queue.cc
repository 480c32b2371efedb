#include "server/delivery_queue.h"

#include <utility>

namespace goldfinch {

DeliveryQueue::DeliveryQueue() : thread_([this] { Run(); }) {}

DeliveryQueue::~DeliveryQueue() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void DeliveryQueue::Post(std::function<void()> work) {
  {
    MutexLock lock(mu_);
    queue_.push_back(std::move(work));
  }
  changed_.NotifyOne();
}

void DeliveryQueue::Run() {
  while (true) {
    std::deque<std::function<void()>> batch;
    {
      MutexLock lock(mu_);
      while (queue_.empty() && !stopping_) changed_.Wait(mu_);
      if (queue_.empty()) return;
      batch.swap(queue_);
    }
    for (std::function<void()>& work : batch) work();
  }
}

}  // namespace goldfinch
