// Sample against the plain twin of it, which sorts, on every backend. Where a decision is
// a matter of rounding the two may differ; such draws are left out, and are few.
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "tests/engine/kernels/op_test.h"
#include "tests/reference/sample_reference.h"

namespace goldfinch {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();
// Of the whole probability; weights are float32.
constexpr double kRounding = 3e-6;

struct Asked {
  std::int64_t row = 0;
  SamplingParams params = {};
  std::int64_t num_generated = 0;
  reference::History history = {};
};

std::ostream& operator<<(std::ostream& out, const Asked& asked) {
  const SamplingParams& p = asked.params;
  return out << "row " << asked.row << " temperature " << p.temperature << " min_p "
             << p.min_p << " top_k " << p.top_k << " top_p " << p.top_p << " repetition "
             << p.repetition_penalty << " seed " << p.seed << " after "
             << asked.num_generated;
}

std::vector<float> RowOf(const Grid& logits, std::int64_t row) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < logits.cols(); ++i)
    values.push_back(static_cast<float>(logits(row, i)));
  return values;
}

Grid OneRow(const std::vector<float>& values) {
  Grid logits(1, static_cast<std::int64_t>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i)
    logits(0, static_cast<std::int64_t>(i)) = static_cast<double>(values[i]);
  return logits;
}

// One call of Sample.
std::vector<SampledToken> SampleAll(Backend& backend, const Matrix& logits,
                                    const std::vector<Asked>& asked) {
  std::vector<SampledToken> out(asked.size());
  std::vector<TokenCounts> counts;
  for (const Asked& one : asked) {
    counts.emplace_back(static_cast<std::int32_t>(logits.cols));
    counts.back().AddPrompt(one.history.prompt);
    for (const TokenId token : one.history.output) counts.back().AddOutput(token);
  }
  std::vector<Backend::SampleRequest> requests;
  for (std::size_t i = 0; i < asked.size(); ++i)
    requests.push_back({.row = asked[i].row,
                        .params = &asked[i].params,
                        .counts = asked[i].params.HasPenalties() ? &counts[i] : nullptr,
                        .num_generated = asked[i].num_generated,
                        .out = &out[i]});
  backend.Sample(logits, requests);
  return out;
}

// Samples from `logits` and compares each token, and log-probabilities where they were
// asked for, with the twin's. At most one in ten may be too near a border to compare.
void ExpectAsTheTwin(Backend& backend, const Grid& logits,
                     const std::vector<Asked>& asked) {
  const Tensor rows(backend, logits);
  const std::vector<SampledToken> got = SampleAll(backend, *rows, asked);
  std::size_t too_near = 0;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const std::vector<float> row = RowOf(logits, asked[i].row);
    const SamplingParams& params = asked[i].params;
    const reference::Sampled want =
        reference::Sample(row, params, asked[i].history, asked[i].num_generated);
    if (want.margin < kRounding)
      ++too_near;
    else
      ASSERT_EQ(got[i].token, want.token) << asked[i];
    if (params.num_logprobs < 0) {
      ASSERT_TRUE(got[i].top.empty());
      continue;
    }
    const std::vector<double> logprobs = reference::Logprobs(row);
    const auto expect = [&](TokenId token, float logprob) {
      const double exact = logprobs[static_cast<std::size_t>(token)];
      if (logprob == static_cast<float>(exact)) return;  // -inf too
      ASSERT_NEAR(logprob, exact, 1e-5 + kF32Unit * std::abs(exact)) << asked[i];
    };
    expect(got[i].token, got[i].logprob);
    const std::vector<TokenId> top =
        reference::Top(row, static_cast<std::size_t>(params.num_logprobs));
    ASSERT_EQ(got[i].top.size(), top.size());
    for (std::size_t j = 0; j < top.size(); ++j) {
      ASSERT_EQ(got[i].top[j].token, top[j]) << asked[i];
      expect(top[j], got[i].top[j].logprob);
    }
  }
  EXPECT_LE(too_near, asked.size() / 10) << "of " << asked.size();
  EXPECT_TRUE(rows.SurroundingsAreIntact());
}

class SampleTest : public OpTest {
 protected:
  // Every token that comes up in `draws` draws.
  std::set<TokenId> Drawn(const std::vector<float>& row, const SamplingParams& params,
                          int draws = 40) {
    std::vector<Asked> asked;
    for (int i = 0; i < draws; ++i)
      asked.push_back({.params = params, .num_generated = i});
    const Tensor rows(backend(), OneRow(row));
    std::set<TokenId> tokens;
    for (const SampledToken& out : SampleAll(backend(), *rows, asked))
      tokens.insert(out.token);
    return tokens;
  }
};
GOLDFINCH_ON_ALL_BACKENDS(SampleTest);

TEST_P(SampleTest, CutsAreTheTwinsOnRowsOfAnySize) {
  backend().Prepare(3, 3000);
  for (const std::int64_t vocab : {1, 7, 300, 1025, 3000}) {
    std::vector<Asked> asked;
    std::uint64_t seed = 0;
    for (const float temperature : {0.0f, 0.3f, 1.0f, 2.5f})
      for (const float min_p : {0.0f, 0.05f})
        for (const int top_k : {0, 1, 40, 1100})
          for (const float top_p : {1.0f, 0.5f, 0.95f}) {
            Asked one = {.row = static_cast<std::int64_t>(++seed % 3)};
            one.params.temperature = temperature;
            one.params.min_p = min_p;
            one.params.top_k = top_k;
            one.params.top_p = top_p;
            one.params.seed = seed;
            one.params.num_logprobs = static_cast<std::int32_t>(seed % 5) - 1;
            one.num_generated = static_cast<std::int64_t>(seed % 11);
            asked.push_back(one);
          }
    ExpectAsTheTwin(backend(), RandomGrid(3, vocab, 5, DType::kF32, 3.0), asked);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace goldfinch
