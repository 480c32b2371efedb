#include "scheduler/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace goldfinch {
namespace {

PlanSequence Decoding(std::uint64_t last_turn = 0) { return {.last_turn = last_turn}; }
PlanSequence Prompt(std::int64_t left, std::int32_t priority = 0) {
  return {.prompt_left = left, .priority = priority};
}

std::int64_t TokensOf(const std::vector<PlannedSpan>& plan, std::size_t sequence) {
  std::int64_t tokens = 0;
  for (const PlannedSpan& span : plan) {
    if (span.sequence == sequence) tokens += span.tokens;
  }
  return tokens;
}

TEST(PlanTest, NothingGivesNothing) { EXPECT_TRUE(PlanStep({}, 512).empty()); }

TEST(PlanTest, EveryDecodingSequenceComesBeforeAnyPrompt) {
  const std::vector<PlanSequence> sequences = {Prompt(1000), Decoding(), Decoding(),
                                               Prompt(5)};
  const std::vector<PlannedSpan> plan = PlanStep(sequences, 100);
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
  const std::vector<PlannedSpan> plan = PlanStep(sequences, 100);
  EXPECT_EQ(TokensOf(plan, 0), 30);
  EXPECT_EQ(TokensOf(plan, 1), 50);
  EXPECT_EQ(TokensOf(plan, 2), 20);
}

TEST(PlanTest, PromptsOfHigherPriorityGoFirst) {
  const std::vector<PlanSequence> sequences = {Prompt(80, 0), Prompt(80, 2),
                                               Prompt(80, 2)};
  const std::vector<PlannedSpan> plan = PlanStep(sequences, 100);
  EXPECT_EQ(TokensOf(plan, 0), 0);
  EXPECT_EQ(TokensOf(plan, 1), 80);
  EXPECT_EQ(TokensOf(plan, 2), 20);
}

TEST(PlanTest, PausedSequencesAreLeftOut) {
  std::vector<PlanSequence> sequences = {Decoding(), Prompt(10)};
  for (PlanSequence& sequence : sequences) sequence.paused = true;
  EXPECT_TRUE(PlanStep(sequences, 100).empty());
}

TEST(PlanTest, MoreDecodersThanBudgetRunLongestWaitingFirst) {
  const std::vector<PlanSequence> sequences = {Decoding(9), Decoding(7), Decoding(8),
                                               Decoding(7), Prompt(10)};
  const std::vector<PlannedSpan> plan = PlanStep(sequences, 3);
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
      for (const PlannedSpan& span : PlanStep(sequences, budget)) {
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
    const std::vector<PlannedSpan> plan = PlanStep(sequences, 2);
    for (const PlannedSpan& span : plan) sequences[span.sequence].last_turn = ++turn;
    ran += TokensOf(plan, 5);
    if (step % 8 != 5) sequences[step % 8] = Decoding(turn);
  }
  EXPECT_GE(ran, 200 / 4 - 1);
}

// A whole life of random work, planned step by step.
TEST(PlanTest, RandomWorkKeepsTheBudgetAndFinishes) {
  std::mt19937_64 random(20);
  for (int round = 0; round < 300; ++round) {
    const auto budget = static_cast<std::int64_t>(1 + random() % 40);
    struct Life {
      std::int64_t prompt;
      std::int64_t decode;
    };
    std::vector<Life> lives(1 + random() % 30);
    std::int64_t work = 0;
    for (Life& life : lives) {
      life = {static_cast<std::int64_t>(1 + random() % 100),
              static_cast<std::int64_t>(1 + random() % 20)};
      work += life.prompt + life.decode;
    }
    std::vector<std::uint64_t> last_turn(lives.size());
    std::uint64_t turn = 0;
    for (std::uint64_t step = 1; work > 0; ++step) {
      std::vector<PlanSequence> sequences;
      std::vector<std::size_t> index;
      std::int64_t decoders = 0;
      for (std::size_t i = 0; i < lives.size(); ++i) {
        if (lives[i].prompt == 0 && lives[i].decode == 0) continue;
        PlanSequence sequence{.prompt_left = lives[i].prompt, .last_turn = last_turn[i]};
        sequence.paused = random() % 8 == 0;
        decoders += sequence.prompt_left == 0 && !sequence.paused ? 1 : 0;
        sequences.push_back(sequence);
        index.push_back(i);
      }
      std::int64_t total = 0;
      std::int64_t decoded = 0;
      std::vector<bool> seen(sequences.size());
      for (const PlannedSpan& span : PlanStep(sequences, budget)) {
        ASSERT_LT(span.sequence, sequences.size());
        ASSERT_FALSE(seen[span.sequence]) << "two spans of one sequence";
        seen[span.sequence] = true;
        ASSERT_FALSE(sequences[span.sequence].paused);
        ASSERT_GE(span.tokens, 1);
        Life& life = lives[index[span.sequence]];
        if (life.prompt > 0) {
          ASSERT_LE(span.tokens, life.prompt);
          life.prompt -= span.tokens;
        } else {
          ASSERT_EQ(span.tokens, 1);
          --life.decode;
          ++decoded;
        }
        total += span.tokens;
        work -= span.tokens;
        last_turn[index[span.sequence]] = ++turn;
      }
      ASSERT_LE(total, budget);
      ASSERT_EQ(decoded, std::min(decoders, budget));
      ASSERT_LT(step, 100000u) << "work does not end";
    }
  }
}

}  // namespace
}  // namespace goldfinch
