#include "engine/cache/sequence_table.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/status/status.h"

namespace goldfinch {
namespace {

class SequenceTableTest : public testing::Test {
 protected:
  static EngineInfo Info() {
    EngineInfo info;
    info.vocab_size = 100;
    info.page_tokens = 16;
    info.num_pages = 20;
    info.num_slots = 4;
    return info;
  }
  SequenceId Open(std::int64_t max_tokens, std::span<const std::int32_t> shared = {}) {
    SequenceSpec spec;
    spec.max_tokens = max_tokens;
    const auto id = table_.Open(spec, shared);
    EXPECT_TRUE(id.ok()) << id.status();
    return *id;
  }
  SequenceId OpenFrom(PrefixId prefix, std::int64_t max_tokens) {
    return Open(max_tokens, table_.FullPages(table_.Get(prefix)));
  }

  const EngineInfo info_ = Info();
  std::vector<std::int32_t> freed_;
  SequenceTable table_{info_, /*spare_slots=*/2,
                       [this](std::int32_t page) { freed_.push_back(page); }};
};

TEST_F(SequenceTableTest, PrefixKeepsThePagesOfItsTokensOnly) {
  const SequenceId id = Open(100);  // 7 pages
  table_.Get(id).length = 40;
  const PrefixId prefix = table_.Keep(id);
  EXPECT_EQ(table_.usage().pages_used, 7);
  EXPECT_EQ(table_.usage().pages_open, 7);
  table_.Close(id);
  EXPECT_EQ(table_.usage().pages_used, 3);
  EXPECT_EQ(table_.usage().pages_open, 0);
  EXPECT_EQ(freed_.size(), 4u);
  table_.Drop(prefix);
  EXPECT_EQ(table_.usage().pages_used, 0);
  EXPECT_EQ(freed_.size(), 7u);
}

TEST_F(SequenceTableTest, PagesSideBySideAreSoAgainForTheNext) {
  const SequenceId first = Open(100);
  const std::vector<std::int32_t> pages = table_.Get(first).pages;
  table_.Close(first);
  EXPECT_EQ(table_.Get(Open(100)).pages, pages);
  EXPECT_TRUE(std::ranges::is_sorted(pages));
}

TEST_F(SequenceTableTest, SequencesShareThePrefixesFullPages) {
  const SequenceId first = Open(40);
  table_.Get(first).length = 40;  // two full pages and a half
  const PrefixId prefix = table_.Keep(first);
  table_.Close(first);
  EXPECT_EQ(table_.PagesToOpen(prefix, 100), 7);
  const SequenceId second = OpenFrom(prefix, 100);
  EXPECT_EQ(table_.usage().pages_used, 3 + 5);
  EXPECT_EQ(table_.usage().pages_open, 7);
  EXPECT_EQ(table_.PagesToOpen(prefix, 100), 5);
  const SequenceId third = OpenFrom(prefix, 48);
  EXPECT_EQ(table_.usage().pages_used, 3 + 5 + 1);
  EXPECT_EQ(table_.usage().pages_open, 8);
  table_.Drop(prefix);
  EXPECT_EQ(freed_.size(), 1u);  // the half page; the full ones are in use
  table_.Close(second);
  EXPECT_EQ(table_.usage().pages_open, 3);
  table_.Close(third);
  EXPECT_EQ(table_.usage().pages_used, 0);
  EXPECT_EQ(table_.usage().slots_used, 0);
}

TEST_F(SequenceTableTest, RefusalTakesNothing) {
  const SequenceId first = Open(16 * 18);
  table_.Get(first).length = 32;
  const PrefixId prefix = table_.Keep(first);
  SequenceSpec spec;
  spec.max_tokens = 16 * 5;
  const auto refused = table_.Open(spec, table_.FullPages(table_.Get(prefix)));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(refused.status().message(), "the sequence needs 3 pages; 2 are free");
  const absl::Status no_prefix = table_.NewPrefix(16 * 3).status();
  EXPECT_TRUE(absl::IsResourceExhausted(no_prefix));
  EXPECT_EQ(no_prefix.message(), "the prefix needs 3 pages; 2 are free");
  EXPECT_EQ(table_.usage().pages_used, 18);
  EXPECT_EQ(table_.usage().pages_open, 18);
  EXPECT_EQ(table_.usage().slots_used, 1);
  table_.Close(first);
  table_.Drop(prefix);
  EXPECT_EQ(freed_.size(), 18u);
}

TEST_F(SequenceTableTest, IdsOfPrefixesAreUsedAgain) {
  for (int round = 0; round < 3; ++round) {
    std::vector<PrefixId> kept;
    for (int i = 0; i < 4; ++i) kept.push_back(*table_.NewPrefix(20));
    EXPECT_EQ(table_.usage().pages_used, 8);
    EXPECT_EQ(static_cast<int>(*std::ranges::max_element(kept)), 3);
    for (const PrefixId id : kept) table_.Drop(id);
  }
}

// Whichever they are, the first one among them.
TEST_F(SequenceTableTest, SecondSlotsAreFreeAgainWhenTheirSequenceIsClosed) {
  for (int round = 0; round < 6; ++round) {
    std::vector<SequenceId> ids;
    for (int i = 0; i <= round % 2; ++i) ids.push_back(Open(10));
    table_.TakeNextSlot(table_.Get(ids.back()));
    EXPECT_EQ(table_.usage().slots_used, std::ssize(ids));
    for (const SequenceId id : ids) table_.Close(id);
    EXPECT_EQ(table_.spare_slots(), 2);
  }
}

// However sequences move, each has slots of its own, and one is left for each that can
// still be opened.
TEST_F(SequenceTableTest, SequencesMoveToASecondSlotAndBack) {
  const SequenceId first = Open(10), second = Open(10);
  EXPECT_EQ(table_.spare_slots(), 2);
  const std::int32_t slot = table_.Get(first).slot;
  table_.TakeNextSlot(table_.Get(first));
  table_.TakeNextSlot(table_.Get(second));
  EXPECT_EQ(table_.spare_slots(), 0);
  EXPECT_EQ(table_.usage().slots_used, 2);
  const std::int32_t next = table_.Get(first).next_slot;
  table_.MoveToNextSlot(table_.Get(first));
  EXPECT_EQ(table_.spare_slots(), 1);
  EXPECT_EQ(table_.Get(first).slot, next);
  EXPECT_NE(next, slot);
  EXPECT_EQ(table_.Get(first).next_slot, -1);
  table_.Close(second);  // with both of its slots
  EXPECT_EQ(table_.spare_slots(), 2);

  std::set<std::int32_t> slots = {table_.Get(first).slot};
  for (int i = 0; i < 3; ++i) {
    const SequenceId id = Open(10);
    EXPECT_TRUE(slots.insert(table_.Get(id).slot).second);
    if (i == 0) {
      table_.TakeNextSlot(table_.Get(id));
      EXPECT_TRUE(slots.insert(table_.Get(id).next_slot).second);
    }
  }
  EXPECT_EQ(*slots.begin(), 0);
  EXPECT_LT(*slots.rbegin(), 6);
}

using SequenceTableDeathTest = SequenceTableTest;

TEST_F(SequenceTableDeathTest, WhatIsNotThereIsNotLookedUp) {
  EXPECT_DEATH(table_.Get(SequenceId{-1}), "CHECK failed");
  EXPECT_DEATH(table_.Get(SequenceId{0}), "CHECK failed");
  EXPECT_DEATH(table_.Get(SequenceId{4}), "CHECK failed");
  EXPECT_DEATH(table_.Get(PrefixId::kNone), "CHECK failed");
  EXPECT_DEATH(table_.Get(PrefixId{0}), "CHECK failed");
}

}  // namespace
}  // namespace goldfinch
