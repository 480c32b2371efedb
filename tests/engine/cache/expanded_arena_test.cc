#include "engine/cache/expanded_arena.h"

#include <algorithm>
#include <cstdint>
#include <list>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

TEST(ExpandedArenaTest, PageKeepsItsFrameAndRowsWhileThereIsRoom) {
  ExpandedArena arena(3, 10);
  const std::int32_t frame = arena.Acquire(7);
  EXPECT_EQ(arena.filled(frame), 0);
  arena.set_filled(frame, 5);
  arena.BeginStep();
  EXPECT_NE(arena.Acquire(2), frame);
  EXPECT_EQ(arena.Acquire(7), frame);
  EXPECT_EQ(arena.filled(frame), 5);
  EXPECT_EQ(arena.used(), 2);
  EXPECT_EQ(arena.evictions(), 0);
}

TEST(ExpandedArenaTest, LeastRecentlyUsedPageIsEvicted) {
  ExpandedArena arena(3, 10);
  const std::int32_t first = arena.Acquire(0), second = arena.Acquire(1);
  arena.Acquire(2);
  arena.set_filled(second, 9);
  arena.BeginStep();
  EXPECT_EQ(arena.Acquire(0), first);
  EXPECT_EQ(arena.Acquire(3), second);
  EXPECT_EQ(arena.filled(second), 0);
  EXPECT_EQ(arena.evictions(), 1);
  EXPECT_EQ(arena.used(), 3);
}

TEST(ExpandedArenaTest, ReservedPagesCountOnceAndFindFrames) {
  ExpandedArena arena(4, 10);
  for (const std::int32_t page : {0, 1, 2, 3}) arena.Acquire(page);
  arena.BeginStep();
  const std::vector<std::int32_t> first = {0, 5}, second = {5, 6, 0}, third = {7, 8};
  EXPECT_TRUE(arena.Reserve(first));
  EXPECT_TRUE(arena.Reserve(second));
  // All or nothing: its one page that would fit is not reserved.
  EXPECT_FALSE(arena.Reserve(third));
  EXPECT_TRUE(arena.Reserve(std::vector<std::int32_t>{9}));
  const std::int64_t hits = arena.hits();
  for (const std::int32_t page : {5, 6, 9}) EXPECT_GE(arena.Acquire(page), 0);
  EXPECT_GE(arena.Find(0), 0);
  EXPECT_EQ(arena.Find(1) + arena.Find(2) + arena.Find(3), -3);
  EXPECT_EQ(arena.Acquire(7), -1);
  EXPECT_EQ(arena.hits(), hits);
  // Of this step only.
  arena.BeginStep();
  EXPECT_TRUE(arena.Reserve(third));
  EXPECT_FALSE(arena.Reserve(std::vector<std::int32_t>{0, 1, 2}));
}

TEST(ExpandedArenaTest, WithoutFramesNothingIsReserved) {
  ExpandedArena arena(0, 10);
  EXPECT_FALSE(arena.Reserve(std::vector<std::int32_t>{1}));
  EXPECT_TRUE(arena.Reserve({}));
}

TEST(ExpandedArenaTest, KeepingIsUseThatNobodyCounts) {
  ExpandedArena arena(2, 10);
  const std::int32_t first = arena.Acquire(0);
  arena.Acquire(1);
  EXPECT_EQ(arena.Find(0), first);
  EXPECT_EQ(arena.Find(5), -1);
  arena.BeginStep();
  arena.Keep(first);
  arena.Acquire(2);  // in the place of page 1
  EXPECT_EQ(arena.Find(0), first);
  EXPECT_EQ(arena.Find(1), -1);
  EXPECT_EQ(arena.Acquire(3), -1);
  EXPECT_EQ(arena.hits(), 0);
  EXPECT_EQ(arena.misses(), 4);
}

TEST(ExpandedArenaTest, FrameUsedInThisStepIsNeverEvicted) {
  ExpandedArena arena(2, 10);
  const std::int32_t frame = arena.Acquire(0);
  arena.BeginStep();
  arena.Acquire(1);
  EXPECT_EQ(arena.Acquire(2), frame);  // page 0 was of the step before
  EXPECT_EQ(arena.Acquire(3), -1);
  EXPECT_GE(arena.Acquire(1), 0);
  EXPECT_EQ(arena.Acquire(0), -1);
  arena.BeginStep();
  EXPECT_GE(arena.Acquire(3), 0);
}

TEST(ExpandedArenaTest, RefusedPageTakesNothing) {
  ExpandedArena arena(1, 3);
  arena.Acquire(0);
  EXPECT_EQ(arena.Acquire(1), -1);
  EXPECT_EQ(arena.used(), 1);
  EXPECT_EQ(arena.evictions(), 0);
}

TEST(ExpandedArenaTest, DroppedFrameIsTakenFirstEvenInTheSameStep) {
  ExpandedArena arena(2, 10);
  arena.Acquire(0);
  const std::int32_t frame = arena.Acquire(1);
  arena.set_filled(frame, 4);
  arena.Drop(1);
  EXPECT_EQ(arena.used(), 1);
  EXPECT_EQ(arena.Acquire(2), frame);
  EXPECT_EQ(arena.filled(frame), 0);
  EXPECT_EQ(arena.evictions(), 0);
}

TEST(ExpandedArenaTest, DroppingAPageWithoutAFrameDoesNothing) {
  ExpandedArena arena(2, 10);
  arena.Acquire(0);
  arena.Drop(5);
  arena.Drop(5);
  EXPECT_EQ(arena.used(), 1);
}

TEST(ExpandedArenaTest, CountsWhatWasThereAndWhatWasNot) {
  ExpandedArena arena(2, 10);
  arena.Acquire(0);
  arena.Acquire(1);
  arena.Acquire(0);
  EXPECT_EQ(arena.hits(), 1);
  EXPECT_EQ(arena.misses(), 2);
  EXPECT_EQ(arena.Acquire(2), -1);  // no room for it in this step
  arena.CountMiss();
  EXPECT_EQ(arena.misses(), 4);
  arena.BeginStep();
  arena.Acquire(1);
  arena.Acquire(2);
  EXPECT_EQ(arena.hits(), 2);
  EXPECT_EQ(arena.misses(), 5);
  EXPECT_EQ(arena.evictions(), 1);
}

TEST(ExpandedArenaTest, ArenaWithoutFramesRefusesEveryPage) {
  ExpandedArena arena(0, 4);
  EXPECT_EQ(arena.Acquire(0), -1);
  arena.Drop(0);
  EXPECT_EQ(arena.used(), 0);
}

// What the header promises, as a list of pages from the least recently used.
class Model {
 public:
  explicit Model(std::size_t num_frames) : num_frames_(num_frames) {}

  struct Entry {
    std::int32_t page, frame;
    std::int64_t filled;
    std::uint64_t step;
  };

  void BeginStep() { ++step_; }
  std::list<Entry>::iterator Find(std::int32_t page) {
    return std::find_if(entries.begin(), entries.end(),
                        [page](const Entry& e) { return e.page == page; });
  }
  void Drop(std::int32_t page) {
    const auto found = Find(page);
    if (found != entries.end()) entries.erase(found);
  }
  // `frame` is what the arena answered.
  void ExpectAcquired(std::int32_t page, std::int32_t frame) {
    const auto found = Find(page);
    (found != entries.end() ? hits : misses)++;
    if (found != entries.end()) {
      ASSERT_EQ(frame, found->frame);
      found->step = step_;
      entries.splice(entries.end(), entries, found);
      return;
    }
    Entry fresh = {page, frame, 0, step_};
    if (entries.size() == num_frames_) {
      if (entries.empty() || entries.front().step == step_) {
        ASSERT_EQ(frame, -1);
        return;
      }
      ASSERT_EQ(frame, entries.front().frame);
      entries.pop_front();
      ++evictions;
    }
    ASSERT_TRUE(frame >= 0 && static_cast<std::size_t>(frame) < num_frames_);
    for (const Entry& e : entries) ASSERT_NE(e.frame, frame);
    entries.push_back(fresh);
  }

  std::list<Entry> entries;
  std::int64_t hits = 0, misses = 0, evictions = 0;

 private:
  const std::size_t num_frames_;
  std::uint64_t step_ = 1;
};

void UseAtRandom(std::int64_t num_frames, std::uint64_t seed) {
  constexpr std::int32_t kPages = 40;
  ExpandedArena arena(num_frames, kPages);
  Model model(static_cast<std::size_t>(num_frames));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20000; ++i) {
    const auto page = static_cast<std::int32_t>(random() % kPages);
    const std::uint64_t choice = random() % 16;
    if (choice == 0) {
      arena.BeginStep();
      model.BeginStep();
    } else if (choice < 4) {
      arena.Drop(page);
      model.Drop(page);
    } else {
      const std::int32_t frame = arena.Acquire(page);
      ASSERT_NO_FATAL_FAILURE(model.ExpectAcquired(page, frame)) << "use " << i;
      if (frame >= 0) {
        ASSERT_EQ(arena.filled(frame), model.Find(page)->filled);
        model.Find(page)->filled = static_cast<std::int64_t>(random() % 16);
        arena.set_filled(frame, model.Find(page)->filled);
      }
    }
    ASSERT_EQ(arena.used(), static_cast<std::int64_t>(model.entries.size()));
    ASSERT_EQ(arena.hits(), model.hits);
    ASSERT_EQ(arena.misses(), model.misses);
    ASSERT_EQ(arena.evictions(), model.evictions);
  }
}

TEST(ExpandedArenaTest, MatchesAListUnderRandomUse) {
  for (const std::int64_t num_frames : {0, 1, 2, 7, 20, 40, 60})
    UseAtRandom(num_frames, static_cast<std::uint64_t>(num_frames) + 1);
}

}  // namespace
}  // namespace goldfinch
