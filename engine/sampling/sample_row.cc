#include "engine/sampling/sample_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <utility>

#include "engine/check.h"
#include "engine/sampling/random.h"
#include "engine/sampling/row_math.h"
#include "engine/sampling/sample_rules.h"

namespace goldfinch {
namespace {

using Candidate = SampleScratch::Candidate;
using Candidates = std::span<Candidate>;

// A candidate's key is read in three digits, highest first.
struct Digit {
  int shift;
  int bits;
};
constexpr Digit kDigits[] = {{20, 12}, {10, 10}, {0, 10}};
constexpr std::size_t kMaxDigitValues = 1 << 12;

// Unsigned integers that order as the floats do; -0 and +0 are equal.
std::uint32_t OrderedKey(float logit) {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

void ApplyPenalties(const SamplingParams& params, const TokenCounts& counts,
                    std::span<float> row) {
  counts.ForEach([&](TokenId token, bool, std::int32_t output_count) {
    float& x = row[static_cast<std::size_t>(token)];
    x = x > 0.0f ? x / params.repetition_penalty : x * params.repetition_penalty;
    if (output_count > 0) {
      x -= params.frequency_penalty * static_cast<float>(output_count);
      x -= params.presence_penalty;
    }
  });
}

// Steps 1 and 2 of the header.
void Adjust(const SamplingParams& params, const TokenCounts* counts,
            std::int64_t num_generated, std::span<float> row) {
  const auto at = [row](TokenId token) -> float& {
    GOLDFINCH_CHECK(static_cast<std::size_t>(token) < row.size());
    return row[static_cast<std::size_t>(token)];
  };
  for (const auto& [token, bias] : params.logit_bias) at(token) += bias;
  if (BansNow(params, num_generated)) {
    for (const TokenId token : params.banned_before_min_tokens) {
      at(token) = kMinusInfinity;
    }
  }
  if (params.HasPenalties()) ApplyPenalties(params, *counts, row);
}

// Step 5 over the whole row, without a list of candidates.
TokenId DrawFromRow(std::span<const float> row, WeightScale scale, double draw,
                    SampleScratch& scratch) {
  const auto block_sum = std::span(scratch.block_sum).first(NumRowBlocks(row.size()));
  double rest = draw * SumWeights(row, scale, block_sum);
  // Rounding can leave `rest` just above everything: the last token with a weight then.
  std::size_t block = 0;
  for (std::size_t i = 0; i < block_sum.size(); ++i) {
    if (block_sum[i] == 0.0) continue;
    block = i;
    if (rest < block_sum[i]) break;
    rest -= block_sum[i];
  }
  RowBlockValues weights;
  ComputeWeights(RowBlock(row, block), scale, kLowestExponent, weights);
  std::size_t chosen = 0;
  for (std::size_t i = 0; i < kRowBlock; ++i) {
    if (weights[i] == 0.0f) continue;
    chosen = i;
    if (rest < static_cast<double>(weights[i])) break;
    rest -= static_cast<double>(weights[i]);
  }
  return static_cast<TokenId>(block * kRowBlock + chosen);
}

double SumOf(Candidates candidates) {
  double sum = 0.0;
  for (const Candidate& candidate : candidates) {
    sum += static_cast<double>(candidate.weight);
  }
  return sum;
}

TokenId DrawFromCandidates(Candidates candidates, double draw) {
  const double target = draw * SumOf(candidates);
  double sum = 0.0;
  for (const Candidate& candidate : candidates) {
    sum += static_cast<double>(candidate.weight);
    if (sum > target) return candidate.token;
  }
  return candidates.back().token;
}

// Keeps, in place and in order, the fewest of the highest candidates whose measures add
// up to `target`; all of them when they do not. Ties go to the lowest id. A radix
// descent: each round sums the measures by one digit of the keys and walks down to the
// value in which the target is reached, so time is linear and there is no sort.
template <typename Measure>
Candidates KeepHighest(Candidates candidates, double target, const Measure& measure,
                       std::vector<double>& digit_sums) {
  std::uint32_t cut_key = 0;  // its digits found so far
  double above = 0.0;         // measures of the keys above cut_key
  for (const Digit digit : kDigits) {
    const auto sums = std::span(digit_sums).first(std::size_t{1} << digit.bits);
    std::fill(sums.begin(), sums.end(), 0.0);
    for (const Candidate& candidate : candidates) {
      const std::uint32_t prefix = candidate.key >> digit.shift;
      if (prefix >> digit.bits != cut_key) continue;
      sums[prefix & (sums.size() - 1)] += measure(candidate);
    }
    double below = 0.0;
    std::size_t value = 0;
    for (std::size_t i = sums.size(); i-- > 0;) {
      if (sums[i] == 0.0) continue;
      above += std::exchange(below, sums[i]);
      value = i;
      if (above + sums[i] >= target) break;
    }
    cut_key = (cut_key << digit.bits) | static_cast<std::uint32_t>(value);
  }
  std::size_t num_kept = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.key < cut_key) continue;
    if (candidate.key == cut_key) {
      if (above >= target) continue;
      above += measure(candidate);
    }
    candidates[num_kept++] = candidate;
  }
  return candidates.first(num_kept);
}

// What a token must reach to become a candidate.
struct Floor {
  float logit = kMinusInfinity;
  float exponent = kLowestExponent;
};

// A logit that at least `top_k` tokens of the row reach, if blocks can tell: k blocks
// reach the k-th highest maximum.
float TopKFloor(std::size_t top_k, std::span<const float> block_max,
                std::span<float> ranked_max) {
  if (top_k > block_max.size()) return kMinusInfinity;
  std::copy(block_max.begin(), block_max.end(), ranked_max.begin());
  const auto kth = ranked_max.begin() + static_cast<std::ptrdiff_t>(top_k) - 1;
  std::nth_element(ranked_max.begin(), kth, ranked_max.end(), std::greater<>());
  return *kth;
}

// Tokens of lower exponents add up to less than what top_p leaves out of `total`, the
// sum of the row's weights, however many they are. The slack is far above any rounding.
float TopPFloor(float top_p, double total, std::size_t row_size) {
  const double left_out = (1.0 - static_cast<double>(top_p)) * total;
  return static_cast<float>(std::log(left_out / static_cast<double>(row_size)) - 0.01);
}

Candidates Collect(std::span<const float> row, WeightScale scale, Floor floor,
                   SampleScratch& scratch) {
  std::size_t num_candidates = 0;
  RowBlockValues weights;
  for (std::size_t block = 0; block < NumRowBlocks(row.size()); ++block) {
    const float max = scratch.block_max[block];
    if (max < floor.logit || scale.Exponent(max) < floor.exponent) continue;
    const std::span<const float> logits = RowBlock(row, block);
    ComputeWeights(logits, scale, floor.exponent, weights);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const float logit = logits[i] > kLargest ? kLargest : logits[i];
      const auto token = static_cast<TokenId>(block * kRowBlock + i);
      // Written in any case and counted if wanted: no branch to mispredict.
      scratch.candidates[num_candidates] = {OrderedKey(logit), weights[i], token};
      const bool wanted = (weights[i] > 0.0f) & (logit >= floor.logit);
      num_candidates += wanted ? 1 : 0;
    }
  }
  return Candidates(scratch.candidates).first(num_candidates);
}

// Step 4: what is left after min_p, top_k and top_p; never empty, since the highest
// logit passes each of them.
Candidates KeepCandidates(std::span<const float> row, WeightScale scale,
                          const SamplingParams& params, SampleScratch& scratch) {
  const std::size_t num_blocks = NumRowBlocks(row.size());
  const auto top_k = static_cast<std::size_t>(params.top_k);
  const bool cuts_top_k = params.top_k > 0 && top_k < row.size();
  const bool cuts_top_p = params.top_p < 1.0f;

  // min_p exactly; top_k and top_p as far as a cheap bound goes.
  Floor floor;
  floor.exponent = LowestExponent(params.min_p);
  if (cuts_top_k) {
    floor.logit = TopKFloor(top_k, std::span(scratch.block_max).first(num_blocks),
                            std::span(scratch.ranked_max).first(num_blocks));
  }
  const bool cuts_only_top_p = cuts_top_p && !cuts_top_k && params.min_p <= 0.0f;
  double total = 0.0;
  if (cuts_only_top_p) {
    total = SumWeights(row, scale, {});
    floor.exponent = std::max(floor.exponent, TopPFloor(params.top_p, total, row.size()));
  }

  Candidates kept = Collect(row, scale, floor, scratch);
  if (cuts_top_k && top_k < kept.size()) {
    const auto one = [](const Candidate&) { return 1.0; };
    kept = KeepHighest(kept, params.top_k, one, scratch.digit_sums);
  }
  if (cuts_top_p) {
    if (!cuts_only_top_p) total = SumOf(kept);
    const auto weight = [](const Candidate& candidate) {
      return static_cast<double>(candidate.weight);
    };
    kept = KeepHighest(kept, static_cast<double>(params.top_p) * total, weight,
                       scratch.digit_sums);
  }
  return kept;
}

TokenId Choose(std::span<const float> row, const SamplingParams& params,
               std::int64_t num_generated, SampleScratch& scratch) {
  const auto block_max = std::span(scratch.block_max).first(NumRowBlocks(row.size()));
  const RowMax max = FindRowMax(row, block_max);
  if (max.value == kMinusInfinity) {
    return LowestAllowed(row.size(), params, num_generated);
  }
  if (params.Greedy()) return FirstAtMax(row, max);

  const WeightScale scale = {max.value, 1.0f / params.temperature};
  const double draw = UniformDraw(params.seed, params.candidate,
                                  static_cast<std::uint64_t>(num_generated));
  if (params.min_p <= 0.0f && params.top_k <= 0 && params.top_p >= 1.0f) {
    return DrawFromRow(row, scale, draw, scratch);
  }
  return DrawFromCandidates(KeepCandidates(row, scale, params, scratch), draw);
}

// log(sum exp x) of a row whose highest logit is finite.
double LogSumExpOf(std::span<const float> logits, RowMax max) {
  return LogSumExp(max.value, SumWeights(logits, {max.value, 1.0f}, {}));
}

// The `count` highest logits, ties to the lowest id: since ids come in increasing order,
// a logit goes in behind its equals.
void CollectTop(std::span<const float> logits, std::span<const float> block_max,
                std::size_t count, std::vector<TokenLogprob>& top) {
  for (std::size_t block = 0; block < block_max.size(); ++block) {
    if (top.size() == count && block_max[block] <= top.back().logprob) continue;
    const std::span<const float> values = RowBlock(logits, block);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float logit = Finite(values[i]);
      if (top.size() == count) {
        if (logit <= top.back().logprob) continue;
        top.pop_back();
      }
      const auto behind = std::find_if(top.begin(), top.end(), [&](const auto& entry) {
        return entry.logprob < logit;
      });
      top.insert(behind,
                 TokenLogprob{static_cast<TokenId>(block * kRowBlock + i), logit});
    }
  }
}

void FillLogprobs(std::span<const float> logits, std::int32_t num_logprobs,
                  SampleScratch& scratch, SampledToken& out) {
  const auto block_max = std::span(scratch.block_max).first(NumRowBlocks(logits.size()));
  const RowMax max = FindRowMax(logits, block_max);
  const double log_sum_exp = max.value == kMinusInfinity ? 0.0 : LogSumExpOf(logits, max);
  out.logprob =
      LogprobOf(logits[static_cast<std::size_t>(out.token)], max.value, log_sum_exp);
  const std::size_t count =
      std::min(static_cast<std::size_t>(num_logprobs), logits.size());
  if (count == 0) return;
  out.top.reserve(count);
  CollectTop(logits, block_max, count, out.top);
  for (TokenLogprob& entry : out.top) {
    entry.logprob = LogprobOf(entry.logprob, max.value, log_sum_exp);
  }
}

}  // namespace

SampleScratch::SampleScratch(std::int32_t vocab_size) {
  GOLDFINCH_CHECK(vocab_size > 0);
  const auto size = static_cast<std::size_t>(vocab_size);
  adjusted.resize(size);
  block_max.resize(NumRowBlocks(size));
  ranked_max.resize(NumRowBlocks(size));
  block_sum.resize(NumRowBlocks(size));
  candidates.resize(size);
  digit_sums.resize(kMaxDigitValues);
}

void SampleRow(std::span<const float> logits, const SamplingParams& params,
               const TokenCounts* counts, std::int64_t num_generated,
               SampleScratch& scratch, SampledToken& out) {
  GOLDFINCH_CHECK(!logits.empty() && logits.size() <= scratch.adjusted.size());
  if (params.HasPenalties()) {
    GOLDFINCH_CHECK(counts != nullptr);
    GOLDFINCH_CHECK(static_cast<std::size_t>(counts->vocab_size()) <= logits.size());
  }
  std::span<const float> row = logits;
  if (ChangesRow(params, num_generated)) {
    const auto adjusted = std::span(scratch.adjusted).first(logits.size());
    std::copy(logits.begin(), logits.end(), adjusted.begin());
    Adjust(params, counts, num_generated, adjusted);
    row = adjusted;
  }
  out.token = Choose(row, params, num_generated, scratch);
  out.logprob = 0.0f;
  out.top.clear();
  if (params.num_logprobs >= 0) {
    FillLogprobs(logits, params.num_logprobs, scratch, out);
  }
}

ScoredToken ScoreRow(std::span<const float> logits, TokenId target) {
  GOLDFINCH_CHECK(static_cast<std::size_t>(target) < logits.size());
  const RowMax max = FindRowMax(logits, {});
  const float logit = logits[static_cast<std::size_t>(target)];
  if (max.value == kMinusInfinity) return {kMinusInfinity, target == 0};
  return {LogprobOf(logit, max.value, LogSumExpOf(logits, max)),
          FirstAtMax(logits, max) == target};
}

}  // namespace goldfinch
