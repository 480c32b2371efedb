// The law of the house: a sequence's logits are the same bits whatever shares its batch,
// however its prompt is cut, wherever its pages and expanded tiles lie, however many
// threads there are, and on whichever instruction set of one numerics id.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "engine/backend/create_backend.h"
#include "engine/kernels/cpu/tables.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kWhole[] = {1300};

// However the tokens are cut, the logits of all of them are those of one piece.
void CheckChunkings(Engine& engine, std::span<const TokenId> tokens,
                    std::initializer_list<std::int64_t> sizes) {
  const std::vector<float> whole = FeedInChunks(engine, tokens, kWhole);
  for (const std::int64_t size : sizes) {
    EXPECT_TRUE(SameBits(FeedInChunks(engine, tokens, {&size, 1}), whole))
        << "chunks of " << size;
  }
}

class InvarianceTest
    : public testing::TestWithParam<std::tuple<std::string, ComputeType>> {
 protected:
  const ModelConfig& config() const { return FamilyConfig(std::get<0>(GetParam())); }
  std::unique_ptr<ModelEngine> Make(
      const std::function<void(ModelEngineOptions&)>& change = {}) {
    return MakeEngine(folder_.path(), std::get<1>(GetParam()), change);
  }
  std::vector<TokenId> Tokens(std::int64_t count, std::uint64_t seed = 1) {
    return RandomTokens(count, config().vocab_size, seed);
  }

  const ModelFolder folder_{config()};
};

TEST_P(InvarianceTest, EveryChunkingGivesTheSameBits) {
  auto engine = Make();
  const std::vector<TokenId> tokens = Tokens(200);
  const std::vector<float> whole = FeedInChunks(*engine, tokens, kWhole);
  for (const std::int64_t chunk : {1, 2, 3, 5, 12, 13, 31, 63, 64, 65, 127, 199}) {
    const std::int64_t chunks[] = {chunk};
    EXPECT_TRUE(SameBits(FeedInChunks(*engine, tokens, chunks), whole))
        << "chunks of " << chunk;
  }
  const std::int64_t uneven[] = {7, 1, 1, 60, 2, 64, 1, 30};
  EXPECT_TRUE(SameBits(FeedInChunks(*engine, tokens, uneven), whole));
}

TEST_P(InvarianceTest, LastLogitsAloneAreTheBitsOfScoringEveryPosition) {
  auto engine = Make();
  const std::vector<TokenId> tokens = Tokens(150);
  const std::vector<float> all = FeedInChunks(*engine, tokens, kWhole);
  const auto vocab = static_cast<std::size_t>(config().vocab_size);
  for (const std::int64_t first : {1, 2, 3, 8, 70, 128, 149}) {
    const std::span<const float> tail =
        std::span(all).subspan(static_cast<std::size_t>(first) * vocab);
    for (const std::int64_t chunk : {1, 3, 64, 150}) {
      const std::int64_t chunks[] = {chunk};
      EXPECT_TRUE(SameBits(FeedInChunks(*engine, tokens, chunks, first), tail))
          << "from " << first << " in chunks of " << chunk;
    }
  }
}

// Runs `count` sequences of different lengths at once, every step a random mix of
// decoding tokens and prompt chunks, and compares each with itself alone.
void CheckManyAtOnce(ModelEngine& engine, int count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::int32_t vocab = engine.info().vocab_size;
  struct Run {
    std::vector<TokenId> tokens;
    std::vector<float> solo, batched;
    SequenceId id = SequenceId::kNone;
    std::size_t fed = 0;
  };
  std::vector<Run> runs(static_cast<std::size_t>(count));
  for (Run& run : runs) {
    run.tokens =
        RandomTokens(1 + static_cast<std::int64_t>(random() % 100), vocab, random());
    run.solo = FeedInChunks(engine, run.tokens, kWhole);
  }
  for (Run& run : runs)
    run.id = OpenSequence(engine, static_cast<std::int64_t>(run.tokens.size()));
  std::vector<std::vector<float>> logits(runs.size());
  for (bool busy = true; busy;) {
    std::vector<Span> batch;
    std::vector<Run*> members;
    for (Run& run : runs) {
      const std::size_t left = run.tokens.size() - run.fed;
      if (left == 0 || random() % 4 == 0) continue;
      const std::size_t chunk =
          std::min<std::size_t>(left, random() % 3 == 0 ? 1 + random() % 18 : 1);
      batch.push_back(LogitsSpan(run.id, std::span(run.tokens).subspan(run.fed, chunk), 0,
                                 logits[batch.size()], vocab));
      run.fed += chunk;
      members.push_back(&run);
    }
    if (!batch.empty()) Forward(engine, batch);
    for (std::size_t i = 0; i < members.size(); ++i)
      members[i]->batched.insert(members[i]->batched.end(), logits[i].begin(),
                                 logits[i].end());
    busy = std::any_of(runs.begin(), runs.end(),
                       [](const Run& run) { return run.fed < run.tokens.size(); });
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    EXPECT_TRUE(SameBits(runs[i].batched, runs[i].solo)) << "sequence " << i;
    engine.Close(runs[i].id);
  }
  EXPECT_EQ(engine.usage().slots_used, 0);
  EXPECT_EQ(engine.usage().pages_used, 0);
}

TEST_P(InvarianceTest, ABatchOf64GivesTheBitsOf64SoloRuns) {
  auto engine = Make([](ModelEngineOptions& options) { options.max_sequences = 64; });
  CheckManyAtOnce(*engine, 64, 11);
}

TEST_P(InvarianceTest, AFullArenaGivesTheSameBitsAsAnEmptyOne) {
  const std::vector<TokenId> tokens = Tokens(300);
  const std::int64_t chunks[] = {90, 1, 1, 70};
  const std::vector<float> roomy = FeedInChunks(*Make(), tokens, chunks);
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{1} << 17}) {
    for (const std::int32_t page : {1, 7, 64}) {
      auto engine = Make([&](ModelEngineOptions& options) {
        options.expanded_bytes = bytes;
        options.page_tokens = page;
      });
      auto same_pages =
          Make([&](ModelEngineOptions& options) { options.page_tokens = page; });
      EXPECT_TRUE(SameBits(FeedInChunks(*engine, tokens, chunks),
                           FeedInChunks(*same_pages, tokens, chunks)))
          << bytes << " bytes, pages of " << page;
      if (page == 64) {
        EXPECT_TRUE(SameBits(FeedInChunks(*engine, tokens, chunks), roomy));
      }
    }
  }
}

// Feeds all but the last token, prepares that one's step `part` tokens at a time, and
// gives its logits.
std::vector<float> LastLogitsPrepared(ModelEngine& engine,
                                      std::span<const TokenId> tokens,
                                      std::int64_t part) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const SequenceId id = OpenSequence(engine, count, count - 1);
  // Before the rows that GOLD layers run on, so that nothing is expanded yet.
  const auto fed = static_cast<std::size_t>(count - 60);
  Span span;
  span.sequence = id;
  span.tokens = tokens.first(fed);
  Forward(engine, std::span(&span, 1));
  std::int64_t calls = 0;
  while (!engine.Prepare(id, 60, part).ready) ++calls;
  EXPECT_LE(calls, count / part);
  std::vector<float> logits;
  span = LogitsSpan(id, tokens.subspan(fed), 59, logits, engine.info().vocab_size);
  Forward(engine, std::span(&span, 1));
  engine.Close(id);
  return logits;
}

TEST_P(InvarianceTest, APreparedPastGivesTheSameBits) {
  const std::vector<TokenId> tokens = Tokens(300);
  for (const std::int64_t bytes : {std::int64_t{1} << 24, std::int64_t{1} << 17}) {
    for (const std::int32_t page : {1, 7, 64}) {
      auto engine = Make([&](ModelEngineOptions& options) {
        options.expanded_bytes = bytes;
        options.page_tokens = page;
      });
      const std::vector<float> whole = FeedInChunks(*engine, tokens, kWhole, 299);
      for (const std::int64_t part : {1, 5, 64, 1000}) {
        EXPECT_TRUE(SameBits(LastLogitsPrepared(*engine, tokens, part), whole))
            << bytes << " bytes, pages of " << page << ", parts of " << part;
      }
    }
  }
}

TEST_P(InvarianceTest, AVocabularyTableDoesNotChangeBits) {
  const std::vector<TokenId> tokens = Tokens(150);
  const std::int64_t chunks[] = {90, 1, 1, 40};
  const std::vector<float> without = FeedInChunks(*Make(), tokens, chunks);
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{1} << 24}) {
    auto engine = Make([&](ModelEngineOptions& options) {
      options.vocab_table = true;
      options.expanded_bytes = bytes;
    });
    EXPECT_TRUE(SameBits(FeedInChunks(*engine, tokens, chunks), without));
  }
}

TEST_P(InvarianceTest, SequencesThatFightOverTheArenaKeepTheirBits) {
  auto engine = Make([](ModelEngineOptions& options) {
    options.expanded_bytes = 1 << 18;
    options.page_tokens = 16;
    options.max_sequences = 24;
  });
  CheckManyAtOnce(*engine, 24, 5);
}

TEST_P(InvarianceTest, HoldsWithInt8WeightsAndAnInt8CacheToo) {
  auto engine = Make([](ModelEngineOptions& options) {
    options.weight_storage = StorageType::kInt8;
    options.cache_storage = StorageType::kInt8;
    options.max_sequences = 24;
  });
  CheckChunkings(*engine, Tokens(200), {1, 12, 13, 64, 65});
  CheckManyAtOnce(*engine, 24, 3);
}

TEST_P(InvarianceTest, HoldsWithFp8WeightsToo) {
  auto engine = Make([](ModelEngineOptions& options) {
    options.weight_storage = StorageType::kFp8;
    options.max_sequences = 24;
  });
  EXPECT_NE(engine->info().numerics_id.find("-wf8-"), std::string::npos);
  CheckChunkings(*engine, Tokens(200), {1, 12, 13, 64, 65});
  CheckManyAtOnce(*engine, 24, 3);
}

TEST_P(InvarianceTest, HoldsWithFp8WeightsOnTheEmulatedDevice) {
  auto engine = Make([](ModelEngineOptions& options) {
    options.backend.kind = "cuda_emulated";
    options.weight_storage = StorageType::kFp8;
  });
  CheckChunkings(*engine, Tokens(100), {1, 13, 64});
}

TEST_P(InvarianceTest, TheNumberOfThreadsDoesNotMatter) {
  const std::vector<TokenId> tokens = Tokens(140);
  const std::int64_t chunks[] = {65, 1, 2, 40};
  std::vector<float> one;
  for (const int threads : {1, 2, 3, 5}) {
    auto engine =
        Make([&](ModelEngineOptions& options) { options.backend.num_threads = threads; });
    const std::vector<float> logits = FeedInChunks(*engine, tokens, chunks);
    if (one.empty()) one = logits;
    EXPECT_TRUE(SameBits(logits, one)) << threads << " threads";
  }
}

TEST_P(InvarianceTest, HoldsOnACudaDevice) {
  if (const auto backend = CreateBackend({.kind = "cuda"}); !backend.ok())
    GTEST_SKIP() << backend.status().message();
  auto engine = Make([](ModelEngineOptions& options) { options.backend.kind = "cuda"; });
  CheckChunkings(*engine, Tokens(200), {1, 3, 13, 63, 64, 65, 127});
  engine = Make([](ModelEngineOptions& options) {
    options.backend.kind = "cuda";
    options.max_sequences = 64;
  });
  CheckManyAtOnce(*engine, 64, 5);
}

TEST_P(InvarianceTest, HoldsOnTheEmulatedDevice) {
  auto engine =
      Make([](ModelEngineOptions& options) { options.backend.kind = "cuda_emulated"; });
  CheckChunkings(*engine, Tokens(100), {1, 13, 64});
}

TEST_P(InvarianceTest, HoldsOnEveryInstructionSetByItself) {
  const std::vector<TokenId> tokens = Tokens(100);
  for (const std::string& isa : CpuIsas()) {
    if (!SelectCpuKernels(isa).ok()) continue;
    auto engine =
        Make([&](ModelEngineOptions& options) { options.backend.cpu_isa = isa; });
    SCOPED_TRACE(isa);
    CheckChunkings(*engine, tokens, {1, 13, 64});
  }
}

TEST_P(InvarianceTest, InstructionSetsOfOneNumericsIdGiveTheSameBits) {
  const std::vector<TokenId> tokens = Tokens(150);
  for (const StorageType storage :
       {StorageType::kCompute, StorageType::kInt8, StorageType::kFp8}) {
    std::map<std::string, std::vector<float>> of_numerics;
    for (const std::string& isa : CpuIsas()) {
      if (!SelectCpuKernels(isa).ok()) continue;
      auto engine = Make([&](ModelEngineOptions& options) {
        options.backend.cpu_isa = isa;
        options.weight_storage = storage;
        if (storage != StorageType::kCompute) options.cache_storage = StorageType::kInt8;
      });
      SCOPED_TRACE(isa);
      // A prompt, and tokens one by one behind it.
      std::vector<std::int64_t> chunks(20, 1);
      chunks[0] = 131;
      const std::vector<float> logits = FeedInChunks(*engine, tokens, chunks);
      const auto [known, is_new] =
          of_numerics.try_emplace(engine->info().numerics_id, logits);
      EXPECT_TRUE(is_new || SameBits(known->second, logits)) << known->first;
    }
  }
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const FamilyMember& member : Family()) names.push_back(member.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(
    Family, InvarianceTest,
    testing::Combine(testing::ValuesIn(Names()),
                     testing::Values(ComputeType::kF32, ComputeType::kBf16)),
    [](const auto& test) {
      return std::get<0>(test.param) +
             (std::get<1>(test.param) == ComputeType::kF32 ? "_f32" : "_bf16");
    });

}  // namespace
}  // namespace goldfinch
