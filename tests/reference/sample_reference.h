// The plain twin of SampleRow and ScoreRow: every token in a list, a full sort, double
// arithmetic. Steps 1 and 2 are in float, as the contract's "logits" are.
//
// Where a decision hangs on a rounding (the draw falls on the border between two tokens,
// a running sum lands on top_p) the two may rightly differ; `margin` says how near the
// nearest such decision was, as a share of the total probability.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <vector>

#include "engine/sampling.h"
#include "engine/sampling/random.h"

namespace goldfinch::reference {

// What has been seen of a sequence, as plain lists.
struct History {
  std::vector<TokenId> prompt;
  std::vector<TokenId> output;
};

struct Sampled {
  TokenId token = 0;
  std::vector<TokenId> kept;  // after min_p, top_k and top_p, most probable first
  double margin = 1.0;
};

inline double Clean(float logit) {
  if (std::isnan(logit)) return -std::numeric_limits<double>::infinity();
  return std::min(static_cast<double>(logit),
                  static_cast<double>(std::numeric_limits<float>::max()));
}

inline std::vector<double> Adjusted(std::span<const float> logits,
                                    const SamplingParams& params, const History& history,
                                    std::int64_t num_generated) {
  std::vector<float> x(logits.begin(), logits.end());
  for (const auto& [token, bias] : params.logit_bias) x[token] += bias;
  if (num_generated < params.min_tokens) {
    for (const TokenId token : params.banned_before_min_tokens) {
      x[token] = -std::numeric_limits<float>::infinity();
    }
  }
  std::map<TokenId, int> output_count;
  for (const TokenId token : history.prompt) output_count[token] += 0;
  for (const TokenId token : history.output) output_count[token] += 1;
  for (const auto& [token, count] : output_count) {
    const float p = params.repetition_penalty;
    x[token] = x[token] > 0.0f ? x[token] / p : x[token] * p;
    x[token] -= params.frequency_penalty * static_cast<float>(count);
    if (count > 0) x[token] -= params.presence_penalty;
  }
  std::vector<double> clean;
  for (const float value : x) clean.push_back(Clean(value));
  return clean;
}

// Ids by decreasing logit, ties by increasing id.
inline std::vector<TokenId> Ranked(const std::vector<double>& x) {
  std::vector<TokenId> ids(x.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](TokenId a, TokenId b) { return x[a] > x[b]; });
  return ids;
}

inline Sampled Sample(std::span<const float> logits, const SamplingParams& params,
                      const History& history, std::int64_t num_generated) {
  const std::vector<double> x = Adjusted(logits, params, history, num_generated);
  Sampled result;
  result.kept = Ranked(x);
  std::vector<TokenId>& kept = result.kept;
  const double max = x[kept[0]];
  if (std::isinf(max)) {
    const auto& banned = params.banned_before_min_tokens;
    const bool bans = num_generated < params.min_tokens;
    while (bans && result.token < std::ssize(x) &&
           std::find(banned.begin(), banned.end(), result.token) != banned.end()) {
      ++result.token;
    }
    if (result.token == std::ssize(x)) result.token = 0;
    return result;
  }
  if (params.temperature < 1e-5f) {
    result.token = kept[0];
    return result;
  }

  std::vector<double> weight;
  for (const double value : x) {
    weight.push_back(std::exp((value - max) / static_cast<double>(params.temperature)));
  }
  const auto near = [&](double distance) {
    result.margin = std::min(result.margin, std::abs(distance));
  };
  // min_p
  std::size_t count = 0;
  for (const TokenId token : kept) {
    const double over = weight[token] - static_cast<double>(params.min_p);
    // The highest and its equals weigh 1 without any rounding.
    if (params.min_p > 0.0f && x[token] != max) near(over);
    if (over >= 0.0) ++count;
  }
  kept.resize(count);
  // top_k
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < kept.size()) {
    kept.resize(static_cast<std::size_t>(params.top_k));
  }
  // top_p
  double total = 0.0;
  for (const TokenId token : kept) total += weight[token];
  if (params.top_p < 1.0f) {
    double sum = 0.0;
    count = 0;
    while (count < kept.size() && sum < static_cast<double>(params.top_p) * total) {
      sum += weight[kept[count++]];
      near(sum / total - static_cast<double>(params.top_p));
    }
    kept.resize(count);
  }
  // draw
  std::vector<TokenId> by_id = kept;
  std::sort(by_id.begin(), by_id.end());
  total = 0.0;
  for (const TokenId token : by_id) total += weight[token];
  const double draw = UniformDraw(params.seed, params.candidate,
                                  static_cast<std::uint64_t>(num_generated));
  double sum = 0.0;
  bool found = false;
  for (const TokenId token : by_id) {
    sum += weight[token];
    if (token != by_id.back()) near(sum / total - draw);
    if (!found && sum > draw * total) {
      result.token = token;
      found = true;
    }
  }
  return result;
}

// Natural log-probability of every token.
inline std::vector<double> Logprobs(std::span<const float> logits) {
  double max = -std::numeric_limits<double>::infinity();
  for (const float logit : logits) max = std::max(max, Clean(logit));
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(Clean(logit) - max);
  std::vector<double> logprobs;
  for (const float logit : logits) {
    logprobs.push_back(std::isinf(max) ? max : Clean(logit) - max - std::log(sum));
  }
  return logprobs;
}

// The `count` most probable tokens.
inline std::vector<TokenId> Top(std::span<const float> logits, std::size_t count) {
  std::vector<double> x;
  for (const float logit : logits) x.push_back(Clean(logit));
  std::vector<TokenId> ids = Ranked(x);
  ids.resize(std::min(count, ids.size()));
  return ids;
}

}  // namespace goldfinch::reference
