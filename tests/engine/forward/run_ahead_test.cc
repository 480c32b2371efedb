// Steps queued behind the one that runs, on the emulated device, which does nothing
// before the host waits for it: tokens, states and what is kept have the bits of single
// steps.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/backend/create_backend.h"
#include "gtest/gtest.h"
#include "tests/emulation/emulation.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

using emulation::Order;

struct Kind {
  std::string model;
  ComputeType type;
  StorageType cache = StorageType::kCompute;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.model; }

class RunAheadTest : public testing::TestWithParam<std::tuple<Kind, std::string>> {
 protected:
  void SetUp() override {
    if (!Emulated() && !CreateBackend({.kind = "cuda"}).ok())
      GTEST_SKIP() << "no CUDA device";
  }
  ~RunAheadTest() override {
    emulation::SetOrder(Order::kForward);
    emulation::FailCall(-1);
  }
  bool Emulated() const { return std::get<1>(GetParam()) == "cuda_emulated"; }

  // Pages of few tokens, and an arena that has no room for the longest.
  std::unique_ptr<ModelEngine> Make(bool run_ahead, bool graphs = true) const {
    return MakeEngine(folder_.path(), kind_.type, [&](ModelEngineOptions& options) {
      options.backend.kind = std::get<1>(GetParam());
      options.cache_storage = kind_.cache;
      options.run_ahead = run_ahead;
      options.backend.cuda_graphs = graphs;
      options.expanded_bytes = 100'000;
      options.page_tokens = 8;
      options.max_sequences = 6;
    });
  }

  // A generation that ends with its `count`-th token, which nobody knows before.
  struct Generation {
    std::int64_t prompt = 0;
    std::size_t count = 0;
    SequenceId id = SequenceId::kNone;
    std::vector<SampledToken> out = {};
    // When it had ended; here, and as an image.
    PrefixId kept = PrefixId::kNone;
    PrefixImage image = {};
    // Logits of one more token after either.
    std::vector<float> after_kept = {}, after_image = {};
  };
  // Ends at and beside the ends of pages, some in the same step.
  static std::vector<Generation> Generations() {
    return {{.prompt = 3, .count = 5},
            {.prompt = 9, .count = 7},
            {.prompt = 12, .count = 5},
            {.prompt = 25, .count = 8}};
  }

  TokenId LastToken(const Generation& one) const {
    return one.out.empty() ? tokens_[static_cast<std::size_t>(one.prompt - 1)]
                           : one.out.back().token;
  }

  void Start(ModelEngine& engine, std::vector<Generation>& all) const {
    std::vector<Span> batch;
    for (std::size_t i = 0; i < all.size(); ++i) {
      SamplingParams params;
      params.seed = i;
      params.temperature = i == 1 ? 0.0f : 1.0f;
      params.num_logprobs = i == 2 ? 3 : -1;
      if (i == 3) params.logit_bias = {{5, 2.0f}};
      if (i >= 2) {
        params.presence_penalty = 3.0f;
        params.frequency_penalty = 2.0f;
        params.repetition_penalty = 1.5f;
      }
      all[i].id = OpenSequence(engine, 100, all[i].prompt - 1, params);
      batch.push_back({});
      batch.back().sequence = all[i].id;
      batch.back().tokens =
          std::span(tokens_).first(static_cast<std::size_t>(all[i].prompt - 1));
    }
    Forward(engine, batch);
  }

  // Decodes all of them, at most `ahead` steps behind a first one, and so on.
  absl::Status Decode(ModelEngine& engine, std::vector<Generation>& all,
                      int ahead) const {
    const auto alive = [&] {
      std::vector<Generation*> some;
      for (Generation& one : all)
        if (one.id != SequenceId::kNone) some.push_back(&one);
      return some;
    };
    for (std::vector<Generation*> current = alive(); !current.empty();
         current = alive()) {
      std::vector<TokenId> last;
      for (const Generation* one : current) last.push_back(LastToken(*one));
      std::vector<Span> batch;
      for (std::size_t i = 0; i < current.size(); ++i) {
        batch.push_back({});
        batch.back().sequence = current[i]->id;
        batch.back().tokens = std::span(last).subspan(i, 1);
        batch.back().output = SpanOutput::kSample;
      }
      std::vector<SpanResult> results(batch.size());
      engine.Queue(batch, results);
      for (int i = 0;; ++i) {
        // Those that have ended are not in it any more.
        const std::vector<Generation*> queued = alive();
        std::vector<SequenceId> ids;
        for (const Generation* one : queued) ids.push_back(one->id);
        std::vector<SpanResult> next_results(ids.size());
        const bool is_queued = i < ahead && engine.QueueNext(ids, next_results);
        EXPECT_EQ(is_queued, i < ahead && !ids.empty() && engine.info().runs_ahead);
        if (absl::Status status = engine.Wait(); !status.ok()) return status;
        for (std::size_t k = 0; k < current.size(); ++k)
          if (current[k]->id != SequenceId::kNone)
            TakeToken(engine, *current[k], results[k].sample);
        if (!is_queued) break;
        current = queued;
        results = std::move(next_results);
      }
    }
    return absl::OkStatus();
  }

  static void TakeToken(ModelEngine& engine, Generation& one,
                        const SampledToken& sample) {
    one.out.push_back(sample);
    if (one.out.size() < one.count) return;
    one.kept = engine.Keep(one.id);
    engine.Close(std::exchange(one.id, SequenceId::kNone));
    EXPECT_TRUE(engine.Save(one.kept, one.image).ok() || engine.lost());
  }

  std::vector<float> LogitsAfter(ModelEngine& engine, PrefixId prefix,
                                 std::int64_t length) const {
    const auto id =
        engine.OpenFrom(prefix, {.max_tokens = 110, .first_logits = length}, {});
    EXPECT_TRUE(id.ok());
    std::vector<float> logits;
    const Span span =
        LogitsSpan(*id, std::span(tokens_).first(1), 0, logits, engine.info().vocab_size);
    Forward(engine, std::span(&span, 1));
    engine.Close(*id);
    engine.Drop(prefix);
    return logits;
  }

  std::vector<Generation> Run(ModelEngine& engine, int ahead) const {
    std::vector<Generation> all = Generations();
    Start(engine, all);
    EXPECT_TRUE(Decode(engine, all, ahead).ok());
    for (Generation& one : all) {
      one.after_kept = LogitsAfter(engine, one.kept, one.image.length);
      const auto loaded = engine.Load(one.image);
      EXPECT_TRUE(loaded.ok());
      one.after_image = LogitsAfter(engine, *loaded, one.image.length);
    }
    EXPECT_EQ(engine.usage().slots_used, 0);
    EXPECT_EQ(engine.usage().pages_used, 0);
    return all;
  }

  static void ExpectSame(const std::vector<Generation>& got,
                         const std::vector<Generation>& want) {
    for (std::size_t i = 0; i < want.size(); ++i) {
      SCOPED_TRACE(i);
      ASSERT_EQ(got[i].out.size(), want[i].out.size());
      for (std::size_t k = 0; k < want[i].out.size(); ++k) {
        EXPECT_EQ(got[i].out[k].token, want[i].out[k].token) << k;
        EXPECT_EQ(got[i].out[k].logprob, want[i].out[k].logprob) << k;
        EXPECT_EQ(got[i].out[k].top.size(), want[i].out[k].top.size()) << k;
      }
      EXPECT_EQ(got[i].image.length, want[i].image.length);
      EXPECT_EQ(got[i].image.tokens, want[i].image.tokens);
      EXPECT_TRUE(std::ranges::equal(got[i].image.keys, want[i].image.keys));
      EXPECT_TRUE(std::ranges::equal(got[i].image.state, want[i].image.state));
      EXPECT_TRUE(SameBits(got[i].after_kept, want[i].after_kept));
      EXPECT_TRUE(SameBits(got[i].after_image, want[i].after_kept));
    }
  }

  const Kind kind_ = std::get<0>(GetParam());
  const ModelFolder folder_{FamilyConfig(kind_.model)};
  const std::vector<TokenId> tokens_ =
      RandomTokens(100, FamilyConfig(kind_.model).vocab_size, 3);
};

TEST_P(RunAheadTest, TokensStatesAndWhatIsKeptAreThoseOfSingleSteps) {
  const auto single = Make(/*run_ahead=*/false);
  EXPECT_FALSE(single->info().runs_ahead);
  const std::vector<Generation> want = Run(*single, /*ahead=*/3);
  const auto engine = Make(/*run_ahead=*/true);
  EXPECT_TRUE(engine->info().runs_ahead);
  EXPECT_EQ(engine->info().numerics_id, single->info().numerics_id);
  const std::int64_t allocations = emulation::NumAllocations();
  for (const int ahead : {2, 100}) {
    SCOPED_TRACE(ahead);
    ExpectSame(Run(*engine, ahead), want);
  }
  EXPECT_EQ(emulation::NumAllocations(), allocations);
  emulation::SetOrder(Order::kShuffled);
  ExpectSame(Run(*Make(/*run_ahead=*/true, /*graphs=*/false), 100), want);
}

// The states of a step that runs ahead have a place for every sequence there may be.
TEST_P(RunAheadTest, EverySequenceHasASecondState) {
  const auto engine = Make(/*run_ahead=*/true), single = Make(/*run_ahead=*/false);
  EXPECT_EQ(engine->info().device_bytes.state, 2 * single->info().device_bytes.state);
  std::vector<Generation> all(6, {.prompt = 3, .count = 3});
  Start(*engine, all);
  EXPECT_TRUE(Decode(*engine, all, 100).ok());
}

// Of the emulated device alone: another one cannot be told to fail, and where there is
// one, no test of it may be left out.
class RunAheadFaultTest : public RunAheadTest {};

TEST_P(RunAheadFaultTest, AFaultInEitherStepIsAnErrorAndEverythingCanBeClosed) {
  const auto counted = Make(/*run_ahead=*/true);
  std::vector<Generation> all = Generations();
  Start(*counted, all);
  const std::int64_t started = emulation::NumCalls();
  ASSERT_TRUE(Decode(*counted, all, 100).ok());
  const std::int64_t calls = emulation::NumCalls() - started;
  ASSERT_GT(calls, 100);
  for (const std::int64_t at : {calls / 4, calls / 2}) {
    const auto engine = Make(/*run_ahead=*/true);
    std::vector<Generation> some = Generations();
    Start(*engine, some);
    emulation::FailCall(at);
    EXPECT_TRUE(absl::IsInternal(Decode(*engine, some, 100))) << at;
    emulation::FailCall(-1);
    EXPECT_TRUE(engine->lost());
    for (const Generation& one : some)
      if (one.id != SequenceId::kNone) engine->Close(one.id);
    EXPECT_EQ(engine->usage().slots_used, 0);
  }
}

// Names that scripts/gpu_check.sh picks.
auto Kinds() {
  return testing::Values(Kind{"three_gold_rope", ComputeType::kF32},
                         Kind{"three_gold_rope", ComputeType::kBf16, StorageType::kInt8},
                         Kind{"finch_only", ComputeType::kBf16});
}
std::string CaseName(const testing::TestParamInfo<std::tuple<Kind, std::string>>& test) {
  const Kind& kind = std::get<0>(test.param);
  return kind.model + (kind.cache == StorageType::kInt8 ? "_int8_" : "_") +
         std::get<1>(test.param) + (kind.type == ComputeType::kF32 ? "_f32" : "_bf16");
}
INSTANTIATE_TEST_SUITE_P(Devices, RunAheadTest,
                         testing::Combine(Kinds(),
                                          testing::Values("cuda_emulated", "cuda")),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Devices, RunAheadFaultTest,
                         testing::Combine(Kinds(), testing::Values("cuda_emulated")),
                         CaseName);

}  // namespace
}  // namespace goldfinch
