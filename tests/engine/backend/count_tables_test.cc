#include "engine/backend/count_tables.h"

#include <optional>
#include <vector>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

using Lacks = CountTables::Lacks;

class CountTablesTest : public testing::Test {
 protected:
  // What the table of `counts` lacks, in this launch; committed if there is one.
  std::optional<Lacks> Use(const TokenCounts& counts) {
    const auto use = tables_.Find(counts);
    if (!use.has_value()) return std::nullopt;
    table_ = use->table;
    tables_.Commit(*use, counts);
    return use->lacks;
  }
  std::optional<Lacks> UseInNextLaunch(const TokenCounts& counts) {
    tables_.BeginLaunch();
    return Use(counts);
  }

  CountTables tables_{2};
  std::int32_t table_ = -1;  // the last one used
  TokenCounts a_{10}, b_{10}, c_{10};
};

TEST_F(CountTablesTest, ATableLacksWhatWasCountedSinceItWasUsed) {
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kAll);
  const std::int32_t table = table_;
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kNothing);
  a_.AddOutput(1);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kLastOutput);
  a_.AddOutput(1);
  a_.AddOutput(2);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kAll);
  a_.AddPrompt(std::vector<TokenId>{3});
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kAll);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kNothing);
  EXPECT_EQ(table_, table);
  // The numbers are the same again, what was counted is not.
  a_ = TokenCounts(a_.vocab_size());
  a_.AddPrompt(std::vector<TokenId>{4});
  for (int i = 0; i < 3; ++i) a_.AddOutput(5);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kAll);
}

// What the device counts by itself is not told to it again, once the host has seen it.
TEST_F(CountTablesTest, WhatIsPendingIsCountedAlready) {
  UseInNextLaunch(a_);
  tables_.BeginLaunch();
  const auto use = tables_.Find(a_, /*pending=*/true);
  ASSERT_TRUE(use.has_value());
  EXPECT_EQ(use->lacks, Lacks::kNothing);
  tables_.Commit(*use, a_, /*pending=*/true);
  EXPECT_FALSE(Use(a_).has_value());  // it changes in this launch
  a_.AddOutput(7);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kNothing);
  a_.AddOutput(8);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kLastOutput);
}

TEST_F(CountTablesTest, WhatOthersReadIsNotCountedOn) {
  UseInNextLaunch(a_);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kNothing);
  EXPECT_FALSE(tables_.Find(a_, /*pending=*/true).has_value());
}

TEST_F(CountTablesTest, TheTableUsedLongestAgoGoesToWhoeverHasNone) {
  UseInNextLaunch(a_);
  const std::int32_t of_a = table_;
  UseInNextLaunch(b_);
  EXPECT_NE(table_, of_a);
  UseInNextLaunch(a_);
  EXPECT_EQ(UseInNextLaunch(c_), Lacks::kAll);  // in the place of b
  EXPECT_NE(table_, of_a);
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kNothing);
  EXPECT_EQ(UseInNextLaunch(b_), Lacks::kAll);
}

TEST_F(CountTablesTest, ALaunchKeepsItsTablesAndReadsNoneThatItChanges) {
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kAll);
  EXPECT_EQ(Use(b_), Lacks::kAll);
  EXPECT_EQ(Use(c_), std::nullopt);
  EXPECT_EQ(Use(a_), std::nullopt);  // changed by the first
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kNothing);
  EXPECT_EQ(Use(a_), Lacks::kNothing);
  a_.AddOutput(1);
  EXPECT_EQ(Use(a_), std::nullopt);  // read by the others
  EXPECT_EQ(UseInNextLaunch(a_), Lacks::kLastOutput);
  EXPECT_EQ(UseInNextLaunch(c_), Lacks::kAll);
}

}  // namespace
}  // namespace goldfinch
