// A step takes no memory from the system: everything is taken when the engine is made.
//
// operator new is replaced in this binary and counts, on every thread.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "tests/engine/forward/engine_harness.h"

namespace {

std::atomic<std::int64_t> allocations{0};

void* Counted(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t bytes) { return Counted(bytes); }
void* operator new[](std::size_t bytes) { return Counted(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

namespace goldfinch {
namespace {

class AllocationTest : public testing::TestWithParam<std::string> {
 protected:
  const ModelConfig& config() const { return FamilyConfig(GetParam()); }
  const ModelFolder folder_{config()};
};

// Prompts of several chunks, decoding of many, and both at once; twice, with an arena
// that holds everything and with one that holds nothing.
TEST_P(AllocationTest, AStepTakesNoMemory) {
  constexpr std::int32_t kSequences = 8;
  for (const std::int64_t arena : {std::int64_t{16} << 20, std::int64_t{0}}) {
    auto engine =
        MakeEngine(folder_.path(), ComputeType::kBf16, [&](ModelEngineOptions& options) {
          options.backend.num_threads = 2;
          options.max_sequences = kSequences;
          options.max_step_tokens = 96;
          options.expanded_bytes = arena;
        });
    const std::vector<TokenId> prompt = RandomTokens(200, config().vocab_size, 3);
    std::vector<SequenceId> ids;
    for (int i = 0; i < kSequences; ++i) ids.push_back(OpenSequence(*engine, 260, 199));
    std::vector<SpanResult> results(kSequences);
    std::vector<Span> batch;
    batch.reserve(kSequences);
    const auto add = [&](int sequence, std::span<const TokenId> tokens, bool sample) {
      Span span;
      span.sequence = ids[static_cast<std::size_t>(sequence)];
      span.tokens = tokens;
      if (sample) span.output = SpanOutput::kSample;
      batch.push_back(span);
    };
    const auto step = [&](const char* what) {
      const std::int64_t before = allocations.load();
      const absl::Status status =
          engine->Forward(batch, std::span(results).first(batch.size()));
      EXPECT_EQ(allocations.load() - before, 0) << what << ", arena of " << arena;
      ASSERT_TRUE(status.ok()) << status;
      batch.clear();
    };
    const std::span<const TokenId> all(prompt);
    for (int i = 0; i < kSequences; ++i) {
      for (const auto& [begin, count] : {std::pair{0, 90}, {90, 80}, {170, 30}}) {
        // Those before it decode meanwhile.
        for (int j = 0; j < i && begin == 90; ++j) add(j, all.subspan(j, 1), true);
        add(i, all.subspan(begin, count), begin == 170);
        step("a prompt");
      }
    }
    for (int i = 0; i < 20; ++i) {
      for (int j = 0; j < kSequences; ++j) add(j, all.subspan(i, 1), true);
      step("decoding");
    }
    for (const SequenceId id : ids) engine->Close(id);
  }
}

INSTANTIATE_TEST_SUITE_P(Family, AllocationTest,
                         testing::Values("paper", "finch_below_gold", "finch_only"));

}  // namespace
}  // namespace goldfinch
