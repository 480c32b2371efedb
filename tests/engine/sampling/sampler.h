// What the sampling tests share: one call that samples, rows of random logits,
// histories, parameters of every kind, and the tokens that they can ever choose.
#pragma once

#include <cmath>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "engine/sampling/random.h"
#include "engine/sampling/sample_row.h"
#include "tests/reference/sample_reference.h"

namespace goldfinch {

inline SampledToken Sample(std::span<const float> logits, const SamplingParams& params,
                           std::int64_t num_generated = 0,
                           const TokenCounts* counts = nullptr) {
  SampleScratch scratch(static_cast<std::int32_t>(logits.size()));
  SampledToken out;
  SampleRow(logits, params, counts, num_generated, scratch, out);
  return out;
}

// Every token that comes up in `num_draws` draws.
inline std::set<TokenId> Drawn(std::span<const float> logits,
                               const SamplingParams& params, int num_draws = 400,
                               const TokenCounts* counts = nullptr) {
  SampleScratch scratch(static_cast<std::int32_t>(logits.size()));
  SampledToken out;
  std::set<TokenId> tokens;
  for (int i = 0; i < num_draws; ++i) {
    SampleRow(logits, params, counts, i, scratch, out);
    tokens.insert(out.token);
  }
  return tokens;
}

// Normal logits of the given spread; the same for the same arguments, anywhere.
inline std::vector<float> RandomRow(std::size_t size, double spread, std::uint64_t seed) {
  std::vector<float> row(size);
  for (std::size_t i = 0; i < size; ++i) {
    const double u = 1.0 - UniformDraw(seed, 1000, i);
    const double v = UniformDraw(seed, 1001, i);
    row[i] = static_cast<float>(spread * std::sqrt(-2.0 * std::log(u)) *
                                std::cos(6.283185307179586 * v));
  }
  return row;
}

// One of each way through the steps.
inline std::vector<SamplingParams> EveryWay() {
  std::vector<SamplingParams> ways(9);
  ways[0].temperature = 0.0f;
  ways[2].top_k = 2;
  ways[3].top_k = 900;
  ways[4].top_p = 0.9f;
  ways[5].min_p = 0.1f;
  ways[6].min_p = 0.01f;
  ways[6].top_k = 5;
  ways[6].top_p = 0.7f;
  ways[7].temperature = 100.0f;
  ways[7].top_p = 0.999f;
  ways[8].top_k = 40;
  ways[8].top_p = 1e-45f;
  for (SamplingParams& params : ways) params.num_logprobs = 3;
  return ways;
}

// Forty tokens of a prompt and twenty of an output, low ids more often.
inline reference::History RandomHistory(std::int64_t vocab_size, std::uint64_t seed) {
  reference::History history;
  for (std::uint64_t i = 0; i < 60; ++i) {
    const double u = UniformDraw(seed, 77, i);
    const auto token = static_cast<TokenId>(u * u * static_cast<double>(vocab_size));
    (i < 40 ? history.prompt : history.output).push_back(token);
  }
  return history;
}

}  // namespace goldfinch
