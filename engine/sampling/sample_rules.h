// What choosing a token takes from the request alone, whichever device looks at the row,
// and how a log-probability is made of what a device found in it.
//
// Threads: pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/sampling.h"
#include "engine/token.h"

namespace goldfinch {

// Tokens are banned at this place of the output.
bool BansNow(const SamplingParams& params, std::int64_t num_generated);

// Biases, bans or penalties: the row chosen from is not the row as it came.
bool ChangesRow(const SamplingParams& params, std::int64_t num_generated);

// The token of a row that is all at -inf: the lowest id that is not banned, or 0.
TokenId LowestAllowed(std::size_t row_size, const SamplingParams& params,
                      std::int64_t num_generated);

// The lowest exponent, (x - max x) / temperature, of tokens that min_p keeps and whose
// weight is not 0.
float LowestExponent(float min_p);

// log(sum exp x) of a row whose highest logit is `max`, where `sum` is that of exp(x -
// max).
double LogSumExp(float max, double sum);

// Log-probability of a logit of such a row; -inf where `max` is.
float LogprobOf(float logit, float max, double log_sum_exp);

}  // namespace goldfinch
