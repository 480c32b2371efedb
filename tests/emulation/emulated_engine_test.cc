// What only the emulated device can show of the CUDA backend: that no kernel depends on
// the order of its threads, that a step allocates nothing, what a fault becomes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/backend/create_backend.h"
#include "engine/model/dtype_names.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/emulation/emulated_backend.h"
#include "tests/emulation/emulation.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

using emulation::Order;

class EmulatedEngineTest : public testing::TestWithParam<ComputeType> {
 protected:
  void SetUp() override { emulation::ForgetKernels(); }
  void TearDown() override {
    emulation::SetOrder(Order::kForward);
    emulation::FailCall(-1);
    emulation::SetDeviceMemory(-1);
    emulation::SetGraphs(emulation::Graphs::kAny);
  }
  // A small arena, so that some pages are rebuilt into scratch tiles.
  std::unique_ptr<ModelEngine> Make(double cache_share = 0.0,
                                    StorageType cache = StorageType::kCompute) {
    return MakeEngine(folder_.path(), GetParam(), [&](ModelEngineOptions& options) {
      options.cache_share = cache_share;
      options.cache_storage = cache;
      options.backend.kind = "cuda_emulated";
      options.expanded_bytes = 1 << 18;
      options.page_tokens = 8;
    });
  }
  // A small engine, or why there is none.
  absl::StatusOr<std::unique_ptr<ModelEngine>> Create(bool graphs) const {
    auto checkpoint = Checkpoint::Load(folder_.path());
    if (!checkpoint.ok()) return checkpoint.status();
    CudaBackendOptions device = cuda_emulated::kTightOptions;
    device.graphs = graphs;
    auto backend = cuda_emulated::CreateCudaBackend(device);
    if (!backend.ok()) return backend.status();
    ModelEngineOptions options;
    options.compute_type = GetParam();
    options.cache_bytes = options.expanded_bytes = 1 << 20;
    options.max_sequences = 2;
    return ModelEngine::Create(options, *checkpoint, *std::move(backend));
  }
  std::vector<float> Feed(Engine& engine) const {
    const std::int64_t chunks[] = {70, 1, 9};
    return FeedInChunks(engine, tokens_, chunks);
  }

  // A sequence of so many tokens.
  SequenceId Started(Engine& engine, std::size_t count = 5) const {
    Span span;
    span.sequence = OpenSequence(engine, 10);
    span.tokens = std::span(tokens_).first(count);
    SpanResult result;
    EXPECT_TRUE(engine.Forward(std::span(&span, 1), std::span(&result, 1)).ok());
    return span.sequence;
  }

  // Logits of decode steps of one sequence up to all ten, and back.
  static constexpr std::size_t kDecodeSteps = 12;
  std::vector<float> DecodeTogether(Engine& engine) const {
    std::vector<SequenceId> open;
    std::vector<std::int64_t> fed;
    for (std::size_t i = 0; i < 10; ++i) {
      open.push_back(OpenSequence(engine, 100));
      fed.push_back(static_cast<std::int64_t>(3 + 7 * i));
      Span span;
      span.sequence = open.back();
      span.tokens = std::span(tokens_).first(static_cast<std::size_t>(fed.back()));
      Forward(engine, std::span(&span, 1));
    }
    std::vector<float> all;
    for (std::size_t step = 0; step < kDecodeSteps; ++step) {
      constexpr std::size_t kCounts[kDecodeSteps] = {1,  1, 2, 3, 9, 10,
                                                     10, 5, 4, 2, 1, 1};
      const std::size_t count = kCounts[step];
      std::vector<Span> batch;
      std::vector<std::vector<float>> logits(count);
      for (std::size_t i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(fed[i]++);
        batch.push_back(LogitsSpan(open[i], std::span(tokens_).subspan(at, 1), 0,
                                   logits[i], engine.info().vocab_size));
      }
      Forward(engine, batch);
      for (const std::vector<float>& some : logits)
        all.insert(all.end(), some.begin(), some.end());
    }
    for (const SequenceId id : open) engine.Close(id);
    return all;
  }

  // A step of a sequence that is scored and of one that samples with everything on.
  absl::Status SampleAndScore(Engine& engine) const {
    SamplingParams params;
    params.top_k = 20;
    params.top_p = 0.9f;
    params.repetition_penalty = 1.1f;
    params.logit_bias = {{3, 1.0f}};
    params.min_tokens = 5;
    params.banned_before_min_tokens = {0};
    params.num_logprobs = 5;
    const std::span<const TokenId> tokens = std::span(tokens_).first(5);
    std::vector<Span> batch(2);
    for (Span& span : batch) {
      span.sequence = OpenSequence(engine, 10, 0, params);
      span.tokens = tokens;
    }
    batch[0].output = SpanOutput::kSample;
    batch[1].output = SpanOutput::kScore;
    batch[1].targets = tokens;
    std::vector<SpanResult> results(2);
    const absl::Status status = engine.Forward(batch, results);
    const TokenId token = results[0].sample.token;
    EXPECT_TRUE(token >= 0 && token < engine.info().vocab_size) << token;
    for (const Span& span : batch) engine.Close(span.sequence);
    return status;
  }

  const ModelFolder folder_{FamilyConfig("three_gold_rope")};
  const std::vector<TokenId> tokens_ =
      RandomTokens(100, FamilyConfig("three_gold_rope").vocab_size, 3);
};

TEST_P(EmulatedEngineTest, BitsDoNotDependOnTheOrderOfThreads) {
  std::vector<float> first;
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    emulation::SetOrder(order);
    const auto engine = Make();
    const std::vector<float> logits = Feed(*engine);
    if (first.empty()) first = logits;
    EXPECT_TRUE(SameBits(logits, first)) << static_cast<int>(order);
  }
}

TEST_P(EmulatedEngineTest, StepsAllocateNothingAndAnEngineGivesAllMemoryBack) {
  const std::int64_t bytes = emulation::AllocatedBytes();
  {
    const auto engine = Make();
    const std::int64_t allocations = emulation::NumAllocations();
    const std::int64_t kernels = emulation::NumLoadedKernels();
    Feed(*engine);
    EXPECT_TRUE(SampleAndScore(*engine).ok());
    EXPECT_EQ(emulation::NumAllocations(), allocations);
    EXPECT_EQ(emulation::NumLoadedKernels(), kernels);
    EXPECT_GT(emulation::AllocatedBytes(), bytes);
  }
  EXPECT_EQ(emulation::AllocatedBytes(), bytes);
}

TEST_P(EmulatedEngineTest, TheMemoryThatIsToldIsWhatTheDeviceGave) {
  const std::int64_t before = emulation::DeviceBytes();
  const auto engine = Make();
  const DeviceBytes& bytes = engine->info().device_bytes;
  EXPECT_EQ(bytes.weights + bytes.cache + bytes.expanded + bytes.state + bytes.work,
            emulation::DeviceBytes() - before);
}

TEST_P(EmulatedEngineTest, TheCacheMayBeAShareOfWhatTheDeviceHasLeft) {
  constexpr std::int64_t kTotal = 96 << 20;
  const std::int64_t before = emulation::DeviceBytes();
  emulation::SetDeviceMemory(before + kTotal);
  const auto engine = Make(/*cache_share=*/0.6);
  const std::int64_t cache = engine->info().device_bytes.cache;
  const std::int64_t rest = emulation::DeviceBytes() - before - cache;
  const std::int64_t page = engine->info().page_tokens * engine->cache_bytes_per_token();
  EXPECT_EQ(cache / page, (kTotal - rest) * 6 / 10 / page);
  emulation::SetDeviceMemory(-1);
  const auto other = Make();
  EXPECT_NE(other->info().num_pages, engine->info().num_pages);
  EXPECT_EQ(Feed(*engine), Feed(*other));
}

// Sequences of several lengths decode together, more and fewer of them, some over pages
// beyond the arena: with graphs, and without.
TEST_P(EmulatedEngineTest, GraphsOfDecodeStepsHaveTheBitsOfWhatTheyWereRecordedFrom) {
  std::vector<std::vector<float>> logits;
  std::vector<std::int64_t> launches;
  for (const bool graphs : {true, false}) {
    emulation::ForgetKernels();
    const auto engine = MakeEngine(folder_.path(), GetParam(), [&](auto& options) {
      options.backend.kind = "cuda_emulated";
      options.backend.cuda_graphs = graphs;
      options.expanded_bytes = 1 << 18;
      options.page_tokens = 8;
      options.max_sequences = 10;
    });
    const std::int64_t before = emulation::NumGraphLaunches();
    const std::int64_t allocations = emulation::NumAllocations();
    const std::int64_t kernels = emulation::NumLoadedKernels();
    logits.push_back(DecodeTogether(*engine));
    launches.push_back(emulation::NumGraphLaunches() - before);
    EXPECT_EQ(emulation::NumAllocations(), allocations);
    EXPECT_EQ(emulation::NumLoadedKernels(), kernels);
  }
  EXPECT_TRUE(SameBits(logits[0], logits[1]));
  EXPECT_EQ(launches[1], 0);
  // The recurrent half of each step, and the other one of those whose pasts are expanded.
  EXPECT_GT(launches[0], kDecodeSteps);
  EXPECT_LT(launches[0], 2 * kDecodeSteps);
}

// A kernel's start takes about as long as what many of them do for one sequence, so their
// number is kept small (ARCHITECTURE.md).
TEST_P(EmulatedEngineTest, ADecodeStepIsSoManyKernels) {
  const ModelConfig& config = FamilyConfig("three_gold_rope");
  constexpr std::int64_t kRecurrentLayer = 11, kGoldLayer = 13, kRest = 22;
  const auto engine = Make();
  Span span;
  span.sequence = Started(*engine);
  span.output = SpanOutput::kSample;
  SpanResult result;
  for (std::size_t i = 0; i < 3; ++i) {
    span.tokens = std::span(tokens_).subspan(i, 1);
    const std::int64_t before = emulation::NumKernels();
    ASSERT_TRUE(engine->Forward(std::span(&span, 1), std::span(&result, 1)).ok());
    EXPECT_EQ(emulation::NumKernels() - before, kRecurrentLayer * config.num_recurrent() +
                                                    kGoldLayer * config.num_gold() +
                                                    kRest);
  }
}

// Rows of logits go up with what the step reads; with those that sample goes what
// sampling reads.
TEST_P(EmulatedEngineTest, LogitsOfADecodeStepNeedNoCopyOfTheirOwn) {
  const auto engine = Make();
  std::vector<Span> batch(3);
  for (Span& span : batch) span.sequence = Started(*engine);
  std::vector<SpanResult> results(batch.size());
  std::vector<std::int64_t> copies;
  for (const std::size_t samples : {0, 0, 3, 2}) {
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch[i].tokens = std::span(tokens_).subspan(5, 1);
      batch[i].output = i < samples ? SpanOutput::kSample : SpanOutput::kNone;
    }
    const std::int64_t before = emulation::NumCopiesToDevice();
    ASSERT_TRUE(engine->Forward(batch, results).ok());
    copies.push_back(emulation::NumCopiesToDevice() - before);
  }
  EXPECT_EQ(copies[2], copies[1] + 1);
  EXPECT_EQ(copies[3], copies[1] + 1);
}

// Steps have the same bits with whatever the driver leaves.
TEST_P(EmulatedEngineTest, GraphsThatTheDriverRefusesAreDoneWithout) {
  using emulation::Graphs;
  std::vector<std::vector<float>> logits;
  for (const Graphs graphs : {Graphs::kAny, Graphs::kInOrder, Graphs::kNone}) {
    emulation::SetGraphs(graphs);
    const auto engine = MakeEngine(folder_.path(), GetParam(), [&](auto& options) {
      options.backend.kind = "cuda_emulated";
      options.max_sequences = 2;
    });
    const std::string& refused = engine->info().refused;
    if (graphs == Graphs::kAny)
      EXPECT_EQ(refused, "");
    else
      EXPECT_EQ(refused, std::string(graphs == Graphs::kInOrder
                                         ? "CUDA graphs of kernels that overlap"
                                         : "CUDA graphs") +
                             ": operation not supported, found at cudaGraphInstantiate");
    const std::int64_t before = emulation::NumGraphLaunches();
    const std::int64_t chunks[] = {5, 1, 1};
    logits.push_back(FeedInChunks(*engine, std::span(tokens_).first(7), chunks));
    EXPECT_EQ(emulation::NumGraphLaunches() - before > 0, graphs != Graphs::kNone);
  }
  EXPECT_TRUE(SameBits(logits[0], logits[1]));
  EXPECT_TRUE(SameBits(logits[0], logits[2]));
}

// Whichever call finds it first, those that ask for memory included, it is not said to be
// want of memory.
TEST_P(EmulatedEngineTest, AFaultAtStartIsNamed) {
  const std::int64_t before = emulation::NumCalls();
  ASSERT_TRUE(Create(/*graphs=*/false).ok());
  const std::int64_t calls = emulation::NumCalls() - before;
  // The first ones look for a device.
  for (std::int64_t call = 8; call < calls; call += 1 + calls / 40) {
    emulation::FailCall(call);
    const absl::Status status = Create(/*graphs=*/false).status();
    emulation::FailCall(-1);
    EXPECT_TRUE(absl::IsInternal(status)) << call << " of " << calls << ": " << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("found at "));
  }
}

// Switches to tell causes apart with: none of them changes a bit, where there is no
// library.
TEST_P(EmulatedEngineTest, OverlapChangesNoBit) {
  std::vector<std::vector<float>> logits;
  for (const bool overlap : {true, false}) {
    const auto engine =
        MakeEngine(folder_.path(), GetParam(), [overlap](ModelEngineOptions& options) {
          options.backend.kind = "cuda_emulated";
          options.backend.cuda_overlap = overlap;
          options.backend.cublas = false;
          options.max_sequences = 10;
        });
    EXPECT_THAT(engine->info().numerics_id, testing::Not(testing::HasSubstr("-lt")));
    logits.push_back(DecodeTogether(*engine));
  }
  EXPECT_TRUE(SameBits(logits[0], logits[1]));
}

TEST_P(EmulatedEngineTest, AFaultWhileGraphsAreRecordedIsAnErrorOfTheEngine) {
  const std::int64_t before = emulation::NumCalls();
  ASSERT_TRUE(Create(/*graphs=*/true).ok());
  const std::int64_t calls = emulation::NumCalls() - before;
  for (const std::int64_t last : {3, 4, 5, 30}) {
    emulation::FailCall(calls - last);
    const absl::Status status = Create(/*graphs=*/true).status();
    EXPECT_TRUE(absl::IsInternal(status)) << last << " from the end: " << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("cuda_graphs=off"));
    emulation::FailCall(-1);
  }
}

// More rows than graphs are recorded of.
TEST_P(EmulatedEngineTest, NotBatchInvariantManyRowsAreTheLibrarysAndTheNumericsIdTells) {
  const bool bf16 = GetParam() == ComputeType::kBf16;
  std::vector<std::vector<float>> logits;
  for (const bool batch_invariant : {true, false}) {
    const auto engine = MakeEngine(folder_.path(), GetParam(), [&](auto& options) {
      options.backend.kind = "cuda_emulated";
      options.backend.batch_invariant = batch_invariant;
    });
    const std::string& id = engine->info().numerics_id;
    EXPECT_EQ(id.find("-nbi-") == std::string::npos, batch_invariant) << id;
    EXPECT_EQ(id.find("-lt990100-") != std::string::npos, bf16) << id;
    const std::int64_t before = NumLtProducts(emulation::LtAlgorithm::kSplit);
    const std::int64_t chunks[] = {257};
    logits.push_back(
        FeedInChunks(*engine, RandomTokens(257, engine->info().vocab_size, 4), chunks));
    EXPECT_EQ(NumLtProducts(emulation::LtAlgorithm::kSplit) > before,
              bf16 && !batch_invariant);
  }
  ASSERT_EQ(logits[0].size(), logits[1].size());
  float largest = 0.0f, difference = 0.0f;
  for (std::size_t i = 0; i < logits[0].size(); ++i) {
    largest = std::max(largest, std::abs(logits[0][i]));
    difference = std::max(difference, std::abs(logits[0][i] - logits[1][i]));
  }
  EXPECT_LE(difference, bf16 ? 0.05f * largest : 0.0f);
}

// The last calls of a step are those of sampling and scoring.
TEST_P(EmulatedEngineTest, FaultWhileSamplingIsAnInternalError) {
  const auto counted = Make();
  const std::int64_t before = emulation::NumCalls();
  ASSERT_TRUE(SampleAndScore(*counted).ok());
  const std::int64_t calls = emulation::NumCalls() - before;
  for (std::int64_t last = 1; last <= 20; ++last) {
    const auto engine = Make();
    emulation::FailCall(calls - last);
    const absl::Status status = SampleAndScore(*engine);
    EXPECT_TRUE(absl::IsInternal(status)) << last << " from the end: " << status;
    emulation::FailCall(-1);
  }
}

TEST_P(EmulatedEngineTest, FaultInAnyCallOfAStepIsAnInternalError) {
  for (const std::int64_t calls : {0, 1, 7, 40, 90}) {
    const auto engine = Make();
    const SequenceId id = OpenSequence(*engine, 10);
    const std::vector<TokenId> tokens(tokens_.begin(), tokens_.begin() + 5);
    Span span;
    span.sequence = id;
    span.tokens = tokens;
    SpanResult result;
    emulation::FailCall(calls);
    const absl::Status status =
        engine->Forward(std::span(&span, 1), std::span(&result, 1));
    EXPECT_TRUE(absl::IsInternal(status)) << calls << ": " << status;
    EXPECT_NE(status.message().find("cudaErrorIllegalAddress"), std::string::npos);
    emulation::FailCall(-1);
  }
}

TEST_P(EmulatedEngineTest, NothingIsSavedAfterAFault) {
  const auto engine = Make();
  const SequenceId id = Started(*engine);
  const PrefixId before = engine->Keep(id);
  PrefixImage image;
  EXPECT_TRUE(engine->Save(before, image).ok());
  EXPECT_FALSE(engine->lost());
  emulation::FailCall(0);
  const PrefixId after = engine->Keep(id);
  emulation::FailCall(-1);
  EXPECT_TRUE(engine->lost());
  for (const PrefixId prefix : {before, after}) {
    EXPECT_TRUE(absl::IsInternal(engine->Save(prefix, image)));
    engine->Drop(prefix);
  }
  engine->Close(id);
}

// Longer than what is staged at once, on pages in no order, the last one not full.
TEST_P(EmulatedEngineTest, LongImagesComeBackAsTheyWere) {
  for (const StorageType cache : {StorageType::kCompute, StorageType::kInt8}) {
    const auto engine = Make(0.0, cache);
    const EngineInfo& info = engine->info();
    constexpr std::int64_t kLength = 20003;
    PrefixImage image;
    image.length = kLength;
    image.tokens = RandomTokens(kLength, info.vocab_size, 5);
    std::mt19937 random(1);
    std::vector<std::byte> keys(static_cast<std::size_t>(kLength * info.key_bytes));
    std::vector<std::byte> state(static_cast<std::size_t>(info.state_bytes));
    for (std::vector<std::byte>* bytes : {&keys, &state})
      for (std::byte& byte : *bytes) byte = static_cast<std::byte>(random());
    image.keys = keys;
    image.state = state;
    PrefixImage small = image;
    small.length = 100;
    small.tokens.resize(100);
    small.keys = image.keys.first(static_cast<std::size_t>(100 * info.key_bytes));
    const auto first = engine->Load(small), second = engine->Load(small);
    ASSERT_TRUE(first.ok() && second.ok());
    engine->Drop(*first);
    const auto loaded = engine->Load(image);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    PrefixImage saved;
    const std::int64_t before = emulation::NumCalls();
    ASSERT_TRUE(engine->Save(*loaded, saved).ok());
    EXPECT_LT(emulation::NumCalls() - before, 100) << "2501 pages";
    EXPECT_EQ(saved.tokens, image.tokens);
    EXPECT_TRUE(std::ranges::equal(saved.keys, image.keys));
    EXPECT_TRUE(std::ranges::equal(saved.state, image.state));
    engine->Drop(*second);
    engine->Drop(*loaded);
  }
}

// Each copy to the host is waited for.
TEST_P(EmulatedEngineTest, AFullPageInInt8IsSavedWithTheCallsOfOneToken) {
  const auto engine = Make(0.0, StorageType::kInt8);
  std::vector<std::int64_t> calls;
  for (const std::size_t count : {1, 8}) {
    const SequenceId id = Started(*engine, count);
    const PrefixId prefix = engine->Keep(id);
    engine->Close(id);
    const std::int64_t before = emulation::NumCalls();
    PrefixImage image;
    EXPECT_TRUE(engine->Save(prefix, image).ok());
    calls.push_back(emulation::NumCalls() - before);
    engine->Drop(prefix);
  }
  EXPECT_EQ(calls[0], calls[1]);
}

// A step may come from any thread, and each thread has a device of its own.
TEST_P(EmulatedEngineTest, AnotherDeviceIsNamedOnWhicheverThreadStepsOrAllocates) {
  auto checkpoint = Checkpoint::Load(folder_.path());
  ASSERT_TRUE(checkpoint.ok());
  auto backend = cuda_emulated::CreateCudaBackend({.device = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  ModelEngineOptions options;
  options.compute_type = GetParam();
  options.cache_bytes = options.expanded_bytes = 1 << 20;
  options.page_tokens = 8;
  auto engine = ModelEngine::Create(options, *checkpoint, *std::move(backend));
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::thread([&] {
    EXPECT_EQ(Feed(**engine), Feed(*Make()));
    EXPECT_TRUE(SampleAndScore(**engine).ok());
    const PrefixId prefix = (*engine)->Keep(Started(**engine));
    PrefixImage image;
    EXPECT_TRUE((*engine)->Save(prefix, image).ok());
    engine->reset();
  }).join();
}

TEST(EmulatedDriverTest, WithoutADriverOrADeviceThereIsNoDevice) {
  for (const emulation::Driver driver :
       {emulation::Driver::kNoDevice, emulation::Driver::kTooOld}) {
    emulation::SetDriver(driver);
    const absl::Status status = cuda_emulated::CreateCudaBackend({}).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), testing::StartsWith("no CUDA device: "));
    EXPECT_TRUE(MeansNoDevice(status));
  }
  emulation::SetDriver(emulation::Driver::kTwoDevices);
}

// So that "auto" does not quietly compute on the CPU instead.
TEST(EmulatedDriverTest, ADeviceThatCannotBeUsedIsAnErrorAndNotNoDevice) {
  const absl::Status number = cuda_emulated::CreateCudaBackend({.device = 2}).status();
  EXPECT_EQ(number.message(), "device is 2; this machine has CUDA devices 0 to 1");
  EXPECT_FALSE(MeansNoDevice(number));
  emulation::FailCall(1);  // cudaSetDevice
  const absl::Status busy = cuda_emulated::CreateCudaBackend({}).status();
  emulation::FailCall(-1);
  EXPECT_TRUE(absl::IsInternal(busy)) << busy;
  EXPECT_THAT(std::string(busy.message()), testing::StartsWith("CUDA device 0: "));
  EXPECT_FALSE(MeansNoDevice(busy));
}

INSTANTIATE_TEST_SUITE_P(Types, EmulatedEngineTest,
                         testing::Values(ComputeType::kF32, ComputeType::kBf16),
                         [](const auto& test) { return DtypeName(test.param); });

}  // namespace
}  // namespace goldfinch
