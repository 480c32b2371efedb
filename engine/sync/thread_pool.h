// A fixed set of threads that run one parallel loop at a time, with the caller as one of
// them.
//
// A forward pass is hundreds of loops of a few microseconds each. Between BeginStep and
// EndStep workers never sleep: they spin, and after a while yield between looks. Outside
// they spin for the gap between two steps at most, then sleep on the condition variable.
//
// A pool that has a thread for every processor it may use can pin each worker to one of
// its own, the caller being left the first: there is nowhere better for them to go.
//
// Threads: one caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "engine/sync/mutex.h"

namespace goldfinch {

class ThreadPool {
 public:
  // `num_threads` counts the caller: 1 starts none. Throws std::system_error where the
  // system starts no more. Pins where `pin` and the threads are
  // as many as the processors; is without effect elsewhere.
  explicit ThreadPool(int num_threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }
  bool pinned() const { return pinned_; }

  // Loops follow one another closely from here on, until EndStep.
  void BeginStep();
  void EndStep() { in_step_.store(false, std::memory_order_relaxed); }

  // Calls body(begin, end) on pieces of [0, count), each of at least `grain` unless it
  // is the last, and returns when all are done. A count up to `grain` runs on the caller.
  template <typename Body>
  void ParallelFor(std::int64_t count, std::int64_t grain, const Body& body) {
    if (count <= 0) return;
    if (workers_.empty() || count <= grain) return body(std::int64_t{0}, count);
    Run(
        count, grain,
        [](const void* context, std::int64_t begin, std::int64_t end) {
          (*static_cast<const Body*>(context))(begin, end);
        },
        &body);
  }

  // How many of the `left` a thread that is done takes at once.
  static std::int64_t PieceOf(std::int64_t left, std::int64_t grain, int num_threads);

 private:
  using Call = void (*)(const void*, std::int64_t, std::int64_t);

  void Run(std::int64_t count, std::int64_t grain, Call call, const void* context);
  void Work();
  void TakePieces();
  void WakeSleepers();
  void PinWorkers();
  void Stop();
  // Waits for a loop newer than `seen`; false when the pool ends.
  bool WaitForLoop(std::uint64_t seen);

  // The loop being run: written before `generation_` is raised, read after.
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::int64_t count_ = 0;
  std::int64_t grain_ = 1;

  alignas(64) std::atomic<std::uint64_t> generation_{0};
  alignas(64) std::atomic<std::int64_t> next_{0};
  alignas(64) std::atomic<int> busy_{0};  // workers that have not finished the loop
  std::atomic<bool> in_step_{false};
  std::atomic<bool> stop_{false};
  Mutex mu_;
  CondVar wake_;
  std::atomic<int> sleeping_{0};
  std::vector<std::thread> workers_;
  bool pinned_ = false;
};

}  // namespace goldfinch
