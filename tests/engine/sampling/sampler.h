// What the sampling tests share: one call that samples, rows of random logits, and the
// set of tokens that some parameters can ever choose.
#pragma once

#include <cmath>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "engine/sampling/random.h"
#include "engine/sampling/sample_row.h"

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

}  // namespace goldfinch
