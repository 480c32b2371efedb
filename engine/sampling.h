// How the next token is chosen from a row of logits.
//
// Order of operations (the public contract, see
// proto/goldfinch/v1/generation_service.proto): log-probabilities are of the raw logits;
// then logit_bias and the min_tokens ban; repetition, frequency and presence penalties;
// temperature; min_p; top_k; top_p. Randomness is counter-based: the draw is a pure
// function of (seed, candidate, number of tokens generated so far), so a sequence can be
// stopped, moved and continued.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/token.h"

namespace goldfinch {

// Most that SamplingParams::num_logprobs may ask for: a device has so much room.
inline constexpr std::int32_t kMaxTopTokens = 20;

// Values are already validated (finite, inside the contract's bounds) when they get here.
struct SamplingParams {
  float temperature = 1.0f;  // below 1e-5: the highest logit, ties to the lowest id
  float top_p = 1.0f;        // (0, 1]; 1 = off
  std::int32_t top_k = 0;    // 0 = off
  float min_p = 0.0f;        // [0, 1]; 0 = off
  float repetition_penalty = 1.0f;  // > 0, over prompt and output; 1 = off
  float frequency_penalty = 0.0f;   // over output only
  float presence_penalty = 0.0f;    // over output only
  std::uint64_t seed = 0;
  std::uint32_t candidate = 0;
  // Tokens that may not be chosen while fewer than min_tokens have been generated: the
  // stop tokens and, unless it is ignored, end of text.
  std::int64_t min_tokens = 0;
  std::vector<TokenId> banned_before_min_tokens;
  std::vector<std::pair<TokenId, float>> logit_bias;
  // -1: none; 0: the chosen token's; n <= kMaxTopTokens: and those of the n most
  // probable.
  std::int32_t num_logprobs = -1;

  bool Greedy() const { return temperature < 1e-5f; }
  bool HasPenalties() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f ||
           presence_penalty != 0.0f;
  }
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0.0f;  // natural log, of the raw logits
};

// One sampled token. `top` holds the `num_logprobs` most probable tokens, most probable
// first, ties to the lowest id.
struct SampledToken {
  TokenId token = 0;
  float logprob = 0.0f;  // set when num_logprobs >= 0
  std::vector<TokenLogprob> top;
};

// What scoring says about one given token.
struct ScoredToken {
  float logprob = 0.0f;    // natural log
  bool is_greedy = false;  // it is the highest logit (ties to the lowest id)
};

}  // namespace goldfinch
