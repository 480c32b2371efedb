#include "sessions/io_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace goldfinch {
namespace {

constexpr int kThreads = 4;
const std::string kTenant = "t";
constexpr auto kNever = std::chrono::seconds(60);  // what takes so long does not come

// Work that tells when it begins, and ends when it is let go; it may outlive this.
class Held {
 public:
  std::function<void()> Work() const {
    return [state = state_] {
      state->begun.set_value();
      state->let_go.get_future().wait();
    };
  }
  bool WaitUntilBegun() { return begins_.wait_for(kNever) == std::future_status::ready; }
  void LetGo() const { state_->let_go.set_value(); }

 private:
  struct State {
    std::promise<void> begun, let_go;
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  std::future<void> begins_ = state_->begun.get_future();
};

// Several of them, let go with this at the latest.
class HeldTogether {
 public:
  HeldTogether(IoPool& pool, Urgency urgency, int count) {
    for (int i = 0; i < count; ++i)
      pool.Post(urgency, kTenant, held_.emplace_back().Work());
  }
  ~HeldTogether() {
    for (const Held& one : held_) one.LetGo();
  }
  Held& operator[](std::size_t i) { return held_[i]; }

 private:
  std::deque<Held> held_;
};

// One after another, each posted when the one before has run: a thread that was free for
// one and then took something else is missed by the next.
void ExpectManyRun(IoPool& pool, Urgency urgency) {
  for (int i = 0; i < 50; ++i) {
    const auto ran = std::make_shared<std::promise<void>>();
    pool.Post(urgency, kTenant, [ran] { ran->set_value(); });
    ASSERT_EQ(ran->get_future().wait_for(kNever), std::future_status::ready) << i;
  }
}

TEST(IoPoolTest, WhatNobodyWaitsForHasHalfOfTheThreadsAtMost) {
  IoPool pool(kThreads);
  HeldTogether background(pool, Urgency::kBackground, 2 * kThreads);
  ASSERT_TRUE(background[kThreads / 2 - 1].WaitUntilBegun());
  ExpectManyRun(pool, Urgency::kCall);
  // The other half is free for calls at once.
  HeldTogether calls(pool, Urgency::kCall, kThreads / 2);
  for (std::size_t i = 0; i < kThreads / 2; ++i) ASSERT_TRUE(calls[i].WaitUntilBegun());
}

// What is moved out of memory is what calls wait for in the end.
TEST(IoPoolTest, CallsLeaveOneThreadToTheBackground) {
  IoPool pool(kThreads);
  HeldTogether calls(pool, Urgency::kCall, 2 * kThreads);
  ASSERT_TRUE(calls[kThreads - 2].WaitUntilBegun()) << "all others are theirs";
  ExpectManyRun(pool, Urgency::kBackground);
}

TEST(IoPoolTest, WhatACallWaitsForIsBegunFirst) {
  std::promise<Urgency> first;
  bool told = false;
  const auto tell = [&](Urgency urgency) {
    if (!std::exchange(told, true)) first.set_value(urgency);
  };
  IoPool pool(kThreads);
  HeldTogether calls(pool, Urgency::kCall, kThreads / 2);
  HeldTogether background(pool, Urgency::kBackground, kThreads / 2 - 1);
  Held leaving, call;
  pool.Post(Urgency::kBackground, kTenant, leaving.Work());
  ASSERT_TRUE(leaving.WaitUntilBegun());
  for (std::size_t i = 0; i < kThreads / 2; ++i) ASSERT_TRUE(calls[i].WaitUntilBegun());
  // All threads are taken. The next one to be free may do either, and only one is.
  pool.Post(Urgency::kBackground, kTenant, [&] { tell(Urgency::kBackground); });
  pool.Post(Urgency::kCall, kTenant, [&, work = call.Work()] {
    tell(Urgency::kCall);
    work();
  });
  leaving.LetGo();
  EXPECT_EQ(first.get_future().get(), Urgency::kCall);
  call.LetGo();
}

TEST(IoPoolTest, WorkOfOneUrgencyIsBegunInTheOrderItWasPosted) {
  for (const Urgency urgency : {Urgency::kCall, Urgency::kBackground}) {
    std::vector<int> order;
    {
      IoPool pool(2);  // one thread for each urgency
      for (int i = 0; i < 100; ++i)
        pool.Post(urgency, kTenant, [&order, i] { order.push_back(i); });
    }
    ASSERT_EQ(order.size(), 100u);
    EXPECT_TRUE(std::ranges::is_sorted(order));
  }
}

// However much one of them has posted before.
TEST(IoPoolTest, TenantsTakeTurns) {
  for (const Urgency urgency : {Urgency::kCall, Urgency::kBackground}) {
    std::string order;
    {
      IoPool pool(2);  // one thread for each urgency
      Held first;
      pool.Post(urgency, "a", first.Work());
      ASSERT_TRUE(first.WaitUntilBegun());
      const auto post = [&](const std::string& tenant, char name) {
        pool.Post(urgency, tenant, [&order, name] { order += name; });
      };
      for (const char name : {'1', '2', '3', '4', '5'}) post("a", name);
      for (const char name : {'x', 'y'}) post("b", name);
      post("c", 'z');
      EXPECT_EQ(pool.NumWaiting("a"), urgency == Urgency::kCall ? 5 : 0);
      first.LetGo();
    }
    EXPECT_EQ(order, "1xz2y345");
  }
}

TEST(IoPoolTest, WhatWasBegunDoesNotWait) {
  IoPool pool(2);
  HeldTogether calls(pool, Urgency::kCall, 3);
  ASSERT_TRUE(calls[0].WaitUntilBegun());
  EXPECT_EQ(pool.NumWaiting(kTenant), 2);
  EXPECT_EQ(pool.NumWaiting("another"), 0);
}

TEST(IoPoolTest, WhatIsLeftAtTheEndIsRun) {
  std::atomic<int> ran = 0;
  {
    IoPool pool(kThreads);
    HeldTogether background(pool, Urgency::kBackground, 2);
    for (int i = 0; i < 100; ++i) {
      pool.Post(i % 2 == 0 ? Urgency::kCall : Urgency::kBackground, kTenant,
                [&] { ++ran; });
    }
  }
  EXPECT_EQ(ran, 100);
}

}  // namespace
}  // namespace goldfinch
