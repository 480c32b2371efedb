#include "tests/emulation/access_count.h"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/kernels/cuda/launch.h"
#include "gtest/gtest.h"
#include "tests/emulation/watched_kernels.h"
#include "tests/engine/forward/engine_harness.h"
#include "tests/engine/model/random_model.h"

namespace goldfinch::cuda_emulated {
namespace {

using emulation::Accesses;
using emulation::Memory;

class AccessCountTest : public testing::Test {
 protected:
  AccessCountTest() {
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    stream_.Check(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "");
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, kBytes), cudaSuccess);
    memory_ = static_cast<float*>(memory);
  }
  ~AccessCountTest() override {
    EXPECT_EQ(cudaFree(memory_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_.handle), cudaSuccess);
  }

  // How often the banks were asked, and how many sectors moved, by one warp.
  struct Moved {
    std::int64_t asked, sectors;
    bool operator==(const Moved&) const = default;
  };
  Moved Run(void (*kernel)(const float*, int), int step) {
    emulation::StartCounting();
    Launch(stream_, "kernel", kernel, dim3(1), 32, kBytes, memory_, step);
    stream_.Check(cudaStreamSynchronize(stream_.handle), "cudaStreamSynchronize");
    EXPECT_TRUE(stream_.ok()) << stream_.failed;
    Moved moved = {};
    for (const Accesses& accesses : emulation::StopCounting()) {
      EXPECT_EQ(accesses.kernel, "kernel");
      EXPECT_EQ(accesses.requests, 1);
      EXPECT_EQ(accesses.writes, accesses.memory == Memory::kShared);
      (accesses.memory == Memory::kShared ? moved.asked : moved.sectors) = accesses.moved;
      EXPECT_LE(accesses.needed, accesses.moved);
    }
    return moved;
  }

  static constexpr std::size_t kBytes = 32 * 33 * sizeof(float);

  Stream stream_;
  float* memory_ = nullptr;
};

TEST_F(AccessCountTest, NeighboursAreOneRequestOfTheBanksAndFewSectors) {
  EXPECT_EQ(Run(Strided, 1), (Moved{1, 4}));
  EXPECT_EQ(Run(Strided, 0), (Moved{1, 1}));  // one word, to all
  EXPECT_EQ(Run(Strided, 2), (Moved{2, 8}));
  EXPECT_EQ(Run(Strided, 8), (Moved{8, 32}));
  EXPECT_EQ(Run(Strided, 32), (Moved{32, 32}));
  EXPECT_EQ(Run(Strided, 33), (Moved{1, 32}));
}

TEST_F(AccessCountTest, VectorsAreServedByEightLanes) {
  EXPECT_EQ(Run(StridedVectors, 4), (Moved{4, 16}));
  EXPECT_EQ(Run(StridedVectors, 8), (Moved{8, 32}));
  EXPECT_EQ(Run(StridedVectors, 32), (Moved{32, 32}));
}

TEST_F(AccessCountTest, AsynchronousCopiesReadAndWrite) {
  EXPECT_EQ(Run(StridedCopies, 1), (Moved{1, 4}));
  EXPECT_EQ(Run(StridedCopies, 32), (Moved{32, 32}));
}

// By kernel and memory.
struct Sum {
  std::int64_t moved = 0, needed = 0;
};
using Sums = std::map<std::pair<std::string, Memory>, Sum>;

// Widths are multiples of what a warp takes at once, as those of models are.
ModelConfig Config() {
  ModelConfig config = SmallestConfig();
  config.n_layer = 3;  // of which one is GOLD
  config.inv_other_layer_ratio = 3;
  config.n_embd = config.dim_att = 128;
  config.dim_ffn = 448;
  config.vocab_size = 512;
  config.kv_cache_compression_ratio = 8;
  return config;
}

// Of a long prompt, of short ones, and of decoding them together and the long one alone.
Sums CountSteps(ComputeType type, StorageType weights, StorageType cache) {
  const ModelFolder folder(Config());
  const auto engine = MakeEngine(folder.path(), type, [&](ModelEngineOptions& options) {
    options.backend.kind = "cuda_emulated";
    options.page_tokens = 64;
    options.expanded_bytes = options.cache_bytes = 4 << 20;
    options.max_sequences = 16;
    options.weight_storage = weights;
    options.cache_storage = cache;
  });
  SamplingParams params;
  params.top_k = 40;
  params.top_p = 0.9f;
  params.frequency_penalty = 0.5f;
  params.num_logprobs = 5;
  constexpr std::size_t kPrompt = 129;
  const auto tokens = RandomTokens(kPrompt, Config().vocab_size, 1);
  std::vector<SequenceId> open;
  emulation::StartCounting();
  for (std::size_t i = 0; i < 9; ++i) {
    // All but the last token of a prompt, in blocks.
    const std::size_t count = i == 0 ? kPrompt - 1 : 5;
    open.push_back(
        OpenSequence(*engine, kPrompt + 1, static_cast<std::int64_t>(count), params));
    Span span;
    span.sequence = open.back();
    span.tokens = std::span(tokens).first(count);
    Forward(*engine, std::span(&span, 1));
  }
  for (const std::size_t count : {open.size(), std::size_t{1}}) {
    std::vector<Span> batch(count);
    for (std::size_t i = 0; i < count; ++i) {
      batch[i].sequence = open[i];
      batch[i].tokens = std::span(tokens).last(1);
      batch[i].output = SpanOutput::kSample;
    }
    Forward(*engine, batch);
  }
  Sums sums;
  for (const Accesses& accesses : emulation::StopCounting()) {
    Sum& sum = sums[{accesses.kernel, accesses.memory}];
    sum.moved += accesses.moved;
    sum.needed += accesses.needed;
  }
  for (const SequenceId id : open) engine->Close(id);
  return sums;
}

// What is asked for is at most so many times what is used, or as many as it is here.
constexpr double kMaxRatio = 1.15;
const std::map<std::pair<std::string, Memory>, double> kMore = {
    // Lanes take sixteen bytes of 32 that they need, and then the others: both ask for
    // the
    // sector, the second time of the first-level cache.
    {{"wkv", Memory::kDevice}, 1.7},
    // When products of few rows are done, their slices are read by rows of 16 outputs,
    // four
    // of which are in banks of the row before.
    {{"gemm", Memory::kShared}, 1.25}};

void ExpectNoMoreThanNeeded(const Sums& sums) {
  for (const char* const kernel : {"attend", "gemm", "sample", "wkv_blocks"})
    EXPECT_TRUE(sums.contains({kernel, Memory::kShared})) << kernel;
  for (const auto& [key, sum] : sums) {
    const auto more = kMore.find(key);
    const double most = more != kMore.end() ? more->second : kMaxRatio;
    EXPECT_LE(static_cast<double>(sum.moved), most * static_cast<double>(sum.needed))
        << key.first << (key.second == Memory::kShared ? ", shared" : ", device");
  }
}

TEST_F(AccessCountTest, WarpsOfAStepAskForLittleMoreThanTheyUse) {
  ExpectNoMoreThanNeeded(
      CountSteps(ComputeType::kBf16, StorageType::kCompute, StorageType::kCompute));
}

TEST_F(AccessCountTest, WithWeightsAndKeysInBytesToo) {
  ExpectNoMoreThanNeeded(
      CountSteps(ComputeType::kBf16, StorageType::kFp8, StorageType::kInt8));
}

}  // namespace
}  // namespace goldfinch::cuda_emulated
