// What only the emulated device can show of the CUDA backend: that no kernel depends on
// the order of its threads, that a step allocates nothing, what a fault becomes.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/emulation/emulation.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

using emulation::Order;

class EmulatedEngineTest : public testing::TestWithParam<ComputeType> {
 protected:
  void TearDown() override {
    emulation::SetOrder(Order::kForward);
    emulation::FailCall(-1);
  }
  // A small arena, so that some pages are rebuilt into scratch tiles.
  std::unique_ptr<ModelEngine> Make() {
    return MakeEngine(folder_.path(), GetParam(), [](ModelEngineOptions& options) {
      options.backend = "cuda_emulated";
      options.expanded_bytes = 1 << 18;
      options.page_tokens = 8;
    });
  }
  std::vector<float> Feed(Engine& engine) const {
    const std::int64_t chunks[] = {70, 1, 9};
    return FeedInChunks(engine, tokens_, chunks);
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
    Feed(*engine);
    EXPECT_EQ(emulation::NumAllocations(), allocations);
    EXPECT_GT(emulation::AllocatedBytes(), bytes);
  }
  EXPECT_EQ(emulation::AllocatedBytes(), bytes);
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

INSTANTIATE_TEST_SUITE_P(Types, EmulatedEngineTest,
                         testing::Values(ComputeType::kF32, ComputeType::kBf16),
                         [](const auto& test) {
                           return test.param == ComputeType::kF32 ? "f32" : "bf16";
                         });

}  // namespace
}  // namespace goldfinch
