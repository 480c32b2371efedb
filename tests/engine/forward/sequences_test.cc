// Opening, branching and closing sequences; sampling and scoring through the engine.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kWhole[] = {1300};

class SequencesTest : public testing::Test {
 protected:
  SequencesTest() : folder_(FamilyConfig("paper")) {
    engine_ =
        MakeEngine(folder_.path(), ComputeType::kBf16, [](ModelEngineOptions& options) {
          options.page_tokens = 16;
          options.max_sequences = 4;
          options.cache_bytes = 16 * 10 * 20;  // 20 pages
        });
  }
  std::vector<TokenId> Tokens(std::int64_t count, std::uint64_t seed) {
    return RandomTokens(count, engine_->info().vocab_size, seed);
  }
  void Feed(SequenceId id, std::span<const TokenId> tokens) {
    Span span;
    span.sequence = id;
    span.tokens = tokens;
    Forward(*engine_, std::span(&span, 1));
  }
  std::vector<float> Logits(SequenceId id, std::span<const TokenId> tokens) {
    std::vector<float> logits;
    const Span span = LogitsSpan(id, tokens, 0, logits, engine_->info().vocab_size);
    Forward(*engine_, std::span(&span, 1));
    return logits;
  }

  const ModelFolder folder_;
  std::unique_ptr<ModelEngine> engine_;
};

TEST_F(SequencesTest, AnOpenSequenceHoldsThePagesItMayEverNeed) {
  ASSERT_EQ(engine_->info().num_pages, 20);
  const SequenceId id = OpenSequence(*engine_, 33);
  EXPECT_EQ(engine_->usage().pages_used, 3);
  EXPECT_EQ(engine_->usage().slots_used, 1);
  Feed(id, Tokens(33, 1));
  EXPECT_EQ(engine_->usage().pages_used, 3);
  engine_->Close(id);
  EXPECT_EQ(engine_->usage().pages_used, 0);
  EXPECT_EQ(engine_->usage().slots_used, 0);
}

TEST_F(SequencesTest, WhatDoesNotFitIsRefusedAndTakesNothing) {
  const SequenceId id = OpenSequence(*engine_, 16 * 15);
  const auto too_long = engine_->Open({.max_tokens = 16 * 6, .sampling = {}});
  EXPECT_EQ(too_long.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(too_long.status().message(), "the sequence needs 6 pages; 5 are free");
  EXPECT_EQ(engine_->usage().pages_used, 15);
  std::vector<SequenceId> more;
  for (int i = 0; i < 3; ++i) more.push_back(OpenSequence(*engine_, 16));
  const auto no_slot = engine_->Open({.max_tokens = 1, .sampling = {}});
  EXPECT_EQ(no_slot.status().message(), "all 4 state slots are in use");
  for (const SequenceId other : more) engine_->Close(other);
  engine_->Close(id);
  EXPECT_EQ(engine_->usage().pages_used, 0);
}

TEST_F(SequencesTest, ABranchContinuesItsParentBitForBitAndSharesItsFullPages) {
  const std::vector<TokenId> prompt = Tokens(37, 2), left = Tokens(20, 3),
                             right = Tokens(20, 4);
  const SequenceId parent = OpenSequence(*engine_, 60);
  const auto child = engine_->OpenBranch(parent, 37, {.max_tokens = 60, .sampling = {}});
  ASSERT_TRUE(child.ok());
  // Four pages for 60 tokens; the child shares the two full ones of the first 37.
  EXPECT_EQ(engine_->usage().pages_used, 4 + 2);
  Feed(parent, prompt);
  engine_->Branch(*child);
  const std::vector<float> parent_logits = Logits(parent, left);
  const std::vector<float> child_logits = Logits(*child, right);

  const auto solo = [&](const std::vector<TokenId>& rest) {
    std::vector<TokenId> all = prompt;
    all.insert(all.end(), rest.begin(), rest.end());
    return FeedInChunks(*engine_, all, kWhole, 37);
  };
  EXPECT_TRUE(SameBits(parent_logits, solo(left)));
  EXPECT_TRUE(SameBits(child_logits, solo(right)));
  engine_->Close(parent);
  EXPECT_EQ(engine_->usage().pages_used, 4);  // the shared two live on in the child
  const TokenId next[] = {1};
  Logits(*child, next);
  engine_->Close(*child);
  EXPECT_EQ(engine_->usage().pages_used, 0);
}

TEST_F(SequencesTest, ABranchOfNothingIsAFreshSequence) {
  const SequenceId parent = OpenSequence(*engine_, 10);
  const auto child = engine_->OpenBranch(parent, 0, {.max_tokens = 10, .sampling = {}});
  ASSERT_TRUE(child.ok());
  engine_->Branch(*child);
  const std::vector<TokenId> tokens = Tokens(10, 5);
  EXPECT_TRUE(SameBits(Logits(*child, tokens), FeedInChunks(*engine_, tokens, kWhole)));
  engine_->Close(parent);
  engine_->Close(*child);
}

TEST_F(SequencesTest, ReusedSlotsAndPagesShowNothingOfTheirLastOwner) {
  const std::vector<TokenId> tokens = Tokens(50, 6);
  const std::vector<float> fresh = FeedInChunks(*engine_, tokens, kWhole);
  for (int i = 0; i < 6; ++i) FeedInChunks(*engine_, Tokens(90, 100 + i), kWhole);
  EXPECT_TRUE(SameBits(FeedInChunks(*engine_, tokens, kWhole), fresh));
}

TEST_F(SequencesTest, UsageCountsThePagesThatStepsFoundExpanded) {
  const SequenceId id = OpenSequence(*engine_, 40);
  Feed(id, Tokens(33, 1));
  EXPECT_EQ(engine_->usage().expanded.used, 3);
  EXPECT_EQ(engine_->usage().expanded.hits, 0);
  EXPECT_EQ(engine_->usage().expanded.misses, 3);
  for (int i = 0; i < 4; ++i) Feed(id, Tokens(1, 2));
  EXPECT_EQ(engine_->usage().expanded.hits, 4 * 3);
  EXPECT_EQ(engine_->usage().expanded.misses, 3);
  EXPECT_EQ(engine_->usage().expanded.evictions, 0);
  EXPECT_EQ(engine_->usage().expanded.rebuilt, 0);
  engine_->Close(id);
  EXPECT_EQ(engine_->usage().expanded.used, 0);
  EXPECT_EQ(engine_->info().expanded_pages, 20);  // no more than there are pages
}

TEST_F(SequencesTest, APageWithoutRoomInTheArenaIsAMissInEveryStep) {
  const auto& config = engine_->config();
  engine_ = MakeEngine(folder_.path(), ComputeType::kBf16, [&](auto& options) {
    options.page_tokens = 16;
    options.expanded_bytes = 2 * (2 * 16 * config.n_embd * 2 * config.num_gold());
  });
  ASSERT_EQ(engine_->info().expanded_pages, 2);
  const SequenceId first = OpenSequence(*engine_, 80);
  Feed(first, Tokens(64, 1));  // four pages, two of which find room
  EXPECT_EQ(engine_->usage().expanded.misses, 4);
  EXPECT_EQ(engine_->usage().expanded.rebuilt, 2);
  Feed(first, Tokens(1, 2));  // the fifth page finds none either
  EXPECT_EQ(engine_->usage().expanded.hits, 2);
  EXPECT_EQ(engine_->usage().expanded.misses, 4 + 3);
  EXPECT_EQ(engine_->usage().expanded.rebuilt, 2 + 3);
  const SequenceId second = OpenSequence(*engine_, 16);
  Feed(second, Tokens(10, 3));
  EXPECT_EQ(engine_->usage().expanded.used, 2);
  EXPECT_EQ(engine_->usage().expanded.evictions, 1);
  engine_->Close(first);
  engine_->Close(second);
}

// Tiles are padded to sixteen tokens, which a small page takes as well.
TEST_F(SequencesTest, TheArenaTakesNoMoreThanItMay) {
  const auto& config = engine_->config();
  const std::int64_t tile = 2 * 16 * config.n_embd * 2 * config.num_gold();
  for (const std::int32_t page_tokens : {1, 8, 16}) {
    const auto engine =
        MakeEngine(folder_.path(), ComputeType::kBf16, [&](auto& options) {
          options.page_tokens = page_tokens;
          options.expanded_bytes = 3 * tile;
        });
    EXPECT_EQ(engine->info().expanded_pages, 3) << page_tokens;
  }
}

TEST_F(SequencesTest, APastIsPreparedAsFarAsIsAskedFor) {
  const SequenceId id = OpenSequence(*engine_, 150, 139);
  Feed(id, Tokens(100, 1));
  // GOLD layers run on the last rows before the first logits, and not before.
  EXPECT_TRUE(engine_->Prepare(id, 1, 1000).ready);
  EXPECT_EQ(engine_->usage().expanded.used, 0);

  Preparation done = engine_->Prepare(id, 40, 0);
  EXPECT_EQ(done.expanded, 0);
  EXPECT_FALSE(done.ready);
  done = engine_->Prepare(id, 40, 40);
  EXPECT_EQ(done.expanded, 40);
  EXPECT_FALSE(done.ready);
  EXPECT_EQ(engine_->usage().expanded.used, 3);
  done = engine_->Prepare(id, 40, 1000);
  EXPECT_EQ(done.expanded, 60);
  EXPECT_TRUE(done.ready);
  EXPECT_EQ(engine_->usage().expanded.used, 7);
  EXPECT_EQ(engine_->Prepare(id, 40, 1000).expanded, 0);

  Feed(id, Tokens(40, 2));
  EXPECT_EQ(engine_->usage().expanded.hits, 7);
  EXPECT_EQ(engine_->usage().expanded.misses, 9);
  // All that the next step attends to is there.
  EXPECT_EQ(engine_->Prepare(id, 1, 1000).expanded, 0);
  engine_->Close(id);
}

// Those for whom there is room together find it, whoever had it before; forks share.
TEST_F(SequencesTest, RoomIsReservedInOrderAndTakenFromOthers) {
  const auto& config = engine_->config();
  engine_ = MakeEngine(folder_.path(), ComputeType::kBf16, [&](auto& options) {
    options.page_tokens = 16;
    options.expanded_bytes = 7 * (2 * 16 * config.n_embd * 2 * config.num_gold());
  });
  ASSERT_EQ(engine_->info().expanded_pages, 7);
  const SequenceId a = OpenSequence(*engine_, 80), b = OpenSequence(*engine_, 80);
  const SequenceId c = OpenSequence(*engine_, 200);
  Feed(a, Tokens(48, 1));  // three pages, and one for the next token
  const PrefixId kept = engine_->Keep(a);
  Feed(b, Tokens(40, 2));   // three
  Feed(c, Tokens(120, 3));  // eight
  SequenceSpec spec;
  spec.max_tokens = 80;
  const auto fork = engine_->OpenFrom(kept, spec, {});
  ASSERT_TRUE(fork.ok());
  const auto fits = [&](std::vector<SequenceId> sequences) {
    return engine_->ReserveExpanded(sequences);
  };
  EXPECT_EQ(fits({}), 0u);
  EXPECT_EQ(fits({a, b}), 2u);
  EXPECT_EQ(fits({a, *fork}), 2u);     // five
  EXPECT_EQ(fits({a, *fork, b}), 2u);  // eight
  EXPECT_EQ(fits({b, c, a}), 1u);
  EXPECT_EQ(fits({c, a}), 1u);  // by itself it has none, and is the first
  // The last step used all; what is reserved finds room nevertheless.
  EXPECT_EQ(fits({b, a}), 2u);
  for (const SequenceId id : {a, b}) EXPECT_TRUE(engine_->Prepare(id, 1, 1000).ready);
  const std::int64_t misses = engine_->usage().expanded.misses;
  Feed(a, Tokens(1, 4));
  Feed(b, Tokens(1, 5));
  // The page that a's token is the first of.
  EXPECT_EQ(engine_->usage().expanded.misses, misses + 1);
  for (const SequenceId id : {a, b, c, *fork}) engine_->Close(id);
  engine_->Drop(kept);
}

// It is behind those who run in getting room, and says so at once when there is none.
TEST_F(SequencesTest, PreparingTakesNothingFromWhatTheLastStepUsed) {
  const auto& config = engine_->config();
  engine_ = MakeEngine(folder_.path(), ComputeType::kBf16, [&](auto& options) {
    options.page_tokens = 16;
    options.expanded_bytes = 5 * (2 * 16 * config.n_embd * 2 * config.num_gold());
  });
  ASSERT_EQ(engine_->info().expanded_pages, 5);
  const SequenceId runs = OpenSequence(*engine_, 80);
  Feed(runs, Tokens(40, 1));  // three pages
  const SequenceId waits = OpenSequence(*engine_, 100, 99);
  Feed(waits, Tokens(60, 2));
  const Preparation done = engine_->Prepare(waits, 40, 1000);
  EXPECT_EQ(done.expanded, 32);  // two of four
  EXPECT_TRUE(done.ready);
  EXPECT_EQ(engine_->usage().expanded.evictions, 0);
  Feed(runs, Tokens(1, 3));
  EXPECT_EQ(engine_->usage().expanded.hits, 3);
  engine_->Close(runs);
  engine_->Close(waits);
}

TEST_F(SequencesTest, DeviceMemoryIsToldByWhatItIsFor) {
  const DeviceBytes bytes = engine_->info().device_bytes;
  EXPECT_GE(bytes.weights, engine_->num_parameters() * 2);
  EXPECT_EQ(bytes.cache, 20 * 16 * engine_->cache_bytes_per_token());
  EXPECT_EQ(bytes.state, 4 * engine_->state_bytes_per_sequence());
  const auto& config = engine_->config();
  const std::int64_t tile = 2 * 16 * config.n_embd * 2 * config.num_gold();
  EXPECT_GE(bytes.expanded, engine_->info().expanded_pages * tile);
  EXPECT_GT(bytes.work, 0);

  const auto with_table = MakeEngine(folder_.path(), ComputeType::kBf16, [](auto& o) {
    o.page_tokens = 16;
    o.vocab_table = true;
  });
  EXPECT_EQ(with_table->info().device_bytes.weights - bytes.weights,
            std::int64_t{4} * config.vocab_size * config.n_embd);

  const ModelFolder no_gold(FamilyConfig("finch_only"));
  const auto finch = MakeEngine(no_gold.path(), ComputeType::kF32);
  EXPECT_EQ(finch->info().device_bytes.cache, 0);
  EXPECT_EQ(finch->info().device_bytes.expanded, 0);
  EXPECT_GT(finch->info().device_bytes.work, 0);
  EXPECT_EQ(finch->usage().expanded.misses, 0);
}

TEST_F(SequencesTest, ScoresAreTheLogSoftmaxOfTheLogits) {
  const std::vector<TokenId> tokens = Tokens(70, 7);
  const std::vector<float> logits = FeedInChunks(*engine_, tokens, kWhole);
  const auto vocab = static_cast<std::size_t>(engine_->info().vocab_size);
  constexpr std::int64_t kFirst = 5;
  const std::vector<TokenId> targets = Tokens(70 - kFirst, 8);
  const SequenceId id = OpenSequence(*engine_, 70, kFirst);
  Span span;
  span.sequence = id;
  span.tokens = tokens;
  span.output = SpanOutput::kScore;
  span.first_output_row = kFirst;
  span.targets = targets;
  const std::vector<ScoredToken> scores =
      Forward(*engine_, std::span(&span, 1))[0].scores;
  engine_->Close(id);
  ASSERT_EQ(scores.size(), targets.size());
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const auto row = std::span(logits).subspan((i + kFirst) * vocab, vocab);
    double sum = 0;
    std::size_t best = 0;
    for (std::size_t t = 0; t < vocab; ++t) {
      sum += std::exp(double{row[t]});
      if (row[t] > row[best]) best = t;
    }
    const auto target = static_cast<std::size_t>(targets[i]);
    EXPECT_NEAR(scores[i].logprob, double{row[target]} - std::log(sum), 1e-5);
    EXPECT_EQ(scores[i].is_greedy, best == target);
  }
}

// Together they have more rows than are scored at once.
TEST_F(SequencesTest, SequencesOfOneStepAreScoredAsEachAlone) {
  constexpr std::size_t kSequences = 3;
  std::vector<TokenId> tokens[kSequences];
  std::vector<Span> batch(kSequences);
  for (std::size_t i = 0; i < kSequences; ++i) {
    tokens[i] = Tokens(20 + 13 * static_cast<std::int64_t>(i), 20 + i);
    batch[i].tokens = batch[i].targets = tokens[i];
    batch[i].output = SpanOutput::kScore;
  }
  const auto score = [&](std::span<Span> spans) {
    for (Span& span : spans) span.sequence = OpenSequence(*engine_, 60);
    std::vector<SpanResult> results = Forward(*engine_, spans);
    for (const Span& span : spans) engine_->Close(span.sequence);
    return results;
  };
  const std::vector<SpanResult> together = score(batch);
  for (std::size_t i = 0; i < kSequences; ++i) {
    const std::vector<ScoredToken> alone =
        score(std::span(batch).subspan(i, 1))[0].scores;
    ASSERT_EQ(alone.size(), together[i].scores.size());
    for (std::size_t j = 0; j < alone.size(); ++j) {
      EXPECT_EQ(alone[j].logprob, together[i].scores[j].logprob) << i << ", " << j;
      EXPECT_EQ(alone[j].is_greedy, together[i].scores[j].is_greedy);
    }
  }
}

TEST_F(SequencesTest, PenaltiesSeeThePromptAndTheOutputOfTheirOwnSequence) {
  SamplingParams sampling;
  sampling.temperature = 0;
  sampling.presence_penalty = 100;  // no token twice
  const SequenceId id = OpenSequence(*engine_, 40, 4, sampling);
  std::vector<TokenId> tokens = Tokens(5, 9), seen;
  for (int i = 0; i < 30; ++i) {
    Span span;
    span.sequence = id;
    span.tokens = tokens;
    span.output = SpanOutput::kSample;
    const TokenId token = Forward(*engine_, std::span(&span, 1))[0].sample.token;
    EXPECT_EQ(std::count(seen.begin(), seen.end(), token), 0) << "token " << token;
    seen.push_back(token);
    tokens = {token};
  }
  engine_->Close(id);
}

TEST(ModelEngineTest, AStepOfNothingChangesNothing) {
  for (const std::string name :
       {"finch_only", "finch_c2_only", "finch_below_gold", "paper"}) {
    const ModelFolder folder(FamilyConfig(name));
    std::vector<float> logits[2];
    for (const bool empty_steps : {false, true}) {
      const auto engine = MakeEngine(folder.path(), ComputeType::kBf16);
      const std::int32_t vocab = engine->info().vocab_size;
      const std::vector<TokenId> tokens = RandomTokens(20, vocab, 1);
      if (empty_steps) {
        EXPECT_TRUE(engine->Forward({}, {}).ok());
      }
      const SequenceId id = OpenSequence(*engine, 20);
      for (const std::size_t begin : {0, 10}) {
        std::vector<float>& part = logits[empty_steps];
        std::vector<float> some;
        const Span span =
            LogitsSpan(id, std::span(tokens).subspan(begin, 10), 0, some, vocab);
        Forward(*engine, std::span(&span, 1));
        part.insert(part.end(), some.begin(), some.end());
        if (empty_steps) {
          EXPECT_TRUE(engine->Forward({}, {}).ok());
        }
      }
    }
    EXPECT_TRUE(SameBits(logits[0], logits[1])) << name;
  }
}

TEST(ModelEngineTest, TheCacheMayBeAShareOfWhatTheHostHasLeft) {
  const ModelFolder folder(FamilyConfig("paper"));
  ModelEngineOptions options;
  options.model_dir = folder.path();
  options.backend.num_threads = 1;
  options.expanded_bytes = 1 << 20;
  options.host_bytes = 64 << 20;
  options.cache_share = 0.5;
  const auto engine = ModelEngine::Create(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const DeviceBytes& bytes = (*engine)->info().device_bytes;
  const std::int64_t left =
      options.host_bytes - bytes.weights - bytes.expanded - bytes.state - bytes.work;
  const std::int64_t page = options.page_tokens * (*engine)->cache_bytes_per_token();
  EXPECT_EQ((*engine)->info().num_pages, left / 2 / page);
  EXPECT_EQ(bytes.cache, (*engine)->info().num_pages * page);
  // With less than all else takes there is no page.
  options.host_bytes -= left;
  EXPECT_TRUE(absl::IsResourceExhausted(ModelEngine::Create(options).status()));
}

TEST(ModelEngineTest, OptionsOutOfBoundsAreNamedWithTheirLimits) {
  const ModelFolder folder(FamilyConfig("paper"));
  ModelEngineOptions options;
  options.model_dir = folder.path();
  options.page_tokens = 0;
  EXPECT_EQ(ModelEngine::Create(options).status().message(),
            "page_tokens is 0; it must be in [1, 256]");
  options.page_tokens = 64;
  options.cache_bytes = 100;
  EXPECT_EQ(ModelEngine::Create(options).status().message(),
            "cache_bytes is 100; one page takes 640");
  options.cache_bytes = 1 << 20;
  options.cache_storage = StorageType::kFp8;
  EXPECT_EQ(ModelEngine::Create(options).status().message(),
            "cache_storage is fp8; it must be the compute type or int8");
  options.cache_storage = StorageType::kCompute;
  options.cache_share = 0.96;
  EXPECT_EQ(ModelEngine::Create(options).status().message(),
            "cache_share is 0.96; it must be in [0, 0.95]");
  options.cache_share = 0.0;
  options.backend.cpu_isa = "z80";
  EXPECT_EQ(ModelEngine::Create(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace goldfinch
