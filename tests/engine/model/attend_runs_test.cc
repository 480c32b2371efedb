// Runs against what they mean, written plainly: rows, and the tiles that each sees.
#include "engine/model/attend_runs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <random>
#include <span>
#include <vector>

namespace goldfinch {
namespace {

using testing::ElementsAre;
using List = std::vector<std::int32_t>;

class Plan {
 public:
  Plan(const std::vector<List>& lists, const List& row_list) : row_list_(row_list) {
    for (const List& list : lists) {
      tile_.insert(tile_.end(), list.begin(), list.end());
      begin_.push_back(static_cast<std::int32_t>(tile_.size()));
    }
    runs_.Build(begin_, tile_, row_list_);
  }

  // Tiles that a row reads, in the order of runs; checks where runs begin.
  List Read(std::int32_t row) const {
    List read;
    for (const AttendRun& run : runs_.runs()) {
      const auto rows =
          runs_.order().subspan(static_cast<std::size_t>(run.row_begin),
                                static_cast<std::size_t>(run.row_end - run.row_begin));
      if (std::ranges::count(rows, row) == 0) continue;
      EXPECT_EQ(run.first_chunk * KvTiles::kCutTiles, std::ssize(read));
      read.insert(read.end(), tile_.begin() + run.tile_begin,
                  tile_.begin() + run.tile_end);
    }
    return read;
  }
  // Of all runs, tiles that are read.
  std::int64_t NumRead() const {
    std::int64_t sum = 0;
    for (const AttendRun& run : runs_.runs()) sum += run.tile_end - run.tile_begin;
    return sum;
  }
  std::span<const AttendRun> runs() const { return runs_.runs(); }
  List order() const { return {runs_.order().begin(), runs_.order().end()}; }

 private:
  const List row_list_;
  List begin_ = {0}, tile_;
  AttendRuns runs_;
};

// `count` tiles from `first` on, behind `before`.
List Tiles(std::int32_t first, std::int32_t count, List before = {}) {
  for (std::int32_t i = 0; i < count; ++i) before.push_back(first + i);
  return before;
}

TEST(AttendRunsTest, ListsWithNothingInCommonAreRunsOfTheirOwn) {
  const Plan plan({Tiles(50, 3), Tiles(0, 20)}, {0, 1});
  ASSERT_EQ(plan.runs().size(), 2u);
  EXPECT_EQ(plan.Read(0), Tiles(50, 3));
  EXPECT_EQ(plan.Read(1), Tiles(0, 20));
}

TEST(AttendRunsTest, RowsOfAListAreTogether) {
  const Plan plan({Tiles(50, 3), Tiles(0, 20)}, {0, 1, 0, 1, 1});
  ASSERT_EQ(plan.runs().size(), 2u);
  EXPECT_THAT(plan.order(), ElementsAre(1, 3, 4, 0, 2));
  EXPECT_EQ(plan.NumRead(), 23);
}

TEST(AttendRunsTest, WhatListsBeginWithIsReadOnce) {
  const List common = Tiles(100, 16);
  const Plan plan({Tiles(0, 3, common), Tiles(7, 9), Tiles(20, 1, common), common},
                  {0, 1, 2, 3});
  EXPECT_EQ(plan.NumRead(), 16 + 3 + 9 + 1);
  EXPECT_EQ(plan.Read(0), Tiles(0, 3, common));
  EXPECT_EQ(plan.Read(1), Tiles(7, 9));
  EXPECT_EQ(plan.Read(2), Tiles(20, 1, common));
  EXPECT_EQ(plan.Read(3), common);
}

// A chunk is read by one block of a device for all its rows, so it is not cut.
TEST(AttendRunsTest, AChunkIsSharedWholeOrNotAtAll) {
  const List common = Tiles(100, 15);
  const Plan plan({Tiles(0, 3, common), Tiles(20, 1, common)}, {0, 1});
  EXPECT_EQ(plan.NumRead(), 8 + 10 + 8);
  EXPECT_EQ(plan.Read(0), Tiles(0, 3, common));
  EXPECT_EQ(plan.Read(1), Tiles(20, 1, common));
}

TEST(AttendRunsTest, ListsBranchOffWhereverTheyDo) {
  const List a = Tiles(0, 8), ab = Tiles(10, 8, a), abc = Tiles(20, 8, ab);
  const Plan plan(
      {Tiles(1000, 1, abc), Tiles(1001, 1, ab), Tiles(1002, 1, a), Tiles(1003, 1, abc)},
      {3, 2, 1, 0});
  EXPECT_EQ(plan.NumRead(), 3 * 8 + 4);
  EXPECT_EQ(plan.Read(0), Tiles(1003, 1, abc));
  EXPECT_EQ(plan.Read(1), Tiles(1002, 1, a));
  EXPECT_EQ(plan.Read(2), Tiles(1001, 1, ab));
  EXPECT_EQ(plan.Read(3), Tiles(1000, 1, abc));
}

// Padding: its rows are told that there is nothing.
TEST(AttendRunsTest, AListWithoutTilesIsAnEmptyRun) {
  const Plan plan({{}, Tiles(0, 1), {}}, {0, 1, 2});
  ASSERT_EQ(plan.runs().size(), 3u);
  EXPECT_EQ(plan.NumRead(), 1);
  std::vector<bool> seen(3);
  for (const AttendRun& run : plan.runs()) {
    EXPECT_EQ(run.row_end - run.row_begin, 1);
    seen[static_cast<std::size_t>(
        plan.order()[static_cast<std::size_t>(run.row_begin)])] = true;
  }
  EXPECT_THAT(seen, testing::Each(true));
}

TEST(AttendRunsTest, AListThatNoRowSeesIsNotRead) {
  const Plan plan({Tiles(0, 9), Tiles(20, 9)}, {1});
  ASSERT_EQ(plan.runs().size(), 1u);
  EXPECT_EQ(plan.Read(0), Tiles(20, 9));
  EXPECT_TRUE(Plan({}, {}).runs().empty());
}

TEST(AttendRunsTest, ItemsAreChunksOfUpToFourRows) {
  const Plan plan({Tiles(0, 17), Tiles(100, 8)}, {0, 0, 0, 0, 0, 1});
  ASSERT_EQ(plan.runs().size(), 2u);
  EXPECT_EQ(plan.runs()[0].first_item, 0);
  EXPECT_EQ(plan.runs()[1].first_item, 3 * 2);
}

// Random trees: each row reads its own list, parents come first, and a tile that lists
// share from the beginning is not read twice.
TEST(AttendRunsTest, AnyTreeIsReadInOrderAndOnce) {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::vector<List> lists(1 + random() % 12);
    std::int32_t next = 0;
    for (std::size_t i = 0; i < lists.size(); ++i) {
      List& list = lists[i];
      if (i > 0 && random() % 3 > 0) {
        const List& from = lists[random() % i];
        list.assign(from.begin(),
                    from.begin() + static_cast<std::ptrdiff_t>(
                                       from.empty() ? 0 : random() % from.size()));
      }
      list = Tiles(next, static_cast<std::int32_t>(random() % 30), list);
      next += 30;
    }
    List rows(1 + random() % 20);
    for (std::int32_t& row : rows)
      row = static_cast<std::int32_t>(random() % lists.size());
    const Plan plan(lists, rows);
    std::map<List, std::int64_t> chunks;  // by all that leads to it, its tiles
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const List& own = lists[static_cast<std::size_t>(rows[row])];
      EXPECT_EQ(plan.Read(static_cast<std::int32_t>(row)), own);
      for (std::size_t at = 0; at < own.size(); at += 8) {
        const std::size_t end = std::min(own.size(), at + 8);
        // One that is not whole may be another list's, too: each reads its own.
        List key(own.begin(), own.begin() + static_cast<std::ptrdiff_t>(end));
        if (end - at < 8) key.push_back(-1 - rows[row]);
        chunks[key] = static_cast<std::int64_t>(end - at);
      }
    }
    std::int64_t fewest = 0;
    for (const auto& [key, tiles] : chunks) fewest += tiles;
    EXPECT_EQ(plan.NumRead(), fewest) << seed;
  }
}

}  // namespace
}  // namespace goldfinch
