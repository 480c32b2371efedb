#include "engine/sync/mutex.h"

#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

TEST(MutexTest, HoldersExcludeEachOther) {
  Mutex mu;
  int counter = 0;  // guarded by mu
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) {
        MutexLock lock(mu);
        ++counter;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter, 40000);
}

TEST(CondVarTest, WaiterSeesWhatWasWrittenBeforeTheNotification) {
  Mutex mu;
  CondVar changed;
  int turn = 0;  // guarded by mu; even: ours, odd: the other thread's
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) {
      MutexLock lock(mu);
      while (turn % 2 == 0) changed.Wait(mu);
      ++turn;
      changed.NotifyOne();
    }
  });
  for (int i = 0; i < 1000; ++i) {
    MutexLock lock(mu);
    while (turn % 2 != 0) changed.Wait(mu);
    ++turn;
    changed.NotifyOne();
  }
  other.join();
  EXPECT_EQ(turn, 2000);
}

TEST(CondVarTest, NotifyAllWakesEveryWaiter) {
  Mutex mu;
  CondVar changed;
  bool go = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 5; ++t) {
    threads.emplace_back([&] {
      MutexLock lock(mu);
      while (!go) changed.Wait(mu);
    });
  }
  {
    MutexLock lock(mu);
    go = true;
    changed.NotifyAll();
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(CondVarTest, WaitUntilEndsAtItsDeadlineWithTheMutexHeld) {
  Mutex mu;
  CondVar never;
  const steady_clock::time_point deadline = steady_clock::now() + milliseconds(5);
  mu.Lock();
  while (never.WaitUntil(mu, deadline)) {
  }
  EXPECT_GE(steady_clock::now(), deadline);
  std::thread other([&] { MutexLock lock(mu); });
  mu.Unlock();  // undefined, and reported by the thread sanitizer, if it were not held
  other.join();
}

TEST(CondVarTest, WaitUntilEndsEarlyWhenNotified) {
  Mutex mu;
  CondVar changed;
  bool go = false;
  std::thread other([&] {
    MutexLock lock(mu);
    go = true;
    changed.NotifyAll();
  });
  const steady_clock::time_point deadline = steady_clock::now() + std::chrono::hours(1);
  {
    MutexLock lock(mu);
    while (!go) EXPECT_TRUE(changed.WaitUntil(mu, deadline));
  }
  other.join();
}

}  // namespace
}  // namespace goldfinch
