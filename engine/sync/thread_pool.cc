#include "engine/sync/thread_pool.h"

#include <algorithm>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace goldfinch {
namespace {

// About 50 microseconds: longer than the gap between two loops of a step, far shorter
// than the gap between two requests.
constexpr int kSpins = 4000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // some tens of cycles, which `yield` is not
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, bool pin) {
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { Work(); });
  } catch (...) {
    Stop();
    throw;
  }
  if (pin) PinWorkers();
}

void ThreadPool::PinWorkers() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  if (workers_.empty() || CPU_COUNT(&allowed) != num_threads()) return;
  int cpu = -1;
  const auto next = [&] {
    do ++cpu;
    while (!CPU_ISSET(cpu, &allowed));
    return cpu;
  };
  next();  // the caller's
  pinned_ = true;
  for (std::thread& worker : workers_) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(next(), &one);
    const bool done =
        pthread_setaffinity_np(worker.native_handle(), sizeof one, &one) == 0;
    pinned_ = pinned_ && done;  // a refusal costs speed
  }
#endif
}

// After what they wait for has been set: see WaitForLoop.
void ThreadPool::WakeSleepers() {
  if (sleeping_.load() == 0) return;
  MutexLock lock(mu_);
  wake_.NotifyAll();
}

void ThreadPool::BeginStep() {
  in_step_.store(true);
  WakeSleepers();
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  {
    MutexLock lock(mu_);
    stop_.store(true);
    wake_.NotifyAll();
  }
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(std::int64_t count, std::int64_t grain, Call call,
                     const void* context) {
  call_ = call;
  context_ = context;
  count_ = count;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);
  WakeSleepers();
  TakePieces();
  for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins)
      Pause();
    else
      std::this_thread::yield();
  }
}

// Large pieces first, small ones last: neither a thread that the system holds up nor an
// uneven number of pieces leaves the others waiting for long.
std::int64_t ThreadPool::PieceOf(std::int64_t left, std::int64_t grain, int num_threads) {
  return std::max(grain, left / (2 * num_threads));
}

void ThreadPool::TakePieces() {
  std::int64_t begin = next_.load(std::memory_order_relaxed);
  while (begin < count_) {
    const std::int64_t piece = PieceOf(count_ - begin, grain_, num_threads());
    const std::int64_t end = std::min(begin + piece, count_);
    if (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
    call_(context_, begin, end);
    begin = next_.load(std::memory_order_relaxed);
  }
}

bool ThreadPool::WaitForLoop(std::uint64_t seen) {
  const auto called = [&] { return generation_.load() != seen || stop_.load(); };
  for (;;) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (generation_.load(std::memory_order_acquire) != seen) return true;
      if (stop_.load(std::memory_order_relaxed)) return false;
      Pause();
    }
    if (in_step_.load(std::memory_order_relaxed)) {
      // A long serial part of a step; the processor may have other work meanwhile.
      std::this_thread::yield();
      continue;
    }
    MutexLock lock(mu_);
    // Raised before anything is looked at again: Run and BeginStep set what they set
    // before they look here, so one of the two sees the other.
    sleeping_.fetch_add(1);
    while (!called() && !in_step_.load()) wake_.Wait(mu_);
    sleeping_.fetch_sub(1);
    if (called()) return generation_.load() != seen;
  }
}

void ThreadPool::Work() {
  for (std::uint64_t seen = 0; WaitForLoop(seen);) {
    seen = generation_.load(std::memory_order_acquire);
    TakePieces();
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace goldfinch
