#include "server/cli/sampling.h"

#include <cstdio>
#include <cstdlib>

namespace goldfinch {
namespace {

// "ID:VALUE" into the map; false when it is not that.
bool AddLogitBias(const std::string& entry, v1::SamplingParams& sampling) {
  char* end = nullptr;
  const long id = std::strtol(entry.c_str(), &end, 10);
  if (end == entry.c_str() || *end != ':' || id != static_cast<std::int32_t>(id)) {
    return false;
  }
  const char* value = end + 1;
  const float bias = std::strtof(value, &end);
  if (end == value || *end != '\0') return false;
  (*sampling.mutable_logit_bias())[static_cast<std::int32_t>(id)] = bias;
  return true;
}

}  // namespace

bool FillSampling(const SamplingFlags& flags, v1::SamplingParams& out) {
  if (flags.max_tokens) out.set_max_tokens(*flags.max_tokens);
  out.set_min_tokens(flags.min_tokens);
  if (flags.temperature) out.set_temperature(*flags.temperature);
  if (flags.top_p) out.set_top_p(*flags.top_p);
  out.set_top_k(flags.top_k);
  out.set_min_p(flags.min_p);
  if (flags.repetition_penalty) out.set_repetition_penalty(*flags.repetition_penalty);
  out.set_frequency_penalty(flags.frequency_penalty);
  out.set_presence_penalty(flags.presence_penalty);
  if (flags.seed) out.set_seed(*flags.seed);
  for (const std::string& stop : flags.stop) out.add_stop(stop);
  for (const std::int32_t token : flags.stop_token_ids) out.add_stop_token_ids(token);
  out.set_include_stop_str_in_output(flags.include_stop_str_in_output);
  out.set_ignore_eos(flags.ignore_eos);
  for (const std::string& entry : flags.logit_bias) {
    if (AddLogitBias(entry, out)) continue;
    std::fprintf(stderr, "goldfinch: --logit_bias is %s; it must be ID:VALUE\n",
                 entry.c_str());
    return false;
  }
  return true;
}

}  // namespace goldfinch
