// Logits of models as wide as real ones against those of the CPU: kernels are chosen by
// the sizes of products, and golden cases are too narrow for most of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/create_backend.h"
#include "tests/engine/forward/engine_harness.h"
#include "tests/engine/model/random_model.h"

namespace goldfinch {
namespace {

// Two recurrent layers, and one of GOLD.
ModelConfig WideConfig(std::int32_t width, std::int32_t vocab_size) {
  ModelConfig config = SmallestConfig();
  config.n_layer = 3;
  config.inv_other_layer_ratio = 3;
  config.n_embd = config.dim_att = width;
  config.dim_ffn = width * 7 / 2 / 32 * 32;
  config.vocab_size = vocab_size;
  return config;
}

using Logits = std::vector<std::vector<float>>;  // by row

double Norm(std::span<const float> row) {
  double sum = 0;
  for (const float value : row) sum += double{value} * value;
  return std::sqrt(sum);
}
// Of the difference, relative; infinite for what is no number.
double Difference(std::span<const float> a, std::span<const float> b) {
  std::vector<float> difference(a.begin(), a.end());
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] -= b[i];
  const double relative = Norm(difference) / Norm(b);
  return std::isfinite(relative) ? relative : HUGE_VAL;
}

// A model, what is asked of it, and how steps are made up.
class WideModel {
 public:
  // Decode steps of these numbers of rows, in which kernels differ.
  WideModel(const ModelConfig& config, std::int64_t prompt, std::vector<int> batches,
            std::int32_t threads)
      : config_(config),
        folder_(config),
        prompt_(prompt),
        batches_(std::move(batches)),
        threads_(threads) {}

  // Of the last tokens of a prompt, and of each row of decode steps behind short ones.
  Logits Run(const std::string& kind, ComputeType type,
             const std::function<void(BackendOptions&)>& change = {}) const {
    const int most = *std::ranges::max_element(batches_);
    const auto engine = MakeEngine(folder_.path(), type, [&](auto& options) {
      options.backend.kind = kind;
      options.backend.num_threads = threads_;
      if (change) change(options.backend);
      options.max_sequences = most + 1;
      options.cache_bytes = options.expanded_bytes = std::int64_t{256} << 20;
    });
    Logits rows;
    const std::vector<TokenId> prompt = RandomTokens(prompt_, config_.vocab_size, 1);
    const std::int64_t whole[] = {prompt_};
    const std::vector<float> ends = FeedInChunks(*engine, prompt, whole, prompt_ - 3);
    const auto vocab = static_cast<std::size_t>(config_.vocab_size);
    for (std::size_t at = 0; at < ends.size(); at += vocab)
      rows.emplace_back(ends.begin() + static_cast<std::ptrdiff_t>(at),
                        ends.begin() + static_cast<std::ptrdiff_t>(at + vocab));
    constexpr std::int64_t kShort = 5;
    std::vector<SequenceId> ids;
    std::vector<std::vector<TokenId>> tokens;
    std::vector<Span> batch;
    for (int i = 0; i < most; ++i) {
      ids.push_back(OpenSequence(*engine, kShort + std::ssize(batches_), kShort));
      tokens.push_back(
          RandomTokens(kShort, config_.vocab_size, static_cast<std::uint64_t>(100 + i)));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Span& span = batch.emplace_back();
      span.sequence = ids[i];
      span.tokens = tokens[i];
    }
    Forward(*engine, batch);
    for (const int count : batches_) {
      Logits step(static_cast<std::size_t>(count));
      batch.clear();
      for (std::size_t i = 0; i < step.size(); ++i)
        batch.push_back(LogitsSpan(ids[i], std::span(tokens[i]).first(1), 0, step[i],
                                   config_.vocab_size));
      Forward(*engine, batch);
      std::ranges::move(step, std::back_inserter(rows));
    }
    return rows;
  }

 private:
  const ModelConfig config_;
  const ModelFolder folder_;
  const std::int64_t prompt_;
  const std::vector<int> batches_;
  const std::int32_t threads_;
};

// What rounding inputs to bf16 in another order of sums may cost, of a row.
double Tolerance(ComputeType type) { return type == ComputeType::kF32 ? 2e-5 : 2e-2; }

void ExpectAlike(const Logits& actual, const Logits& expected, ComputeType type) {
  ASSERT_EQ(actual.size(), expected.size());
  double most = 0;
  for (std::size_t row = 0; row < actual.size(); ++row) {
    const double difference = Difference(actual[row], expected[row]);
    EXPECT_LT(difference, Tolerance(type)) << "row " << row;
    most = std::max(most, difference);
    // Rows differ by far more.
    EXPECT_GT(Difference(actual[row], expected[(row + 1) % expected.size()]), 0.1);
  }
  testing::Test::RecordProperty(type == ComputeType::kF32 ? "most_f32" : "most_bf16",
                                std::to_string(most));
}

TEST(WideModelTest, HasTheCpusLogitsOnTheEmulatedDevice) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer does not follow fibers";
#endif
  const WideModel model(WideConfig(128, 200), 130, {1, 9, 33}, /*threads=*/1);
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16})
    ExpectAlike(model.Run("cuda_emulated", type), model.Run("cpu", type), type);
}

class WideShapesTest : public testing::TestWithParam<std::int32_t> {};

TEST_P(WideShapesTest, HaveTheCpusLogitsOnACudaDevice) {
  if (!CreateBackend({.kind = "cuda"}).ok()) GTEST_SKIP() << "no CUDA device";
  const WideModel model(WideConfig(GetParam(), 8192), 700,
                        {1, 2, 8, 16, 33, 64, 128, 256},
                        /*threads=*/0);
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16}) {
    const Logits expected = model.Run("cpu", type);
    ExpectAlike(model.Run("cuda", type), expected, type);
    ExpectAlike(model.Run("cuda", type, [](auto& backend) { backend.cublas = false; }),
                expected, type);
    ExpectAlike(model.Run("cuda", type,
                          [](auto& backend) {
                            backend.cuda_graphs = backend.cuda_overlap = false;
                          }),
                expected, type);
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, WideShapesTest, testing::Values(768, 2048),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace goldfinch
