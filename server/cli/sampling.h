// The flags that say how tokens are chosen, of every subcommand that generates.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "goldfinch/v1/generation_service.pb.h"

namespace goldfinch {

// Optional ones are sent only when they were given, so that the server's defaults hold
// and its checks answer for them.
struct SamplingFlags {
  std::optional<std::int64_t> max_tokens;
  std::int64_t min_tokens = 0;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::int32_t top_k = 0;
  float min_p = 0;
  std::optional<float> repetition_penalty;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  std::vector<std::string> logit_bias;  // "ID:VALUE"
};

// False, and told on standard error, when one cannot be sent.
bool FillSampling(const SamplingFlags& flags, v1::SamplingParams& out);

}  // namespace goldfinch
