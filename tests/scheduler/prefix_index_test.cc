#include "scheduler/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace goldfinch {
namespace {

using Handle = PrefixIndex::Handle;
using Match = PrefixIndex::Match;
using Tokens = std::vector<TokenId>;

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

Tokens Counting(std::size_t size) {
  Tokens tokens(size);
  for (std::size_t i = 0; i < size; ++i) tokens[i] = static_cast<TokenId>(i % 1000);
  return tokens;
}

Tokens First(const Tokens& tokens, std::size_t size) {
  return Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(size));
}

Tokens With(Tokens tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

// The index with a tenant to begin with.
class Indexed {
 public:
  explicit Indexed(std::int64_t block_tokens) : index_(block_tokens) {}

  bool Insert(const Tokens& tokens, Handle handle, std::string_view tenant = "a") {
    return index_.Insert(tenant, tokens, handle);
  }
  Match Find(const Tokens& tokens, std::int64_t most = kAll,
             std::string_view tenant = "a") const {
    return index_.Find(tenant, tokens, most);
  }
  std::optional<Handle> FindExact(const Tokens& tokens, std::string_view tenant = "a",
                                  Handle after = PrefixIndex::kNone) const {
    return index_.FindExact(tenant, tokens, after);
  }
  PrefixIndex& index() { return index_; }

 private:
  PrefixIndex index_;
};

void ExpectMatch(const Match& match, std::optional<Handle> handle, std::int64_t tokens,
                 std::int64_t shared) {
  EXPECT_EQ(match.handle, handle);
  EXPECT_EQ(match.tokens, tokens);
  EXPECT_EQ(match.shared, shared);
}

TEST(PrefixIndexTest, NothingIsFoundInNothing) {
  Indexed index(4);
  ExpectMatch(index.Find(Counting(10)), std::nullopt, 0, 0);
  EXPECT_EQ(index.FindExact(Counting(10)), std::nullopt);
  EXPECT_EQ(index.FindExact({}), std::nullopt);
  EXPECT_EQ(index.index().num_entries(), 0);
  EXPECT_EQ(index.index().bytes(), 0);
}

TEST(PrefixIndexTest, AnEmptyPromptHasNoPrefix) {
  Indexed index(4);
  ASSERT_TRUE(index.Insert(Counting(3), 1));
  ExpectMatch(index.Find({}), std::nullopt, 0, 0);
  EXPECT_EQ(index.FindExact({}), std::nullopt);
}

TEST(PrefixIndexTest, AnEntryIsFoundUpToItsOwnLengthAndNotBelow) {
  for (const std::size_t size : {3u, 4u, 5u, 8u, 11u, 12u}) {
    Indexed index(4);
    const Tokens tokens = Counting(size);
    ASSERT_TRUE(index.Insert(tokens, 7));
    const std::int64_t length = std::ssize(tokens);
    const Tokens prompt = With(tokens, {1, 1, 1, 1, 1});
    ExpectMatch(index.Find(prompt), 7, length, length);
    ExpectMatch(index.Find(prompt, length), 7, length, length);
    ExpectMatch(index.Find(prompt, length - 1), std::nullopt, 0, length - 1);
    ExpectMatch(index.Find(prompt, 0), std::nullopt, 0, 0);
    ExpectMatch(index.Find(tokens), 7, length, length);
    ExpectMatch(index.Find(First(tokens, size - 1)), std::nullopt, 0, length - 1);
  }
}

TEST(PrefixIndexTest, TheLongestEntryWithinTheLimitIsFound) {
  Indexed index(4);
  const Tokens tokens = Counting(20);
  for (const std::size_t size : {2u, 3u, 4u, 8u, 9u, 16u}) {
    ASSERT_TRUE(index.Insert(First(tokens, size), size));
  }
  for (const auto& [most, found] :
       {std::pair{2, 2}, {3, 3}, {7, 4}, {8, 8}, {9, 9}, {15, 9}, {16, 16}, {20, 16}}) {
    ExpectMatch(index.Find(tokens, most), static_cast<Handle>(found), found,
                std::min(most, 16));
  }
}

TEST(PrefixIndexTest, TheSharedPrefixEndsWithinABlock) {
  Indexed index(4);
  ASSERT_TRUE(index.Insert({1, 2, 3, 4, 5, 6, 7, 8}, 1));
  ASSERT_TRUE(index.Insert({1, 2, 3, 4, 5, 6, 9, 8}, 2));
  ASSERT_TRUE(index.Insert({1, 2, 3, 4, 9, 9, 9, 9}, 3));
  ExpectMatch(index.Find({1, 2, 3, 4, 5, 6, 7, 9, 0}), std::nullopt, 0, 7);
  ExpectMatch(index.Find({1, 2, 3, 4, 5, 6, 8, 8, 0}), std::nullopt, 0, 6);
  ExpectMatch(index.Find({1, 2, 3, 4, 5, 0}), std::nullopt, 0, 5);
  ExpectMatch(index.Find({1, 2, 3, 4, 0, 9, 9, 9, 9}), std::nullopt, 0, 4);
  ExpectMatch(index.Find({1, 2, 0}), std::nullopt, 0, 2);
}

TEST(PrefixIndexTest, TailsAreSharedAndFoundWithinABlock) {
  Indexed index(8);
  ASSERT_TRUE(index.Insert({1, 2}, 1));
  ASSERT_TRUE(index.Insert({1, 2, 3, 4, 5}, 2));
  ASSERT_TRUE(index.Insert({1, 2, 3, 7}, 3));
  ASSERT_TRUE(index.Insert({1, 2, 3, 5, 6, 7, 8, 9}, 4));
  ExpectMatch(index.Find({1, 2, 3, 4, 5, 6}), 2, 5, 5);
  ExpectMatch(index.Find({1, 2, 3, 4, 6}), 1, 2, 4);
  // Next to the prompt stand others than the one that is its prefix.
  ExpectMatch(index.Find({1, 2, 3, 6, 1, 1, 1, 1, 1}), 1, 2, 3);
  ExpectMatch(index.Find({1, 2, 3, 5, 6, 7, 8, 8}), 1, 2, 7);
  ExpectMatch(index.Find({1, 3}), std::nullopt, 0, 1);
}

TEST(PrefixIndexTest, AnEntryAboveServesWhereThoseBelowDoNot) {
  Indexed index(4);
  ASSERT_TRUE(index.Insert(Counting(5), 1));
  ASSERT_TRUE(index.Insert(Counting(22), 2));
  ExpectMatch(index.Find(With(Counting(21), {0})), 1, 5, 21);
}

TEST(PrefixIndexTest, SameTokensTwiceAreOneEntry) {
  for (const std::size_t size : {3u, 4u, 6u, 8u}) {
    Indexed index(4);
    const Tokens tokens = Counting(size);
    ASSERT_TRUE(index.Insert(tokens, 1));
    const std::int64_t bytes = index.index().bytes();
    EXPECT_FALSE(index.Insert(tokens, 2));
    EXPECT_EQ(index.index().num_entries(), 1);
    EXPECT_EQ(index.index().bytes(), bytes);
    EXPECT_EQ(index.FindExact(tokens), 1u);
    index.index().Erase(1);
    EXPECT_TRUE(index.Insert(tokens, 2));
    EXPECT_EQ(index.FindExact(tokens), 2u);
  }
}

TEST(PrefixIndexTest, WhatAnEntryIsOfIsNotComparedAgain) {
  Indexed index(4);
  const Tokens tokens = Counting(20);
  ASSERT_TRUE(index.Insert(First(tokens, 8), 1));
  ASSERT_TRUE(index.Insert(First(tokens, 10), 2));
  ASSERT_TRUE(index.Insert(tokens, 3));
  Tokens other = tokens;
  other[2] = -1;
  EXPECT_EQ(index.FindExact(other), std::nullopt);
  EXPECT_EQ(index.FindExact(other, "a", 1), 3u) << "nobody looks there";
  EXPECT_EQ(index.FindExact(other, "a", 2), 3u) << "nor before the part of a block";
  // One that is gone, or another tenant's, is none.
  index.index().Erase(1);
  EXPECT_EQ(index.FindExact(other, "a", 1), std::nullopt);
  ASSERT_TRUE(index.Insert(Counting(20), 4, "b"));
  EXPECT_EQ(index.FindExact(tokens, "b", 2), 4u);
}

TEST(PrefixIndexTest, TenantsShareNothing) {
  Indexed index(4);
  ASSERT_TRUE(index.Insert(Counting(9), 1, "a"));
  ExpectMatch(index.Find(Counting(9), kAll, "b"), std::nullopt, 0, 0);
  ExpectMatch(index.Find(Counting(9), kAll, ""), std::nullopt, 0, 0);
  ASSERT_TRUE(index.Insert(Counting(9), 2, ""));
  ASSERT_TRUE(index.Insert(Counting(6), 3, "b"));
  ExpectMatch(index.Find(Counting(9), kAll, "a"), 1, 9, 9);
  ExpectMatch(index.Find(Counting(9), kAll, ""), 2, 9, 9);
  ExpectMatch(index.Find(Counting(9), kAll, "b"), 3, 6, 6);
  index.index().Erase(1);
  ExpectMatch(index.Find(Counting(9), kAll, "a"), std::nullopt, 0, 0);
  ExpectMatch(index.Find(Counting(9), kAll, ""), 2, 9, 9);
}

TEST(PrefixIndexTest, ErasingAnEntryLeavesThoseAroundIt) {
  Indexed index(4);
  ASSERT_TRUE(index.Insert(Counting(8), 1));
  const std::int64_t bytes = index.index().bytes();
  ASSERT_TRUE(index.Insert(Counting(17), 2));
  ASSERT_TRUE(index.Insert(With(Counting(10), {0}), 3));
  index.index().Erase(2);
  ExpectMatch(index.Find(Counting(17)), 1, 8, 10);
  index.index().Erase(3);
  ExpectMatch(index.Find(Counting(17)), 1, 8, 8);
  EXPECT_EQ(index.index().bytes(), bytes);
  index.index().Erase(1);
  EXPECT_EQ(index.index().bytes(), 0);
}

TEST(PrefixIndexDeathTest, WhatOnlyABugCanAskFor) {
  Indexed index(4);
  ASSERT_TRUE(index.Insert({1}, 1));
  EXPECT_DEATH(index.index().Erase(2), "CHECK failed");
  EXPECT_DEATH(index.Insert({}, 2), "CHECK failed");
  EXPECT_DEATH(index.Insert({2}, 1), "CHECK failed");
  EXPECT_DEATH(index.Insert({2}, PrefixIndex::kNone), "CHECK failed");
  ASSERT_TRUE(index.Insert({1, 2}, 3));
  EXPECT_DEATH(index.FindExact({1}, "a", 3), "CHECK failed");
  EXPECT_DEATH(index.Find({1}, -1), "CHECK failed");
  EXPECT_DEATH(PrefixIndex(0), "CHECK failed");
}

TEST(PrefixIndexTest, ManySiblings) {
  Indexed index(64);
  const Tokens system = Counting(64);
  constexpr TokenId kSiblings = 20000;
  for (TokenId i = 0; i < kSiblings; ++i) {
    const TokenId first = i * 7919 % kSiblings;
    ASSERT_TRUE(index.Insert(With(system, With({first}, Tokens(i % 2 == 0 ? 63 : 10, 3))),
                             static_cast<Handle>(first + 1)));
  }
  for (TokenId i = 0; i < kSiblings; ++i) {
    const Match match = index.Find(With(system, With({i}, Tokens(100, 3))));
    ASSERT_EQ(match.handle, static_cast<Handle>(i + 1));
    ASSERT_EQ(match.tokens, match.shared);
  }
  ExpectMatch(index.Find(With(system, {5, 3, 4})), std::nullopt, 0, 66);
  for (TokenId i = 0; i < kSiblings; ++i) index.index().Erase(static_cast<Handle>(i + 1));
  EXPECT_EQ(index.index().bytes(), 0);
}

TEST(PrefixIndexTest, AMillionTokensAreDescendedAndTornDownWithoutRecursion) {
  Indexed index(64);
  const Tokens tokens = Counting(1'000'000);
  ASSERT_TRUE(index.Insert(tokens, 1));
  ASSERT_TRUE(index.Insert(First(tokens, 100), 2));
  Tokens other = tokens;
  other[999'990] = -1;
  // Often enough that anything but linear would be felt.
  for (int i = 0; i < 20; ++i) {
    ExpectMatch(index.Find(tokens), 1, 1'000'000, 1'000'000);
    ExpectMatch(index.Find(other), 2, 100, 999'990);
  }
  ASSERT_TRUE(index.Insert(other, 3));
  index.index().Erase(1);
  ExpectMatch(index.Find(tokens), 2, 100, 999'990);
  EXPECT_LT(index.index().bytes(), 8'000'000);
}

// All entries in a row, each compared with everything asked for.
class NaiveIndex {
 public:
  struct Entry {
    std::string tenant;
    Tokens tokens;
    Handle handle = 0;
  };

  const std::vector<Entry>& entries() const { return entries_; }
  void Insert(Entry entry) { entries_.push_back(std::move(entry)); }
  void Erase(std::size_t i) {
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  Match Find(std::string_view tenant, std::span<const TokenId> tokens) const {
    Match match;
    for (const Entry& entry : entries_) {
      if (entry.tenant != tenant) continue;
      const std::int64_t common =
          std::ranges::mismatch(entry.tokens, tokens).in1 - entry.tokens.begin();
      match.shared = std::max(match.shared, common);
      if (common == std::ssize(entry.tokens) && common > match.tokens) {
        match.handle = entry.handle;
        match.tokens = common;
      }
    }
    return match;
  }

  std::optional<Handle> FindExact(std::string_view tenant, const Tokens& tokens) const {
    const Match match = Find(tenant, tokens);
    return match.tokens == std::ssize(tokens) ? match.handle : std::nullopt;
  }

 private:
  std::vector<Entry> entries_;
};

class PrefixIndexModelTest
    : public testing::TestWithParam<std::tuple<std::int64_t, TokenId>> {
 protected:
  std::size_t Random(std::size_t below) { return random_() % below; }

  std::string RandomTenant() { return Random(4) == 0 ? "b" : "a"; }

  // Most often the beginning of something indexed and then its own way.
  Tokens RandomTokens() {
    Tokens tokens;
    if (!model_.entries().empty() && Random(8) != 0) {
      tokens = model_.entries()[Random(model_.entries().size())].tokens;
      tokens.resize(Random(tokens.size() + 1));
    }
    // Whole blocks often, so that entries end where blocks do.
    const std::size_t block = static_cast<std::size_t>(block_tokens_);
    const std::size_t more =
        Random(2) == 0 ? Random(2 * block + 3) : block - tokens.size() % block;
    for (std::size_t i = 0; i < more; ++i) {
      tokens.push_back(static_cast<TokenId>(Random(static_cast<std::size_t>(vocab_))));
    }
    if (tokens.size() > 8 * block + 2) tokens.resize(8 * block + 2);
    return tokens;
  }

  // The entry of a beginning of `tokens`, one that may be gone, or none.
  Handle Earlier(const std::string& tenant, const Tokens& tokens) {
    switch (Random(4)) {
      case 0:
        return PrefixIndex::kNone;
      case 1:
        return erased_;
      default: {
        const Tokens beginning = First(tokens, Random(tokens.size() + 1));
        return model_.Find(tenant, beginning).handle.value_or(PrefixIndex::kNone);
      }
    }
  }

  void Insert() {
    const std::string tenant = RandomTenant();
    const Tokens tokens = RandomTokens();
    if (tokens.empty()) return;
    const bool known = model_.FindExact(tenant, tokens).has_value();
    const Handle handle = ++last_handle_;
    ASSERT_EQ(index_.Insert(tenant, tokens, handle, Earlier(tenant, tokens)), !known);
    if (!known) model_.Insert({tenant, tokens, handle});
  }

  void Erase() {
    if (model_.entries().empty()) return;
    const std::size_t i = Random(model_.entries().size());
    erased_ = model_.entries()[i].handle;
    index_.Erase(erased_);
    model_.Erase(i);
  }

  void Find() {
    const std::string tenant = RandomTenant();
    const Tokens tokens = RandomTokens();
    ASSERT_EQ(index_.FindExact(tenant, tokens, Earlier(tenant, tokens)),
              model_.FindExact(tenant, tokens));
    for (std::size_t most = 0; most <= tokens.size() + 1; ++most) {
      const Match expected =
          model_.Find(tenant, std::span(tokens).first(std::min(most, tokens.size())));
      const Match match = index_.Find(tenant, tokens, static_cast<std::int64_t>(most));
      ASSERT_EQ(match.handle, expected.handle);
      ASSERT_EQ(match.tokens, expected.tokens);
      ASSERT_EQ(match.shared, expected.shared);
    }
  }

  const std::int64_t block_tokens_ = std::get<std::int64_t>(GetParam());
  const TokenId vocab_ = std::get<TokenId>(GetParam());
  std::mt19937_64 random_{static_cast<std::uint64_t>(block_tokens_ * 10 + vocab_)};
  PrefixIndex index_{block_tokens_};
  NaiveIndex model_;
  Handle last_handle_ = 0;
  Handle erased_ = PrefixIndex::kNone;
};

TEST_P(PrefixIndexModelTest, AnswersAreThoseOfAList) {
  std::int64_t most_entries = 0;
  for (int operation = 0; operation < 6000; ++operation) {
    // Grows to some dozens of entries, shrinks to few, and again.
    const bool growing = operation / 150 % 2 == 0;
    const std::size_t kind = Random(8);
    if (kind < 2) {
      Find();
    } else if (growing == (kind < 7)) {
      Insert();
    } else {
      Erase();
    }
    ASSERT_FALSE(HasFatalFailure()) << "operation " << operation;
    ASSERT_EQ(index_.num_entries(), std::ssize(model_.entries()));
    ASSERT_EQ(index_.bytes() == 0, model_.entries().empty());
    most_entries = std::max(most_entries, index_.num_entries());
  }
  EXPECT_GE(most_entries, 40) << "too few to share much";
  while (!model_.entries().empty()) Erase();
  EXPECT_EQ(index_.num_entries(), 0);
  EXPECT_EQ(index_.bytes(), 0);
}

INSTANTIATE_TEST_SUITE_P(, PrefixIndexModelTest,
                         testing::Combine(testing::Values<std::int64_t>(1, 3, 64),
                                          testing::Values<TokenId>(2, 3)));

}  // namespace
}  // namespace goldfinch
