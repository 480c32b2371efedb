#include "engine/cache/page_pool.h"

#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

using Pages = std::vector<std::int32_t>;

TEST(PagePoolTest, AllPagesAreFreeAtFirst) {
  PagePool pool(7);
  EXPECT_EQ(pool.num_pages(), 7);
  EXPECT_EQ(pool.used(), 0);
}

TEST(PagePoolTest, AllocationAppendsDistinctPages) {
  PagePool pool(7);
  Pages pages = {42};
  EXPECT_TRUE(pool.Allocate(3, pages));
  EXPECT_TRUE(pool.Allocate(4, pages));
  EXPECT_EQ(pages.size(), 8u);
  EXPECT_EQ(pages[0], 42);
  EXPECT_EQ(std::set(pages.begin() + 1, pages.end()),
            (std::set<std::int32_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(pool.used(), 7);
}

TEST(PagePoolTest, RefusedAllocationTakesNothing) {
  PagePool pool(3);
  Pages pages;
  ASSERT_TRUE(pool.Allocate(2, pages));
  EXPECT_FALSE(pool.Allocate(2, pages));
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_EQ(pool.used(), 2);
  EXPECT_TRUE(pool.Allocate(1, pages));
}

TEST(PagePoolTest, AllocationOfNothingAlwaysWorks) {
  PagePool pool(0);
  Pages pages;
  EXPECT_TRUE(pool.Allocate(0, pages));
  EXPECT_FALSE(pool.Allocate(1, pages));
  EXPECT_TRUE(pages.empty());
}

TEST(PagePoolTest, PageIsFreeOnceItsLastReferenceIsGone) {
  PagePool pool(1);
  Pages pages;
  ASSERT_TRUE(pool.Allocate(1, pages));
  pool.Ref(pages[0]);
  EXPECT_FALSE(pool.Unref(pages[0]));
  EXPECT_EQ(pool.used(), 1);
  EXPECT_TRUE(pool.Unref(pages[0]));
  EXPECT_EQ(pool.used(), 0);
}

TEST(PagePoolTest, PageUsedLastIsReusedFirst) {
  PagePool pool(10);
  Pages pages;
  ASSERT_TRUE(pool.Allocate(5, pages));
  pool.Unref(pages[3]);
  pool.Unref(pages[1]);
  Pages again;
  ASSERT_TRUE(pool.Allocate(2, again));
  EXPECT_EQ(again, (Pages{pages[1], pages[3]}));
}

TEST(PagePoolTest, MatchesAMapOfReferencesUnderRandomUse) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    constexpr std::int64_t kPages = 37;
    PagePool pool(kPages);
    std::map<std::int32_t, int> references;  // of pages in use
    std::mt19937_64 random(seed);
    const auto any_used = [&] {
      return std::next(references.begin(),
                       static_cast<std::int64_t>(random() % references.size()));
    };
    for (int step = 0; step < 20000; ++step) {
      if (references.empty() || random() % 4 == 0) {
        const auto count = static_cast<std::int64_t>(random() % 12);
        Pages pages;
        const bool fits = count <= kPages - static_cast<std::int64_t>(references.size());
        ASSERT_EQ(pool.Allocate(count, pages), fits);
        ASSERT_EQ(static_cast<std::int64_t>(pages.size()), fits ? count : 0);
        for (const std::int32_t page : pages) {
          ASSERT_TRUE(page >= 0 && page < kPages);
          ASSERT_TRUE(references.emplace(page, 1).second) << page << " was in use";
        }
      } else if (random() % 3 == 0) {
        const auto used = any_used();
        pool.Ref(used->first);
        ++used->second;
      } else {
        const auto used = any_used();
        const bool last = --used->second == 0;
        ASSERT_EQ(pool.Unref(used->first), last);
        if (last) references.erase(used);
      }
      ASSERT_EQ(pool.used(), static_cast<std::int64_t>(references.size()));
    }
  }
}

TEST(PagePoolDeathTest, ReleasingAFreePageDies) {
  PagePool pool(2);
  Pages pages;
  ASSERT_TRUE(pool.Allocate(1, pages));
  pool.Unref(pages[0]);
  EXPECT_DEATH(pool.Unref(pages[0]), "CHECK failed");
}

TEST(PagePoolDeathTest, SharingAFreePageDies) {
  PagePool pool(2);
  EXPECT_DEATH(pool.Ref(0), "CHECK failed");
}

}  // namespace
}  // namespace goldfinch
