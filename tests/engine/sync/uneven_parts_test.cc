#include "engine/sync/uneven_parts.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <random>
#include <vector>

#include "engine/sync/thread_pool.h"
#include "gtest/gtest.h"

namespace goldfinch {
namespace {

// Groups of `parts` parts each, and the work of each part of a group.
UnevenParts PartsOf(std::int64_t parts, const std::vector<std::int64_t>& work) {
  UnevenParts all;
  all.Reserve(static_cast<std::int64_t>(work.size()));
  for (const std::int64_t each : work) all.Add(parts, each);
  return all;
}

// Threads that work at the same speed, and take pieces as those of a pool do.
struct Dealt {
  std::int64_t largest_piece = 0;  // its work
  std::int64_t end = 0;            // when the last thread is done
};
Dealt Deal(std::int64_t parts, const std::vector<std::int64_t>& work, int threads) {
  const UnevenParts all = PartsOf(parts, work);
  std::priority_queue<std::int64_t, std::vector<std::int64_t>, std::greater<>> free;
  for (int i = 0; i < threads; ++i) free.push(0);
  Dealt dealt;
  for (std::int64_t begin = 0; begin < all.work();) {
    const std::int64_t end =
        std::min(all.work(), begin + ThreadPool::PieceOf(all.work() - begin, 4, threads));
    std::int64_t piece = 0;
    for (std::int64_t i = all.FirstFrom(begin); i < all.FirstFrom(end); ++i)
      piece += work[static_cast<std::size_t>(i / parts)];
    const std::int64_t done = free.top() + piece;
    free.pop();
    free.push(done);
    dealt.largest_piece = std::max(dealt.largest_piece, piece);
    dealt.end = std::max(dealt.end, done);
    begin = end;
  }
  return dealt;
}

TEST(UnevenPartsTest, AnyCutHasEveryPartOnceAndInOrder) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const auto below = [&](unsigned n) {
      return static_cast<std::int64_t>(random() % n);
    };
    const std::int64_t parts = 1 + below(5);
    std::vector<std::int64_t> work;
    for (std::int64_t g = below(7); g >= 0; --g) work.push_back(1 + below(9));
    const UnevenParts all = PartsOf(parts, work);
    std::int64_t next = 0;
    for (std::int64_t begin = 0; begin < all.work();) {
      const std::int64_t end = std::min(all.work(), begin + 1 + below(12));
      const std::int64_t first = all.FirstFrom(begin), last = all.FirstFrom(end);
      ASSERT_EQ(first, next);
      ASSERT_LE(first, last);
      next = last;
      begin = end;
    }
    ASSERT_EQ(next, parts * static_cast<std::int64_t>(work.size()));
  }
}

TEST(UnevenPartsTest, EqualPartsAreCutAsTheirCountIs) {
  const UnevenParts all = PartsOf(12, std::vector<std::int64_t>(16, 5));
  for (std::int64_t i = 0; i <= 12 * 16; ++i) EXPECT_EQ(all.FirstFrom(i * 5), i);
}

TEST(UnevenPartsTest, NothingIsNoWorkAndClearedIsNothing) {
  UnevenParts all = PartsOf(3, {2, 8});
  EXPECT_EQ(all.work(), 30);
  all.Clear();
  EXPECT_EQ(all.work(), 0);
  EXPECT_EQ(all.FirstFrom(0), 0);
  all.Add(2, 4);
  EXPECT_EQ(all.FirstFrom(5), 2);
}

// A past of 100,000 tokens among 63 of 1,000, in heads: counted, most of its heads would
// be one piece, and 9 of 10 threads wait for that.
TEST(UnevenPartsTest, OneLongGroupAmongShortOnesIsNotOneThreads) {
  for (const int threads : {2, 4, 8, 16}) {
    for (const std::size_t at : {0, 31, 63}) {
      std::vector<std::int64_t> work(64, 1000);
      work[at] = 100'000;
      const std::int64_t share = 32 * (63 * 1000 + 100'000) / threads;
      const Dealt dealt = Deal(32, work, threads);
      EXPECT_LT(dealt.largest_piece, share) << threads << " threads, it is " << at;
      EXPECT_LT(dealt.end, share * 5 / 4) << threads << " threads, it is " << at;
    }
  }
}

}  // namespace
}  // namespace goldfinch
