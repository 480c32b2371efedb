#include "engine/sampling/row_math.h"

#include <bit>
#include <cstdint>
#include <cstring>

namespace goldfinch {
namespace {

// Four floats at a time, by the compiler's vector types: element by element the same
// IEEE operations on every machine, whatever the optimiser thinks of a loop.
using Lanes [[gnu::vector_size(16)]] = float;
using LaneBits [[gnu::vector_size(16)]] = std::uint32_t;
constexpr std::size_t kLanes = 4;
// Running values kept side by side, so that one operation need not wait for the last.
constexpr std::size_t kChains = 4;
static_assert(kRowBlock % (kLanes * kChains) == 0);

Lanes Load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

// The block itself, or a copy in `storage` that is filled up with -inf when it is short.
const float* WholeBlock(std::span<const float> block, RowBlockValues& storage) {
  if (block.size() == kRowBlock) return block.data();
  storage.fill(kMinusInfinity);
  std::copy(block.begin(), block.end(), storage.begin());
  return storage.data();
}

float BlockMax(std::span<const float> block) {
  RowBlockValues storage;
  const float* values = WholeBlock(block, storage);
  Lanes chain[kChains];
  for (Lanes& max : chain) max = Lanes{} + kMinusInfinity;
  for (std::size_t i = 0; i < kRowBlock; i += kLanes * kChains) {
    for (std::size_t j = 0; j < kChains; ++j) {
      const Lanes x = Load(values + i + j * kLanes);
      // False for NaN, which thereby never gets in.
      chain[j] = x > chain[j] ? x : chain[j];
    }
  }
  float max = kMinusInfinity;
  for (const Lanes& lanes : chain) {
    for (std::size_t i = 0; i < kLanes; ++i) max = lanes[i] > max ? lanes[i] : max;
  }
  return Finite(max);
}

// exp(x) for x in [kLowestExponent, 0].
//   x = n log 2 + r, |r| <= log(2) / 2;  exp(x) = 2^n exp(r)
// exp(r) is its Taylor series to r^7, whose rest is below 6e-9: a tenth of a rounding.
Lanes ExpOfNegative(Lanes x) {
  constexpr float kLog2E = 1.44269504f;
  // log 2 in two parts; the first has so few bits that n times it is exact.
  constexpr float kLog2High = 0.693359375f;
  constexpr float kLog2Low = -2.12194440e-4f;
  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
  constexpr float kRound = 12582912.0f;

  const Lanes shifted = x * kLog2E + kRound;
  const Lanes n = shifted - kRound;
  const Lanes r = (x - n * kLog2High) - n * kLog2Low;
  Lanes series = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  // n >= -126, so the exponent field stays that of a normal number.
  const LaneBits power = (std::bit_cast<LaneBits>(shifted) + 127u) << 23;
  return series * std::bit_cast<Lanes>(power);
}

double SumBlock(const RowBlockValues& weights) {
  Lanes chain[kChains] = {};
  for (std::size_t i = 0; i < kRowBlock; i += kLanes * kChains) {
    for (std::size_t j = 0; j < kChains; ++j) {
      chain[j] += Load(weights.data() + i + j * kLanes);
    }
  }
  const Lanes lanes = (chain[0] + chain[1]) + (chain[2] + chain[3]);
  double sum = 0.0;
  for (std::size_t i = 0; i < kLanes; ++i) sum += static_cast<double>(lanes[i]);
  return sum;
}

}  // namespace

RowMax FindRowMax(std::span<const float> row, std::span<float> block_max) {
  RowMax max;
  for (std::size_t block = 0; block < NumRowBlocks(row.size()); ++block) {
    const float value = BlockMax(RowBlock(row, block));
    if (!block_max.empty()) block_max[block] = value;
    if (value > max.value) max = {value, block};
  }
  return max;
}

TokenId FirstAtMax(std::span<const float> row, RowMax max) {
  std::size_t token = max.block * kRowBlock;
  while (Finite(row[token]) != max.value) ++token;
  return static_cast<TokenId>(token);
}

void ComputeWeights(std::span<const float> block, WeightScale scale,
                    float lowest_exponent, RowBlockValues& weights) {
  RowBlockValues storage;
  const float* values = WholeBlock(block, storage);
  for (std::size_t i = 0; i < kRowBlock; i += kLanes) {
    const Lanes exponent = scale.Exponent(Load(values + i));
    // NaN fails the comparison and is replaced like what is too low.
    const auto counts = exponent >= lowest_exponent;
    const Lanes weight = ExpOfNegative(counts ? exponent : Lanes{} + kLowestExponent);
    const Lanes result = counts ? weight : Lanes{};
    std::memcpy(weights.data() + i, &result, sizeof(result));
  }
}

double SumWeights(std::span<const float> row, WeightScale scale,
                  std::span<double> block_sum) {
  RowBlockValues weights;
  double sum = 0.0;
  for (std::size_t block = 0; block < NumRowBlocks(row.size()); ++block) {
    ComputeWeights(RowBlock(row, block), scale, kLowestExponent, weights);
    const double value = SumBlock(weights);
    if (!block_sum.empty()) block_sum[block] = value;
    sum += value;
  }
  return sum;
}

}  // namespace goldfinch
