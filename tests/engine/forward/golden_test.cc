// Logits and greedy tokens against the authors' own code (tests/golden), on every
// instruction set this machine runs. `goldfinch verify` does the same for any case.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <ostream>

#include "engine/backend/create_backend.h"
#include "engine/kernels/cpu/tables.h"
#include "engine/model/safetensors.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

struct GoldenParam {
  std::string model;
  std::string isa;
  ComputeType type;
};

// A binary that was taken to another machine is told where they are there.
std::string GoldenFolder() {
  const char* folder = std::getenv("GOLDFINCH_GOLDEN");
  return folder != nullptr ? folder : GOLDFINCH_SOURCE_DIR "/tests/golden";
}

// Names the case in a listing of tests.
void PrintTo(const GoldenParam& param, std::ostream* out) { *out << param.model; }

class GoldenTest : public testing::TestWithParam<GoldenParam> {
 protected:
  void SetUp() override {
    const std::string isa = GetParam().isa;
    const bool on_cpu = isa.rfind("cuda", 0) != 0;
    if (on_cpu ? !SelectCpuKernels(isa).ok()
               : isa == "cuda" && !CreateBackend({.kind = isa}).ok())
      GTEST_SKIP() << "this machine does not run " << isa;
    const std::string dir = GoldenFolder() + "/" + GetParam().model;
    auto file = SafetensorsFile::Open(dir + "/expected.safetensors");
    ASSERT_TRUE(file.ok()) << file.status().message();
    file_ = *std::move(file);
    engine_ = MakeEngine(dir, GetParam().type, [&](ModelEngineOptions& options) {
      (on_cpu ? options.backend.cpu_isa : options.backend.kind) = isa;
    });
  }

  std::vector<TokenId> Ints(const char* name) {
    const StoredTensor* tensor = file_->Find(name);
    std::vector<TokenId> out(static_cast<std::size_t>(tensor->num_elements()));
    CopyToI32(*tensor, out);
    return out;
  }
  std::vector<float> Floats(const char* name) {
    const StoredTensor* tensor = file_->Find(name);
    std::vector<float> out(static_cast<std::size_t>(tensor->num_elements()));
    CopyToF32(*tensor, out);
    return out;
  }

  // Of what `goldfinch verify` allows, float32 needs little: 1e-5 of arithmetic, and
  // with rope 1e-4 of the authors' own angles.
  double Tolerance() const {
    if (GetParam().type == ComputeType::kBf16) return 3e-2;
    return GetParam().model == "goldfinch-rope" ? 1e-4 : 1e-5;
  }

  std::unique_ptr<SafetensorsFile> file_;
  std::unique_ptr<ModelEngine> engine_;
};

double MaxError(const std::vector<float>& actual, const std::vector<float>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(double{actual[i]} - double{expected[i]});
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    error = std::max(error, difference);
  }
  return error;
}

TEST_P(GoldenTest, LogitsOfEveryPromptPositionMatch) {
  const std::int64_t chunks[] = {33, 1, 96};
  EXPECT_LE(MaxError(FeedInChunks(*engine_, Ints("tokens"), chunks), Floats("logits")),
            Tolerance());
}

TEST_P(GoldenTest, LastLogitsOfALongPromptMatchThroughTheLast2GPositions) {
  const std::vector<TokenId> tokens = Ints("long_tokens");
  const std::int64_t chunks[] = {100};
  const auto first = static_cast<std::int64_t>(tokens.size()) - 4;
  EXPECT_LE(
      MaxError(FeedInChunks(*engine_, tokens, chunks, first), Floats("long_last_logits")),
      Tolerance());
}

TEST_P(GoldenTest, GreedyTokensAgreeWhereTheMarginIsAboveTheTolerance) {
  std::vector<TokenId> tokens = Ints("tokens");
  const std::vector<TokenId> greedy = Ints("greedy");
  const std::vector<float> margin = Floats("greedy_margin");
  const auto prompt = static_cast<std::int64_t>(tokens.size());
  SamplingParams sampling;
  sampling.temperature = 0;
  const SequenceId id = OpenSequence(
      *engine_, prompt + static_cast<std::int64_t>(greedy.size()), prompt - 1, sampling);
  const std::int64_t first = engine_->info().SpanEnd(0, prompt, prompt - 1);
  if (first < prompt) {
    Span span;
    span.sequence = id;
    span.tokens = std::span(tokens).first(static_cast<std::size_t>(first));
    Forward(*engine_, std::span(&span, 1));
    tokens = {tokens.back()};
  }
  for (std::size_t i = 0; i < greedy.size(); ++i) {
    Span span;
    span.sequence = id;
    span.tokens = tokens;
    span.output = SpanOutput::kSample;
    const TokenId chosen = Forward(*engine_, std::span(&span, 1))[0].sample.token;
    if (margin[i] > Tolerance()) {
      EXPECT_EQ(chosen, greedy[i]) << "at token " << i;
    }
    tokens = {greedy[i]};
  }
  engine_->Close(id);
}

std::vector<GoldenParam> Params() {
  std::vector<std::string> isas = CpuIsas();
  isas.insert(isas.end(), {"cuda_emulated", "cuda"});
  std::vector<GoldenParam> params;
  for (const char* model : {"goldfinch", "goldfinch-rope", "goldfinch-ratio6",
                            "goldfinch-no-v2", "finch-upgrade", "finch"})
    for (const std::string& isa : isas)
      for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16})
        params.push_back({model, isa, type});
  return params;
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest, testing::ValuesIn(Params()),
                         [](const auto& test) {
                           std::string name =
                               test.param.model + "_" + test.param.isa +
                               (test.param.type == ComputeType::kF32 ? "_f32" : "_bf16");
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace goldfinch
