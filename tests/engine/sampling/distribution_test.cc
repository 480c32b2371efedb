// That tokens come up as often as they should: chi-square over many draws. Draws are
// functions of fixed seeds, so a test passes always or never.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/sampling/sampler.h"

namespace goldfinch {
namespace {

constexpr int kNumDraws = 40000;

// Softmax of the kept logits at `temperature`; 0 for the others.
std::vector<double> Softmax(std::span<const float> logits, double temperature,
                            const std::vector<bool>& kept) {
  std::vector<double> probabilities(logits.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (kept[i])
      probabilities[i] = std::exp(static_cast<double>(logits[i]) / temperature);
    sum += probabilities[i];
  }
  for (double& p : probabilities) p /= sum;
  return probabilities;
}

// Draws along one of seed, candidate and index; tokens expected fewer than 5 times share
// a bin.
enum class Along { kSeed, kCandidate, kIndex };

void ExpectDrawnAs(const std::vector<double>& probabilities,
                   std::span<const float> logits, SamplingParams params, Along along) {
  SampleScratch scratch(static_cast<std::int32_t>(logits.size()));
  SampledToken out;
  std::vector<int> count(logits.size());
  for (int i = 0; i < kNumDraws; ++i) {
    std::int64_t index = 3;
    if (along == Along::kSeed) params.seed = static_cast<std::uint64_t>(i);
    if (along == Along::kCandidate) params.candidate = static_cast<std::uint32_t>(i);
    if (along == Along::kIndex) index = i;
    SampleRow(logits, params, nullptr, index, scratch, out);
    ++count[static_cast<std::size_t>(out.token)];
  }
  double chi_square = 0.0;
  int num_bins = 0;
  double rare_expected = 0.0;
  double rare_count = 0.0;
  const auto add_bin = [&](double expected, double counted) {
    chi_square += (counted - expected) * (counted - expected) / expected;
    ++num_bins;
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double expected = probabilities[i] * kNumDraws;
    if (expected == 0.0) {
      ASSERT_EQ(count[i], 0) << "token " << i << " was cut";
    } else if (expected < 5.0) {
      rare_expected += expected;
      rare_count += count[i];
    } else {
      add_bin(expected, count[i]);
    }
  }
  if (rare_expected > 5.0) add_bin(rare_expected, rare_count);
  const double freedom = num_bins - 1;
  EXPECT_LT(chi_square, freedom + 4.0 * std::sqrt(2.0 * freedom)) << num_bins << " bins";
}

void ExpectDrawnAs(const std::vector<double>& probabilities,
                   std::span<const float> logits, const SamplingParams& params) {
  for (const Along along : {Along::kSeed, Along::kCandidate, Along::kIndex}) {
    ExpectDrawnAs(probabilities, logits, params, along);
  }
}

TEST(DistributionTest, PlainSamplingFollowsTheSoftmax) {
  const std::vector<float> row = RandomRow(300, 1.5, 1);
  SamplingParams params;
  params.seed = 11;
  ExpectDrawnAs(Softmax(row, 1.0, std::vector<bool>(300, true)), row, params);
}

TEST(DistributionTest, TemperatureDividesTheLogits) {
  const std::vector<float> row = RandomRow(300, 1.5, 2);
  for (const float temperature : {0.4f, 3.0f, 100.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    ExpectDrawnAs(
        Softmax(row, static_cast<double>(temperature), std::vector<bool>(300, true)), row,
        params);
  }
}

TEST(DistributionTest, WhatCutsLeaveKeepsItsProportions) {
  const std::vector<float> row = RandomRow(300, 1.5, 3);
  std::vector<float> sorted = row;
  std::sort(sorted.rbegin(), sorted.rend());
  std::vector<bool> highest25(300);
  for (std::size_t i = 0; i < 300; ++i) highest25[i] = row[i] >= sorted[24];
  const std::vector<double> probabilities = Softmax(row, 0.9, highest25);

  SamplingParams params;
  params.temperature = 0.9f;
  params.top_k = 25;
  ExpectDrawnAs(probabilities, row, params);

  // The same 25 tokens, reached by min_p: between the 25th and the 26th.
  const double middle = (static_cast<double>(sorted[24]) + sorted[25]) / 2.0;
  params.top_k = 0;
  params.min_p = static_cast<float>(std::exp((middle - sorted[0]) / 0.9));
  ExpectDrawnAs(probabilities, row, params);

  // And by top_p: more than the first 24 hold, less than the first 25 do.
  const std::vector<double> all = Softmax(row, 0.9, std::vector<bool>(300, true));
  double first25 = 0.0;
  double smallest = 1.0;
  for (std::size_t i = 0; i < 300; ++i) {
    if (!highest25[i]) continue;
    first25 += all[i];
    smallest = std::min(smallest, all[i]);
  }
  params.min_p = 0.0f;
  params.top_p = static_cast<float>(first25 - smallest / 2.0);
  ExpectDrawnAs(probabilities, row, params);
}

}  // namespace
}  // namespace goldfinch
