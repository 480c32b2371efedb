// Chooses the next token from one row of logits, and scores a given token, on the CPU. A
// GPU takes the same steps (engine/kernels/cuda/sample.h).
//
// The choice, in the order of the public contract (x: logits, V of them):
//   1. x[t] += bias of t; x[t] = -inf for banned t while num_generated < min_tokens
//   2. tokens of prompt or output: x[t] = x[t] > 0 ? x[t] / r : x[t] * r, r: repetition
//      tokens of the output:       x[t] -= frequency * count[t];  x[t] -= presence
//   3. greedy: the highest x. Otherwise w[t] = exp((x[t] - max x) / temperature)
//   4. min_p: keep w[t] >= min_p * max w
//      top_k: keep the k highest
//      top_p: keep the fewest of the highest whose w add up to top_p of those kept so far
//   5. the first t, by increasing id, at which the running sum of the kept w exceeds
//      draw * (sum of the kept w); draw: UniformDraw(seed, candidate, num_generated)
// "Highest" is by x after step 2, ties to the lowest id. Log-probabilities are of the
// raw logits: x[t] - log(sum exp x).
//
// Invariants: the answer is always a token in [0, V), and its bits depend on the
// arguments only: sums run in one fixed order and exp is a polynomial of our own.
//   - A NaN logit counts as -inf, +inf as the largest float. A token at -inf is never
//     chosen while another is above it; a w below exp(-87) counts as 0.
//   - When every token is at -inf: the lowest id that is not banned. When every token
//     is banned: 0.
//   - The log-probability of a token at -inf is -inf.
//
// No call allocates, except to grow `out.top` to num_logprobs entries the first time.
//
// Threads: any number at once, each with a scratch of its own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling.h"
#include "engine/sampling/token_counts.h"
#include "engine/token.h"

namespace goldfinch {

// Working memory of SampleRow for rows of up to vocab_size logits (about 1.1 MiB for
// 65536). What is in it between calls has no meaning.
struct SampleScratch {
  explicit SampleScratch(std::int32_t vocab_size);

  struct Candidate {
    std::uint32_t key;  // orders as the logit does
    float weight;       // > 0
    TokenId token;
  };

  std::vector<float> adjusted;        // the row after steps 1 and 2
  std::vector<float> block_max;       // of the row, block by block (row_math.h)
  std::vector<float> ranked_max;      // block_max, partly sorted
  std::vector<double> block_sum;      // of the weights
  std::vector<Candidate> candidates;  // by increasing id
  std::vector<double> digit_sums;     // by one digit of the candidates' keys
};

// Chooses the token that follows `num_generated` generated ones and writes it to `out`,
// with the log-probabilities `params` asks for; `out.top` has min(num_logprobs, V)
// entries. `counts` may be null when params.HasPenalties() is false.
void SampleRow(std::span<const float> logits, const SamplingParams& params,
               const TokenCounts* counts, std::int64_t num_generated,
               SampleScratch& scratch, SampledToken& out);

// Log-probability of `target`, and whether it is the greedy choice.
ScoredToken ScoreRow(std::span<const float> logits, TokenId target);

}  // namespace goldfinch
