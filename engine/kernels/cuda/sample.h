// Choosing and scoring tokens from rows of logits: one launch, a block of threads a row.
// What is chosen, and how, stands in engine/sampling/sample_row.h; what a request says is
// brought by the host into the few numbers below, and log-probabilities are finished
// there.
//
// Weights are added as whole numbers of 2^-WeightBits: a sum of integers has one value in
// whatever order threads add. A weight below that unit counts as 0.
#pragma once

#include <bit>
#include <cstdint>

#include "engine/backend/matrix.h"
#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

// So many that the weights of a whole vocabulary, each at most 1, add up within 64 bits.
constexpr int WeightBits(std::int64_t vocab_size) {
  return 63 -
         static_cast<int>(std::bit_width(static_cast<std::uint64_t>(vocab_size - 1)));
}

inline constexpr int kMaxTopLogits = 20;

// Of one token: a bias; a ban, whose value means nothing; or what its entry in a table of
// counts becomes. That is 0 of a token that was not seen, else 1 more than how often it
// has been generated.
struct LogitChange {
  std::int32_t token = 0;
  float value = 0.0f;
};

struct SampleTask {
  std::int64_t row = 0;
  std::uint64_t draw = 0;            // in units of 2^-64
  std::uint64_t top_p = 0;           // in units of 2^-64, rounded up; 0: off
  float inverse_temperature = 0.0f;  // 0: greedy
  float lowest_exponent = 0.0f;      // of what min_p keeps
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::int32_t top_k = 0;     // below the vocabulary's size; 0: off
  std::int32_t num_top = -1;  // highest logits wanted; -1: nothing for logprobs
  std::int32_t if_empty = 0;  // the token of a row that is all at -inf
  // In this order from `first_change` on; without any, and without a table, the row is
  // read as it is.
  std::int32_t first_change = 0;
  std::int32_t num_biases = 0;  // a token may have several
  std::int32_t num_bans = 0;    // of distinct tokens
  std::int32_t num_counts = 0;  // of distinct tokens
  std::int32_t table = -1;      // of counts, for penalties; -1: none
  bool clear_table = false;     // before the counts are entered
  // One more token to count, of those chosen before; -1: none.
  std::int32_t pending = -1;
};

// Of a row as it came: what a logit's log-probability takes.
struct RowSum {
  float max = 0.0f;
  std::uint64_t sum = 0;  // of exp(logit - max)
};

struct TopLogit {
  std::int32_t token = 0;
  float logit = 0.0f;
};

struct SampleResult {
  std::int32_t token = 0;
  float logit = 0.0f;  // the token's, as it came; this and the rest where num_top >= 0
  RowSum row;
  TopLogit top[kMaxTopLogits];  // highest first, ties by ascending id
};

struct ScoreTask {
  std::int64_t row = 0;
  std::int32_t target = 0;
};

struct ScoreResult {
  std::int32_t greedy = 0;
  float logit = 0.0f;  // the target's
  RowSum row;
};

// Arrays are on the device; logits are float32 and stay as they are. `scratch` has room
// for `count` rows of logits.cols; it need not be there where no task changes its row.
// Tables begin `table_stride` apart, at least logits.cols. One that is changed is used by
// no other task.
struct SampleArgs {
  Matrix logits;
  const SampleTask* tasks = nullptr;
  const LogitChange* changes = nullptr;
  float* scratch = nullptr;
  float* tables = nullptr;
  std::int64_t table_stride = 0;
  SampleResult* results = nullptr;
  std::int32_t* tokens = nullptr;         // those of the results, side by side
  const std::int32_t* pending = nullptr;  // tokens chosen before: SampleTask::pending
};
void Sample(Stream& stream, const SampleArgs& args, std::int64_t count);
// Once for a device, before the first Sample or Score.
void PrepareSample(Stream& stream);

void Score(Stream& stream, const Matrix& logits, const ScoreTask* tasks,
           std::int64_t count, ScoreResult* results);

}  // namespace goldfinch::GOLDFINCH_CUDA
