#include "scheduler/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <vector>

namespace goldfinch {
namespace {

PlanSequence Decoding(std::uint64_t last_turn = 0) { return {.last_turn = last_turn}; }
PlanSequence Prompt(std::int64_t left, std::int32_t priority = 0) {
  return {.prompt_left = left, .priority = priority};
}

// Where there is room for everybody.
std::vector<PlannedSpan> Plan(std::span<const PlanSequence> sequences,
                              const StepBudget& budget) {
  return PlanStep(sequences, budget, [](std::span<const std::size_t> asked) {
    ADD_FAILURE() << "nobody need be asked";
    return asked.size();
  });
}

std::int64_t TokensOf(const std::vector<PlannedSpan>& plan, std::size_t sequence) {
  std::int64_t tokens = 0;
  for (const PlannedSpan& span : plan) {
    if (span.sequence == sequence) tokens += span.tokens;
  }
  return tokens;
}

TEST(PlanTest, NothingGivesNothing) { EXPECT_TRUE(Plan({}, {.tokens = 512}).empty()); }

TEST(PlanTest, PromptsTakeLessWhileOthersDecode) {
  std::vector<PlanSequence> sequences = {Decoding(), Prompt(300)};
  const auto prompt_tokens = [&] {
    std::int64_t tokens = 0;
    for (const PlannedSpan& span :
         Plan(sequences, {.tokens = 100, .prompt_tokens = 40})) {
      if (sequences[span.sequence].prompt_left > 0) tokens += span.tokens;
    }
    return tokens;
  };
  EXPECT_EQ(prompt_tokens(), 40);
  sequences[0].paused = true;
  EXPECT_EQ(prompt_tokens(), 100);
}

TEST(PlanTest, EveryDecodingSequenceComesBeforeAnyPrompt) {
  const std::vector<PlanSequence> sequences = {Prompt(1000), Decoding(), Decoding(),
                                               Prompt(5)};
  const std::vector<PlannedSpan> plan = Plan(sequences, {.tokens = 100});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].sequence, 1u);
  EXPECT_EQ(plan[0].tokens, 1);
  EXPECT_EQ(plan[1].sequence, 2u);
  EXPECT_EQ(plan[1].tokens, 1);
  EXPECT_EQ(plan[2].sequence, 0u);
  EXPECT_EQ(plan[2].tokens, 98);
}

TEST(PlanTest, PromptsShareTheBudgetInOrderOfAdmission) {
  const std::vector<PlanSequence> sequences = {Prompt(30), Prompt(50), Prompt(50)};
  const std::vector<PlannedSpan> plan = Plan(sequences, {.tokens = 100});
  EXPECT_EQ(TokensOf(plan, 0), 30);
  EXPECT_EQ(TokensOf(plan, 1), 50);
  EXPECT_EQ(TokensOf(plan, 2), 20);
}

TEST(PlanTest, PromptsOfHigherPriorityGoFirst) {
  const std::vector<PlanSequence> sequences = {Prompt(80, 0), Prompt(80, 2),
                                               Prompt(80, 2)};
  const std::vector<PlannedSpan> plan = Plan(sequences, {.tokens = 100});
  EXPECT_EQ(TokensOf(plan, 0), 0);
  EXPECT_EQ(TokensOf(plan, 1), 80);
  EXPECT_EQ(TokensOf(plan, 2), 20);
}

TEST(PlanTest, PausedSequencesAreLeftOut) {
  std::vector<PlanSequence> sequences = {Decoding(), Prompt(10)};
  for (PlanSequence& sequence : sequences) sequence.paused = true;
  EXPECT_TRUE(Plan(sequences, {.tokens = 100}).empty());
}

TEST(PlanTest, MoreDecodersThanBudgetRunLongestWaitingFirst) {
  const std::vector<PlanSequence> sequences = {Decoding(9), Decoding(7), Decoding(8),
                                               Decoding(7), Prompt(10)};
  const std::vector<PlannedSpan> plan = Plan(sequences, {.tokens = 3});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].sequence, 1u);
  EXPECT_EQ(plan[1].sequence, 3u);
  EXPECT_EQ(plan[2].sequence, 2u);
}

TEST(PlanTest, DecodersTakeTurns) {
  for (const std::int64_t budget : {1, 3, 7, 10, 15}) {
    std::vector<PlanSequence> sequences(16);
    std::vector<std::int64_t> ran(16);
    std::uint64_t turn = 0;
    for (int step = 1; step <= 100; ++step) {
      for (const PlannedSpan& span : Plan(sequences, {.tokens = budget})) {
        sequences[span.sequence].last_turn = ++turn;
        ++ran[span.sequence];
      }
      const auto [least, most] = std::ranges::minmax(ran);
      ASSERT_LE(most - least, 1) << "budget " << budget;
    }
  }
}

TEST(PlanTest, NewDecodersDoNotStarveOldOnes) {
  // Every step one sequence ends and another one arrives in its place.
  std::vector<PlanSequence> sequences(8, Decoding(1));
  std::int64_t ran = 0;
  std::uint64_t turn = 1;
  for (std::size_t step = 0; step < 200; ++step) {
    const std::vector<PlannedSpan> plan = Plan(sequences, {.tokens = 2});
    for (const PlannedSpan& span : plan) sequences[span.sequence].last_turn = ++turn;
    ran += TokensOf(plan, 5);
    if (step % 8 != 5) sequences[step % 8] = Decoding(turn);
  }
  EXPECT_GE(ran, 200 / 4 - 1);
}

// Sequences with random work, run as they are planned until all of it is done.
class RandomWork {
 public:
  explicit RandomWork(std::uint64_t seed)
      : random_(seed), budget_(Random(1, 40)), lives_(random_() % 30 + 1) {
    for (Life& life : lives_) life = {.prompt = Random(1, 100), .decode = Random(1, 20)};
  }

  bool done() const {
    return std::ranges::all_of(
        lives_, [](const Life& life) { return life.prompt + life.decode == 0; });
  }

  void Step() {
    std::vector<PlanSequence> sequences;
    std::vector<Life*> alive;
    std::int64_t decoders = 0;
    for (Life& life : lives_) {
      if (life.prompt + life.decode == 0) continue;
      PlanSequence sequence{.prompt_left = life.prompt, .last_turn = life.last_turn};
      sequence.paused = random_() % 8 == 0;
      if (sequence.prompt_left == 0 && !sequence.paused) ++decoders;
      sequences.push_back(sequence);
      alive.push_back(&life);
    }
    std::int64_t total = 0;
    std::int64_t decoded = 0;
    for (const PlannedSpan& span : Plan(sequences, {.tokens = budget_})) {
      ASSERT_LT(span.sequence, sequences.size());
      ASSERT_FALSE(sequences[span.sequence].paused) << "paused, or planned twice";
      sequences[span.sequence].paused = true;
      Life& life = *alive[span.sequence];
      std::int64_t& left = life.prompt > 0 ? life.prompt : life.decode;
      if (life.prompt == 0) ++decoded;
      ASSERT_GE(span.tokens, 1);
      ASSERT_LE(span.tokens, life.prompt > 0 ? left : 1);
      left -= span.tokens;
      total += span.tokens;
      life.last_turn = ++turn_;
    }
    ASSERT_LE(total, budget_);
    ASSERT_EQ(decoded, std::min(decoders, budget_)) << "a decoder was left out";
  }

 private:
  struct Life {
    std::int64_t prompt = 0;
    std::int64_t decode = 0;
    std::uint64_t last_turn = 0;
  };

  std::int64_t Random(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_() %
                                           static_cast<std::uint64_t>(high - low + 1));
  }

  std::mt19937_64 random_;
  const std::int64_t budget_;
  std::vector<Life> lives_;
  std::uint64_t turn_ = 0;
};

TEST(PlanTest, APromptIsCutAtTheGridBehindWhatIsLeft) {
  const auto tokens = [](std::int64_t position, std::int64_t left, std::int64_t budget) {
    const PlanSequence prompt{.prompt_left = left, .position = position};
    return Plan(std::span(&prompt, 1), {.tokens = budget, .grid = 64}).at(0).tokens;
  };
  EXPECT_EQ(tokens(0, 1000, 1), 64);
  EXPECT_EQ(tokens(0, 1000, 64), 64);
  EXPECT_EQ(tokens(0, 1000, 65), 128);
  EXPECT_EQ(tokens(10, 1000, 54), 54);
  EXPECT_EQ(tokens(10, 1000, 55), 118);
  EXPECT_EQ(tokens(64, 30, 10), 30);
  EXPECT_EQ(tokens(64, 30, 100), 30);
}

TEST(PlanTest, WhatACutTakesTooMuchIsTakenOnce) {
  const PlanSequence prompts[] = {{.prompt_left = 100}, {.prompt_left = 100}};
  const auto plan = Plan(prompts, {.tokens = 70, .grid = 64});
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].tokens, 100);
}

TEST(PlanTest, RandomWorkKeepsTheBudgetAndFinishes) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    RandomWork work(seed);
    for (int step = 0; !work.done(); ++step) {
      work.Step();
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "seed " << seed;
      ASSERT_LT(step, 100000) << "work does not end";
    }
  }
}

// Places in an arena: sequences with pasts of so many pages, none shared.
class PlacesTest : public testing::Test {
 protected:
  static constexpr std::int64_t kRoom = 10;

  // A step's plan, as the indices that run; who gets a place has it.
  std::vector<std::size_t> Step(std::int64_t tokens = 100) {
    const std::vector<PlannedSpan> plan =
        PlanStep(sequences_, {.tokens = tokens, .expanded_pages = kRoom},
                 [&](std::span<const std::size_t> asked) {
                   std::int64_t pages = 0;
                   std::size_t count = 0;
                   for (const std::size_t i : asked) {
                     pages += sequences_[i].pages;
                     if (count > 0 && pages > kRoom) break;
                     ++count;
                   }
                   return count;
                 });
    std::vector<std::size_t> run;
    for (const PlannedSpan& span : plan) {
      PlanSequence& sequence = sequences_[span.sequence];
      if (span.gets_place) {
        EXPECT_EQ(sequence.place_left, 0);
        sequence.place_left = kTurnTokens;
      }
      run.push_back(span.sequence);
      sequence.last_turn = ++turns_;
      if (sequence.place_left > 0) --sequence.place_left;
    }
    return run;
  }

  std::vector<PlanSequence> sequences_;
  std::uint64_t turns_ = 0;
};

using Indices = std::vector<std::size_t>;

TEST_F(PlacesTest, WhoFitsTogetherRunsTogetherAndHoldsNoPlace) {
  sequences_ = {{.pages = 4}, {.pages = 3}, {.pages = 3}};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Step(), (Indices{0, 1, 2}));
    EXPECT_EQ(sequences_[0].place_left, 0);
  }
}

TEST_F(PlacesTest, AnyOtherPlaceIsKeptForATurnAndGoesToWhoWaitedLongest) {
  sequences_ = {{.pages = 4}, {.pages = 4}, {.pages = 4}, {.pages = 4}, {.pages = 4}};
  for (int round = 0; round < 3; ++round) {
    for (const Indices& pair : {Indices{0, 1}, {2, 3}, {4, 0}, {1, 2}, {3, 4}}) {
      for (std::int64_t i = 0; i < kTurnTokens; ++i) {
        Indices run = Step();
        std::ranges::sort(run);
        Indices want = pair;
        std::ranges::sort(want);
        EXPECT_EQ(run, want);
      }
    }
  }
}

// Small ones that would fit beside those that run do not go before it.
TEST_F(PlacesTest, ALargePastGetsItsTurnAmongSmallOnes) {
  sequences_ = {{.pages = 2}, {.pages = 2}, {.pages = 2}, {.pages = 2}, {.pages = 9}};
  std::int64_t waited = 0;
  // Their turns end at different times.
  for (std::size_t i = 0; i < 4; ++i)
    sequences_[i].place_left = 1 + 20 * static_cast<std::int64_t>(i);
  while (std::ranges::count(Step(), 4u) == 0) ASSERT_LE(++waited, 2 * kTurnTokens);
}

TEST_F(PlacesTest, EverybodyGetsTheSameShareOfSteps) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20; ++i)
    sequences_.push_back({.pages = 1 + static_cast<std::int64_t>(random() % 9)});
  std::vector<std::int64_t> tokens(sequences_.size());
  for (int step = 0; step < 20'000; ++step) {
    std::int64_t pages = 0;
    for (const std::size_t i : Step()) {
      ++tokens[i];
      pages += sequences_[i].pages;
    }
    ASSERT_LE(pages, kRoom);
    ASSERT_GT(pages, 0);
  }
  const auto [least, most] = std::ranges::minmax(tokens);
  EXPECT_LE(most - least, 2 * kTurnTokens);
}

// It loses its place who has had the least of it, and no more than one.
TEST_F(PlacesTest, PastsThatHaveGrownMakeRoom) {
  sequences_ = {
      {.pages = 5, .place_left = 30}, {.pages = 5, .place_left = 40}, {.pages = 5}};
  EXPECT_EQ(Step(), (Indices{0, 1}));
  sequences_[0].pages = 6;
  EXPECT_EQ(Step(), (Indices{0}));
}

TEST_F(PlacesTest, APastWithoutRoomRunsBehindTheOthersInEveryStep) {
  sequences_ = {{.pages = 11}, {.pages = 6}, {.pages = 6}, {.pages = 25}};
  EXPECT_EQ(Step(), (Indices{1, 0, 3}));
  EXPECT_EQ(sequences_[0].place_left, 0);
  EXPECT_EQ(sequences_[1].place_left, kTurnTokens - 1);
  sequences_[1].place_left = 0;
  EXPECT_EQ(Step(), (Indices{2, 0, 3}));
}

TEST_F(PlacesTest, WithoutRoomForAnybodyAllRunTogether) {
  sequences_ = {{.pages = 11}, {.pages = 12}};
  EXPECT_EQ(Step(), (Indices{0, 1}));
}

TEST_F(PlacesTest, TheBudgetOfTokensHoldsForThemToo) {
  sequences_ = {{.pages = 3}, {.pages = 3}, {.pages = 3}, {.pages = 3}};
  std::vector<std::int64_t> tokens(sequences_.size());
  for (int step = 0; step < 1000; ++step) {
    const Indices run = Step(/*tokens=*/2);
    ASSERT_LE(run.size(), 2u);
    for (const std::size_t i : run) ++tokens[i];
  }
  const auto [least, most] = std::ranges::minmax(tokens);
  EXPECT_LE(most - least, 2 * kTurnTokens);
}

TEST_F(PlacesTest, WhoIsPausedTakesNoRoom) {
  sequences_ = {{.pages = 8, .paused = true}, {.pages = 5}, {.pages = 5}};
  EXPECT_EQ(Step(), (Indices{1, 2}));
  EXPECT_EQ(sequences_[1].place_left, 0);
}

}  // namespace
}  // namespace goldfinch
