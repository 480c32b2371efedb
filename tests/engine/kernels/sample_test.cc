// Sample against the plain twin of it, which sorts, on every backend. Where a decision is
// a matter of rounding the two may differ; such draws are left out, and are few.
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "tests/engine/kernels/op_test.h"
#include "tests/engine/sampling/sampler.h"
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

// The requests of what is asked, and where their results go.
struct Requests {
  Requests(const std::vector<Asked>& asked, std::int64_t vocab_size) : out(asked.size()) {
    for (const Asked& one : asked) {
      counts.emplace_back(static_cast<std::int32_t>(vocab_size));
      counts.back().AddPrompt(one.history.prompt);
      for (const TokenId token : one.history.output) counts.back().AddOutput(token);
    }
    for (std::size_t i = 0; i < asked.size(); ++i)
      all.push_back({.row = asked[i].row,
                     .params = &asked[i].params,
                     .counts = asked[i].params.HasPenalties() ? &counts[i] : nullptr,
                     .num_generated = asked[i].num_generated,
                     .out = &out[i]});
  }
  std::vector<SampledToken> out;
  std::vector<TokenCounts> counts;
  std::vector<Backend::SampleRequest> all;
};

// One call of Sample.
std::vector<SampledToken> SampleAll(Backend& backend, const Matrix& logits,
                                    const std::vector<Asked>& asked) {
  Requests requests(asked, logits.cols);
  backend.Sample(logits, requests.all);
  return requests.out;
}

// Samples from `logits` and compares each token, and log-probabilities where they were
// asked for, with the twin's. At most one in ten may be too near a border to compare.
void ExpectAsTheTwin(Backend& backend, const Grid& logits,
                     const std::vector<Asked>& asked, double rounding = kRounding) {
  const Tensor rows(backend, logits);
  const std::vector<SampledToken> got = SampleAll(backend, *rows, asked);
  std::size_t too_near = 0;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const std::vector<float> row = RowOf(logits, asked[i].row);
    const SamplingParams& params = asked[i].params;
    const reference::Sampled want =
        reference::Sample(row, params, asked[i].history, asked[i].num_generated);
    if (want.margin < rounding)
      ++too_near;
    else
      ASSERT_EQ(got[i].token, want.token) << asked[i];
    if (params.num_logprobs < 0) {
      ASSERT_TRUE(got[i].top.empty());
      continue;
    }
    const std::vector<double> logprobs = reference::Logprobs(row);
    const double highest = std::abs(
        reference::Clean(row[static_cast<std::size_t>(reference::Top(row, 1)[0])]));
    // A logarithm is added to the highest logit, in double.
    const double lost = std::isinf(highest) ? 0.0 : 0x1p-52 * highest;
    const auto expect = [&](TokenId token, float logprob) {
      const double exact = logprobs[static_cast<std::size_t>(token)];
      if (logprob == static_cast<float>(exact)) return;  // -inf too
      ASSERT_NEAR(logprob, exact, 1e-5 + kF32Unit * std::abs(exact) + lost) << asked[i];
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

// Every way, a few draws of each.
std::vector<Asked> AskedEveryWay(
    const std::function<void(SamplingParams&)>& change = {}) {
  std::vector<Asked> asked;
  for (SamplingParams params : EveryWay()) {
    if (change) change(params);
    for (int i = 0; i < 4; ++i) asked.push_back({.params = params, .num_generated = i});
  }
  return asked;
}

TEST_P(SampleTest, CutsAreTheTwinsOnRowsOfAnySize) {
  backend().Prepare(3, 3000, 1);
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
    Grid logits = RandomGrid(3, vocab, 5, DType::kF32, 3.0);
    for (std::int64_t i = 0; i < vocab; ++i) logits(1, i) *= 0.1;
    ExpectAsTheTwin(backend(), logits, asked);
    if (HasFatalFailure()) return;
  }
}

TEST_P(SampleTest, ChangesOfTheRowAreTheTwins) {
  backend().Prepare(3, 2000, 1);
  for (const std::int64_t vocab : {4, 130, 2000}) {
    std::vector<Asked> asked;
    std::uint64_t seed = 1000;
    for (const float repetition : {1.0f, 0.5f, 1.3f})
      for (const float frequency : {0.0f, 0.4f, -100.0f})
        for (const float presence : {0.0f, 1.5f})
          for (const float temperature : {0.0f, 0.8f}) {
            Asked one = {.row = static_cast<std::int64_t>(++seed % 3),
                         .num_generated = static_cast<std::int64_t>(seed % 8),
                         .history = RandomHistory(vocab, seed)};
            one.params.temperature = temperature;
            one.params.top_k = seed % 3 == 0 ? 20 : 0;
            one.params.top_p = seed % 4 == 0 ? 0.8f : 1.0f;
            one.params.repetition_penalty = repetition;
            one.params.frequency_penalty = frequency;
            one.params.presence_penalty = presence;
            one.params.min_tokens = 5;
            one.params.banned_before_min_tokens = {0, 2, 0};
            // A token may come twice; a ban is not lifted.
            one.params.logit_bias = {{1, 2.5f}, {3, -100.0f}, {0, 4.0f}, {1, -0.7f}};
            one.params.seed = seed;
            one.params.num_logprobs = seed % 2 == 0 ? 4 : -1;
            asked.push_back(one);
          }
    ExpectAsTheTwin(backend(), RandomGrid(3, vocab, 6, DType::kF32, 2.0), asked);
    if (HasFatalFailure()) return;
  }
}

// Logits on a coarse grid, so that nearly every cut goes through equals.
TEST_P(SampleTest, EqualsAreCutByTheirIds) {
  Grid logits = RandomGrid(4, 1500, 7, DType::kF32, 2.0);
  for (std::int64_t i = 0; i < logits.rows(); ++i)
    for (std::int64_t j = 0; j < logits.cols(); ++j)
      logits(i, j) = std::round(logits(i, j) * 2.0) / 2.0;  // -0 and 0 too
  std::vector<Asked> asked;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Asked one = {.row = static_cast<std::int64_t>(seed % 4)};
    one.params.top_k = static_cast<std::int32_t>(1 + seed * seed % 1400);
    one.params.top_p = seed % 2 == 0 ? 1.0f : 0.77f;
    one.params.seed = seed;
    one.params.num_logprobs = seed % 3 == 0 ? 20 : -1;
    asked.push_back(one);
  }
  ExpectAsTheTwin(backend(), logits, asked);
}

TEST_P(SampleTest, FullVocabulariesAreTheTwins) {
  constexpr std::int64_t kVocab = 65536;
  const Grid logits = RandomGrid(2, kVocab, 8, DType::kF32, 4.0);
  std::vector<Asked> asked;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Asked one = {.row = static_cast<std::int64_t>(seed % 2), .num_generated = 3};
    one.params.seed = seed;
    one.params.temperature = seed % 5 == 0 ? 0.0f : 0.8f;
    one.params.top_p = seed % 3 == 1 ? 0.9f : 1.0f;
    one.params.top_k = seed % 4 == 1 ? 50 : seed % 4 == 2 ? 5000 : 0;
    one.params.min_p = seed % 6 == 5 ? 0.02f : 0.0f;
    one.params.num_logprobs = seed % 2 == 0 ? 20 : -1;
    asked.push_back(one);
  }
  ExpectAsTheTwin(backend(), logits, asked);
}

// One heavy token and thousands of light ones, which together weigh about as much.
TEST_P(SampleTest, LightTokensAddUp) {
  constexpr std::int64_t kVocab = 20000;
  Grid logits = RandomGrid(1, kVocab, 10, DType::kF32, 0.1);
  for (std::int64_t i = 0; i < kVocab; ++i) logits(0, i) -= 10.0;
  logits(0, 12345) = 0.0;
  std::vector<Asked> asked;
  for (int i = 0; i < 40; ++i) {
    asked.push_back({.num_generated = i});
    asked.back().params.top_p = 0.6f + 0.009f * static_cast<float>(i);
  }
  ExpectAsTheTwin(backend(), logits, asked, 4e-7);
}

TEST_P(SampleTest, HardRowsGiveAValidToken) {
  backend().Prepare(1, 1000, 1);
  std::vector<std::vector<float>> rows = {{kNaN, 1, kNaN, 2, kNaN},
                                          std::vector<float>(1000, kNaN),
                                          std::vector<float>(1000, -kInf),
                                          std::vector<float>(300, 3.0f),
                                          {-1000, 999, 1000, 1000, kMax / 4, -kMax},
                                          {kMax, -kMax, kMax, kInf, -kInf, kNaN},
                                          {kNaN},
                                          {-3e38f},
                                          std::vector<float>(10, -kInf)};
  rows[1][777] = -50.0f;
  rows[2][5] = -1e30f;
  rows[3][200] = kInf;
  for (const std::vector<float>& row : rows) {
    ExpectAsTheTwin(backend(), OneRow(row), AskedEveryWay());
    if (HasFatalFailure()) return;
  }
}

TEST_P(SampleTest, BansLeaveTheLowestTokenThatIsNotBanned) {
  const auto ban = [](std::vector<TokenId> tokens) {
    return [tokens](SamplingParams& params) {
      params.min_tokens = 1000;
      params.banned_before_min_tokens = tokens;
    };
  };
  ExpectAsTheTwin(backend(), OneRow(std::vector<float>(4, kNaN)),
                  AskedEveryWay(ban({0, 1, 3, 0})));
  ExpectAsTheTwin(backend(), OneRow({5, 6, kNaN, -kInf}), AskedEveryWay(ban({0, 1})));
  ExpectAsTheTwin(backend(), OneRow({1, 2, 3, 4}), AskedEveryWay(ban({3, 1, 2, 0})));
}

TEST_P(SampleTest, CutsKeepWhatTheySay) {
  using Tokens = std::set<TokenId>;
  backend().Prepare(1, 2000, 1);
  SamplingParams params;
  params.temperature = 50.0f;
  params.top_k = 3;
  EXPECT_EQ(Drawn({1, 2, 1, 2, 1}, params), Tokens({0, 1, 3}));
  EXPECT_EQ(Drawn(std::vector<float>(2000, 0.0f), params), Tokens({0, 1, 2}));
  EXPECT_EQ(Drawn({-0.0f, 0.0f, -0.0f, 0.0f}, params), Tokens({0, 1, 2}));
  // Both weights are 1 in float32; the logits still differ.
  params.top_k = 1;
  EXPECT_EQ(Drawn({1.0f, std::nextafter(1.0f, 2.0f)}, params), Tokens({1}));

  params = {};
  params.min_p = 1.0f;
  EXPECT_EQ(Drawn({1, 3, 2.999f, 3, -4}, params), Tokens({1, 3}));

  params = {};
  params.top_p = 0.5f;
  EXPECT_EQ(Drawn(std::vector<float>(4, 0.0f), params), Tokens({0, 1}));
  params.top_p = 1e-45f;
  EXPECT_EQ(Drawn(std::vector<float>(1000, 0.0f), params), Tokens({0}));
  params.top_p = std::nextafter(1.0f, 0.0f);
  EXPECT_EQ(Drawn(std::vector<float>(5, 0.0f), params).size(), 5u);
  params.top_p = 0.6f;  // of {4, 3, 2, 1}: {4, 3}; of {4, 3}, 4 alone is 0.571
  std::vector<float> row;
  for (const double weight : {4, 3, 2, 1})
    row.push_back(static_cast<float>(std::log(weight)));
  params.top_k = 2;
  EXPECT_EQ(Drawn(row, params), Tokens({0, 1}));
  params.top_p = 0.56f;
  EXPECT_EQ(Drawn(row, params), Tokens({0}));
}

// A device keeps counts from one token to the next. Sequences get prompts piece by piece,
// several outputs between two samples, branches, and are cleared; more of them come than
// are kept. Greedy, so the twin and the backend agree on every token.
TEST_P(SampleTest, PenaltiesFollowEachSequenceTokenByToken) {
  constexpr std::int64_t kVocab = 120;
  struct Sequence {
    TokenCounts counts{static_cast<std::int32_t>(kVocab)};
    reference::History history = {};
  };
  std::vector<Sequence> sequences(70);  // more than a launch takes
  SamplingParams params;
  params.temperature = 0.0f;
  params.repetition_penalty = 1.3f;
  params.frequency_penalty = 0.3f;
  params.presence_penalty = 0.2f;
  const auto add_output = [](Sequence& sequence, TokenId token) {
    sequence.counts.AddOutput(token);
    sequence.history.output.push_back(token);
  };
  const Grid logits = RandomGrid(2, kVocab, 12, DType::kF32, 2.0);
  const Tensor rows(backend(), logits);
  for (std::size_t step = 0; step < 12; ++step) {
    if (step == 4) {
      const std::vector<TokenId> more = {5, 6, 7};
      sequences[0].counts.AddPrompt(more);
      sequences[0].history.prompt = more;
      add_output(sequences[1], 9);
      add_output(sequences[1], 8);
      sequences[2] = sequences[3];
      sequences[4].counts = TokenCounts(sequences[4].counts.vocab_size());
      sequences[4].history = {};
    }
    const std::size_t count = step % 3 == 2 ? 5 : sequences.size();
    std::vector<SampledToken> out(count);
    std::vector<Backend::SampleRequest> requests;
    for (std::size_t i = 0; i < count; ++i)
      requests.push_back({.row = static_cast<std::int64_t>(i % 2),
                          .params = &params,
                          .counts = &sequences[i].counts,
                          .num_generated = static_cast<std::int64_t>(step),
                          .out = &out[i]});
    backend().Sample(*rows, requests);
    for (std::size_t i = 0; i < count; ++i) {
      const std::vector<float> row = RowOf(logits, static_cast<std::int64_t>(i % 2));
      const reference::Sampled want = reference::Sample(row, params, sequences[i].history,
                                                        static_cast<std::int64_t>(step));
      ASSERT_EQ(out[i].token, want.token) << "sequence " << i << ", step " << step;
      add_output(sequences[i], static_cast<TokenId>((out[i].token + i) % kVocab));
    }
  }
}

TEST_P(SampleTest, LogprobsAreOfTheRowAsItCame) {
  Asked asked = {.history = {.prompt = {}, .output = {3}}};
  SamplingParams& params = asked.params;
  params.top_k = 1;
  params.logit_bias = {{3, -50.0f}};
  params.presence_penalty = 5.0f;
  params.min_tokens = 9;
  params.banned_before_min_tokens = {2};
  params.num_logprobs = 20;  // more than there are
  const Tensor rows(backend(), OneRow({1, 2, 3, 4}));
  const std::vector<RowBits> before = rows.Bits();
  const SampledToken out = SampleAll(backend(), *rows, {asked})[0];
  EXPECT_EQ(out.token, 1);
  ASSERT_EQ(out.top.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_EQ(out.top[i].token, static_cast<TokenId>(3 - i));
  EXPECT_EQ(out.logprob, out.top[2].logprob);
  EXPECT_EQ(rows.Bits(), before);
}

// More requests than a launch takes, of all kinds; the changes of some penalise the whole
// vocabulary, so a launch has no room for all of them either.
TEST_P(SampleTest, ARequestsBitsDoNotDependOnItsBatch) {
  constexpr std::int64_t kVocab = 90;
  const Grid logits = RandomGrid(3, kVocab, 9, DType::kF32, 2.0);
  const Tensor rows(backend(), logits);
  std::vector<Asked> asked;
  reference::History everything;
  for (TokenId token = 0; token < kVocab; ++token) everything.prompt.push_back(token);
  for (int i = 0; i < 80; ++i) {
    Asked one = {.row = i % 3, .params = EveryWay()[static_cast<std::size_t>(i % 9)]};
    one.num_generated = i;
    if (i % 4 == 1) {
      one.params.repetition_penalty = 1.2f;
      one.history = everything;
    }
    // More biases than the vocabulary has tokens, many times over.
    if (i == 50) one.params.logit_bias.assign(1000, {7, 0.001f});
    asked.push_back(one);
  }
  const std::vector<SampledToken> together = SampleAll(backend(), *rows, asked);
  const auto expect_same = [&](std::size_t i, const SampledToken& alone) {
    EXPECT_EQ(alone.token, together[i].token) << asked[i];
    EXPECT_EQ(alone.logprob, together[i].logprob) << asked[i];
    ASSERT_EQ(alone.top.size(), together[i].top.size());
    for (std::size_t j = 0; j < alone.top.size(); ++j) {
      EXPECT_EQ(alone.top[j].token, together[i].top[j].token);
      EXPECT_EQ(alone.top[j].logprob, together[i].top[j].logprob);
    }
  };
  for (std::size_t i = 0; i < asked.size(); ++i)
    expect_same(i, SampleAll(backend(), *rows, {asked[i]})[0]);
  const std::vector<Asked> backwards(asked.rbegin(), asked.rend());
  const std::vector<SampledToken> out = SampleAll(backend(), *rows, backwards);
  for (std::size_t i = 0; i < asked.size(); ++i)
    expect_same(i, out[asked.size() - 1 - i]);
  ExpectAsTheTwin(backend(), logits, asked);
}

// Two sets are under way at once, the second started from what the first has chosen; of a
// request there is nothing left but where its result goes.
TEST_P(SampleTest, InTwoHalvesItIsTheSameAndTokensAreOnTheDeviceBefore) {
  constexpr std::int64_t kVocab = 90;
  const Tensor rows(backend(), RandomGrid(3, kVocab, 9, DType::kF32, 2.0));
  backend().Prepare(/*rows=*/3, kVocab, /*logit_rows=*/64);
  std::vector<Asked> asked;
  for (int i = 0; i < 40; ++i) {
    asked.push_back(
        {.row = i % 3, .params = EveryWay()[static_cast<std::size_t>(i % 9)]});
    asked.back().num_generated = i;
    if (i % 5 == 0) asked.back().params.logit_bias.assign(300, {7, 0.001f});
  }
  const std::vector<Asked> others(asked.rbegin(), asked.rbegin() + 7);
  const std::vector<SampledToken> want = SampleAll(backend(), *rows, asked);
  const std::vector<SampledToken> want_others = SampleAll(backend(), *rows, others);
  std::vector<std::int64_t> index;
  for (std::int64_t i = 0; i < 40; ++i) index.push_back(39 - i);
  const DeviceArray<std::int64_t> order(backend(), index);
  const DeviceArray<std::int32_t> tokens(backend(), std::vector<std::int32_t>(40, -1));
  for (int round = 0; round < 2; ++round) {
    Requests first(asked, kVocab), second(others, kVocab);
    {
      const std::vector<Asked> gone = asked;  // read by the first half only
      Requests requests(gone, kVocab);
      for (std::size_t i = 0; i < gone.size(); ++i) requests.all[i].out = &first.out[i];
      backend().StartSample(*rows, requests.all, 0);
    }
    if (backend().runs_ahead())
      backend().GatherTokens(backend().SampledTokens(0), order.data(), 40, tokens.data());
    backend().StartSample(*rows, second.all, 1);
    backend().FinishSample(0);
    backend().FinishSample(1);
    for (std::size_t i = 0; i < asked.size(); ++i) {
      EXPECT_EQ(first.out[i].token, want[i].token) << asked[i];
      EXPECT_EQ(first.out[i].logprob, want[i].logprob) << asked[i];
      EXPECT_EQ(first.out[i].top.size(), want[i].top.size()) << asked[i];
    }
    for (std::size_t i = 0; i < others.size(); ++i)
      EXPECT_EQ(second.out[i].token, want_others[i].token) << others[i];
    if (!backend().runs_ahead()) continue;
    const std::vector<std::int32_t> gathered = tokens.Read();
    for (std::size_t i = 0; i < asked.size(); ++i)
      EXPECT_EQ(gathered[i], want[39 - i].token);
  }
}

}  // namespace
}  // namespace goldfinch
