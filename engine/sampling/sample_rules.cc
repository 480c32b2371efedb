#include "engine/sampling/sample_rules.h"

#include <algorithm>
#include <cmath>

#include "engine/sampling/row_math.h"

namespace goldfinch {

bool BansNow(const SamplingParams& params, std::int64_t num_generated) {
  return num_generated < params.min_tokens && !params.banned_before_min_tokens.empty();
}

bool ChangesRow(const SamplingParams& params, std::int64_t num_generated) {
  return !params.logit_bias.empty() || BansNow(params, num_generated) ||
         params.HasPenalties();
}

TokenId LowestAllowed(std::size_t row_size, const SamplingParams& params,
                      std::int64_t num_generated) {
  if (!BansNow(params, num_generated)) return 0;
  const auto& banned = params.banned_before_min_tokens;
  for (TokenId token = 0; static_cast<std::size_t>(token) < row_size; ++token) {
    if (std::find(banned.begin(), banned.end(), token) == banned.end()) return token;
  }
  return 0;
}

float LowestExponent(float min_p) {
  if (min_p <= 0.0f) return kLowestExponent;
  const double exponent = std::log(static_cast<double>(min_p));
  return std::max(kLowestExponent, static_cast<float>(exponent));
}

double LogSumExp(float max, double sum) {
  return static_cast<double>(max) + std::log(sum);
}

float LogprobOf(float logit, float max, double log_sum_exp) {
  if (max == kMinusInfinity) return kMinusInfinity;
  return static_cast<float>(static_cast<double>(Finite(logit)) - log_sum_exp);
}

}  // namespace goldfinch
