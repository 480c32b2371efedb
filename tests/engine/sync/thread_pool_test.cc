#include "engine/sync/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

constexpr int kThreads[] = {1, 2, 3, 5};
// Longer than a worker spins before it sleeps.
constexpr std::chrono::milliseconds kUntilAsleep{3};

// Pieces of one loop, by whoever took them.
class Pieces {
 public:
  void Add(std::int64_t begin, std::int64_t end) {
    MutexLock lock(mu_);
    pieces_.insert({begin, end});
  }
  const std::set<std::pair<std::int64_t, std::int64_t>>& get() const { return pieces_; }

 private:
  Mutex mu_;
  std::set<std::pair<std::int64_t, std::int64_t>> pieces_;
};

TEST(ThreadPoolTest, NumberOfThreadsCountsTheCaller) {
  for (const int threads : kThreads)
    EXPECT_EQ(ThreadPool(threads).num_threads(), threads);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they take it all
// A process of its own, with room for some stacks and not for a thousand.
TEST(ThreadPoolDeathTest, WhatTheSystemDoesNotStartIsThrown) {
  const auto start = [] {
    const rlimit limit{.rlim_cur = 512 << 20, .rlim_max = 512 << 20};
    setrlimit(RLIMIT_AS, &limit);
    try {
      const ThreadPool pool(1000);
    } catch (const std::system_error&) {
      _exit(0);
    }
    _exit(1);
  };
  EXPECT_EXIT(start(), testing::ExitedWithCode(0), "");
}
#endif

TEST(ThreadPoolTest, EveryIndexIsTakenOnceInPiecesOfAtLeastTheGrain) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {1, 2, 3, 5, 16, 17, 97, 1000, 4099}) {
      for (const std::int64_t grain : {1, 2, 7, 16, 96, 100000}) {
        Pieces pieces;
        pool.ParallelFor(count, grain,
                         [&](auto begin, auto end) { pieces.Add(begin, end); });
        std::int64_t next = 0;
        for (const auto& [begin, end] : pieces.get()) {
          ASSERT_EQ(begin, next) << count << " by " << grain << " on " << threads;
          ASSERT_GT(end, begin);
          ASSERT_TRUE(end == count || end - begin >= grain);
          next = end;
        }
        ASSERT_EQ(next, count);
      }
    }
  }
}

TEST(ThreadPoolTest, LoopOverNothingCallsNothing) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    pool.ParallelFor(0, 1, [](auto, auto) { FAIL(); });
  }
}

TEST(ThreadPoolTest, LoopUpToTheGrainRunsOnTheCaller) {
  ThreadPool pool(3);
  for (int i = 0; i < 100; ++i) {
    pool.ParallelFor(8, 8, [](auto begin, auto end) {
      EXPECT_EQ(begin, 0);
      EXPECT_EQ(end, 8);
    });
    std::thread::id runner;
    pool.ParallelFor(8, 8, [&](auto, auto) { runner = std::this_thread::get_id(); });
    EXPECT_EQ(runner, std::this_thread::get_id());
  }
}

// Not atomic: the thread sanitizer reports it if a loop returns before its writes are
// the caller's, or starts before the caller's are its own.
TEST(ThreadPoolTest, CallerAndLoopSeeEachOthersWrites) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    std::vector<std::int64_t> values(257, 0);
    std::int64_t step = 0;
    for (int i = 0; i < 300; ++i) {
      ++step;
      pool.ParallelFor(257, 1, [&](auto begin, auto end) {
        for (auto j = begin; j < end; ++j) values[static_cast<std::size_t>(j)] += step;
      });
      for (const std::int64_t value : values) ASSERT_EQ(value, step * (step + 1) / 2);
    }
  }
}

TEST(ThreadPoolTest, ManyTinyLoopsAllFinish) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    std::atomic<std::int64_t> taken{0};
    for (int i = 0; i < 2000; ++i)
      pool.ParallelFor(1 + i % 7, 1, [&](auto begin, auto end) { taken += end - begin; });
    std::int64_t want = 0;
    for (int i = 0; i < 2000; ++i) want += 1 + i % 7;
    EXPECT_EQ(taken.load(), want);
  }
}

// Around the moment at which workers give up spinning, loops must still wake them.
TEST(ThreadPoolTest, WorkersWakeFromAnySleep) {
  ThreadPool pool(3);
  for (int i = 0; i < 150; ++i) {
    std::atomic<int> taken{0};
    pool.ParallelFor(
        64, 1, [&](auto begin, auto end) { taken += static_cast<int>(end - begin); });
    EXPECT_EQ(taken.load(), 64);
    std::this_thread::sleep_for(std::chrono::microseconds(i * 4));
  }
  std::this_thread::sleep_for(kUntilAsleep);
  std::atomic<int> taken{0};
  pool.ParallelFor(64, 1,
                   [&](auto begin, auto end) { taken += static_cast<int>(end - begin); });
  EXPECT_EQ(taken.load(), 64);
}

// Within a step workers do not sleep, so a loop after a long serial part finds them;
// after it they do, and the next step wakes them before its first loop.
TEST(ThreadPoolTest, StepsWithAndWithoutGapsRunEveryLoop) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    for (int step = 0; step < 6; ++step) {
      if (step % 2 == 0) std::this_thread::sleep_for(kUntilAsleep);
      pool.BeginStep();
      for (int loop = 0; loop < 5; ++loop) {
        if (loop == 3) std::this_thread::sleep_for(kUntilAsleep);
        std::atomic<std::int64_t> taken{0};
        pool.ParallelFor(64, 1, [&](auto begin, auto end) { taken += end - begin; });
        EXPECT_EQ(taken.load(), 64);
      }
      pool.EndStep();
    }
  }
}

TEST(ThreadPoolTest, PoolMayEndWithinAStep) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    pool.BeginStep();
    std::this_thread::sleep_for(kUntilAsleep);
  }
}

#if defined(__linux__)
TEST(ThreadPoolTest, WorkersArePinnedOnlyWhereThePoolHasEveryProcessor) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  const int cpus = CPU_COUNT(&allowed);
  EXPECT_FALSE(ThreadPool(cpus, /*pin=*/false).pinned());
  EXPECT_FALSE(ThreadPool(cpus + 1, /*pin=*/true).pinned());
  ThreadPool pool(cpus, /*pin=*/true);
  EXPECT_EQ(pool.pinned(), cpus > 1);
  // Workers each see one processor of their own, the caller still all of them.
  Mutex mu;
  std::map<std::thread::id, int> seen;
  std::atomic<int> begun{0};
  pool.ParallelFor(cpus, 1, [&](auto begin, auto end) {
    begun += static_cast<int>(end - begin);
    while (begun.load() < cpus) std::this_thread::yield();
    cpu_set_t now;
    ASSERT_EQ(sched_getaffinity(0, sizeof now, &now), 0);
    MutexLock lock(mu);
    seen[std::this_thread::get_id()] = CPU_COUNT(&now);
  });
  for (const auto& [id, count] : seen)
    EXPECT_EQ(count, id == std::this_thread::get_id() ? cpus : 1);
}
#endif

// A worker takes part: the caller waits inside its piece for the other's to begin.
TEST(ThreadPoolTest, LoopsRunOnTheWorkersToo) {
  ThreadPool pool(2);
  for (int i = 0; i < 20; ++i) {
    std::atomic<int> begun{0};
    pool.ParallelFor(2, 1, [&](auto, auto) {
      ++begun;
      while (begun.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(begun.load(), 2);
  }
}

TEST(ThreadPoolTest, PoolEndsBeforeAnyLoopAfterOneAndAsleep) {
  for (const int threads : kThreads) {
    for (int i = 0; i < 20; ++i) ThreadPool pool(threads);
    for (int i = 0; i < 20; ++i) {
      ThreadPool pool(threads);
      pool.ParallelFor(10, 1, [](auto, auto) {});
    }
    ThreadPool asleep(threads);
    std::this_thread::sleep_for(kUntilAsleep);
    ThreadPool asleep_after_a_loop(threads);
    asleep_after_a_loop.ParallelFor(10, 1, [](auto, auto) {});
    std::this_thread::sleep_for(kUntilAsleep);
  }
}

TEST(ThreadPoolTest, PoolsOfTwoCallersDoNotMeet) {
  const auto run = [](std::int64_t count) {
    ThreadPool pool(2);
    for (int i = 0; i < 300; ++i) {
      std::atomic<std::int64_t> taken{0};
      pool.ParallelFor(count, 1, [&](auto begin, auto end) { taken += end - begin; });
      ASSERT_EQ(taken.load(), count);
    }
  };
  std::thread other([&] { run(33); });
  run(65);
  other.join();
}

}  // namespace
}  // namespace goldfinch
