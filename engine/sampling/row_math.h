// The passes over a row of logits that sampling is made of: highest logit, and weights
// w[t] = exp((x[t] - max) / temperature) with their sums. Only sampling uses it.
//
// Invariant: fixed bits. Every operation is one IEEE float or double operation in a
// written order, exp included; loops are shaped for the vectoriser, which may not
// reorder them.
//
// Logits are read as Finite() says: NaN and -inf are -inf, +inf is the largest float.
//
// Threads: pure functions, any thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>

#include "engine/token.h"

namespace goldfinch {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
inline constexpr float kLargest = std::numeric_limits<float>::max();

// Rows are read in blocks of this many logits, the last one may be shorter: whole blocks
// are skipped by their highest logit.
inline constexpr std::size_t kRowBlock = 128;

constexpr std::size_t NumRowBlocks(std::size_t row_size) {
  return (row_size + kRowBlock - 1) / kRowBlock;
}

inline std::span<const float> RowBlock(std::span<const float> row, std::size_t block) {
  const std::size_t begin = block * kRowBlock;
  return row.subspan(begin, std::min(kRowBlock, row.size() - begin));
}

// A logit that compares and subtracts safely. Not for hot loops over whole rows.
inline float Finite(float logit) {
  if (!(logit > kMinusInfinity)) return kMinusInfinity;
  return logit > kLargest ? kLargest : logit;
}

struct RowMax {
  float value = kMinusInfinity;  // after Finite()
  std::size_t block = 0;         // the first block that holds it
};

// The highest logit. `block_max`, when not empty, has NumRowBlocks entries and gets the
// highest of each block.
RowMax FindRowMax(std::span<const float> row, std::span<float> block_max);

// The lowest id at the highest logit.
TokenId FirstAtMax(std::span<const float> row, RowMax max);

// How logits become weights: the highest one weighs 1.
struct WeightScale {
  float max;
  float inverse_temperature;

  // Never above 0 for logits up to max, never decreasing in the logit; NaN for NaN.
  // Of one logit or of a vector of them.
  template <typename Logits>
  Logits Exponent(Logits logits) const {
    const Logits largest = Logits{} + kLargest;
    return ((logits > largest ? largest : logits) - max) * inverse_temperature;
  }
};

// Weights of smaller exponents are 0: exp(-87) is about the smallest normal float.
inline constexpr float kLowestExponent = -87.0f;

using RowBlockValues = std::array<float, kRowBlock>;

// weights[i] = exp(scale.Exponent(block[i])), within 2 units in the last place. 0 where
// the exponent is NaN or below lowest_exponent, which is at least kLowestExponent, and
// behind the end of a short block.
void ComputeWeights(std::span<const float> block, WeightScale scale,
                    float lowest_exponent, RowBlockValues& weights);

// The sum of all weights of the row. `block_sum`, when not empty, has NumRowBlocks
// entries and gets the sum of each block.
double SumWeights(std::span<const float> row, WeightScale scale,
                  std::span<double> block_sum);

}  // namespace goldfinch
