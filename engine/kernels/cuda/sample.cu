// The steps of engine/sampling/sample_row.h over one row of logits by one block of
// threads; `row` is the row after biases, bans and penalties:
//   w[t]   : exp((row[t] - max) / temperature), float32, in whole units of 2^-WeightBits
//   min_p  : keeps exponents from task.lowest_exponent on, as float32 comparisons
//   top_k  : the highest keys, each measuring 1;  top_p: the same, each measuring w
//   draw   : the first id at which the running sum of the kept w exceeds draw * their sum
// A changed row is written to the block's row of the scratch. Log-probabilities are of
// the row as it came.
//
// Passes over a row, from the second level cache: one for the highest, one for the draw,
// three for each cut and one for what top_p is a share of; tokens that cannot be kept are
// passed over by a comparison.
#include "engine/kernels/cuda/row_search.h"
#include "engine/kernels/cuda/sample.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// Weights of smaller exponents are 0: exp(-87) is about the smallest normal float.
constexpr float kLowestExponent = -87.0f;

// exp(x) for x in [kLowestExponent, 0], within 2 units in the last place: the operations
// of engine/sampling/row_math.cc, one by one.
__device__ __forceinline__ float ExpOfNegative(float x) {
  constexpr float kLog2E = 1.44269504f;
  // log 2 in two parts; the first has so few bits that n times it is exact.
  constexpr float kLog2High = 0.693359375f;
  constexpr float kLog2Low = -2.12194440e-4f;
  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
  constexpr float kRound = 12582912.0f;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLog2High) - n * kLog2Low;
  float series = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  return series * __uint_as_float((__float_as_uint(shifted) + 127u) << 23);
}

// How logits become weights: the highest one weighs `one`. Of equal logits, equal ones.
struct Weights {
  float max = 0.0f;
  float inverse_temperature = 1.0f;
  float lowest = kLowestExponent;  // weights of lower exponents are 0
  float one = 1.0f;                // 2^WeightBits

  // False for what is NaN: the difference of two infinities.
  __device__ bool Counts(float logit) const { return Exponent(logit) >= lowest; }
  __device__ std::uint64_t Of(float logit) const {
    if (!Counts(logit)) return 0;
    return static_cast<std::uint64_t>(ExpOfNegative(Exponent(logit)) * one);
  }

 private:
  __device__ float Exponent(float logit) const {
    return (logit - max) * inverse_temperature;
  }
};

// floor(value * share), the share in units of 2^-64.
__device__ __forceinline__ std::uint64_t ShareOf(std::uint64_t value,
                                                 std::uint64_t share) {
  return __umul64hi(value, share);
}

// Penalties of the tokens that a table has counts of, which is brought up to date first,
// with barriers before the row is looked at.
__device__ __forceinline__ void Penalise(const SampleTask& task,
                                         const LogitChange* change,
                                         const std::int32_t* pending, float* table,
                                         float* row, int count) {
  const int thread = static_cast<int>(threadIdx.x);
  if (task.clear_table)
    for (int i = thread; i < count; i += kRowThreads) table[i] = 0.0f;
  __syncthreads();
  for (int i = thread; i < task.num_counts; i += kRowThreads)
    table[change[i].token] = change[i].value;
  __syncthreads();
  if (task.pending >= 0 && thread == 0) {
    float& entry = table[pending[task.pending]];
    entry = (entry > 0.0f ? entry : 1.0f) + 1.0f;
  }
  __syncthreads();
  for (int i = thread; i < count; i += kRowThreads) {
    if (table[i] == 0.0f) continue;
    float x = row[i];
    const float generated = table[i] - 1.0f;
    x = x > 0.0f ? x / task.repetition_penalty : x * task.repetition_penalty;
    if (generated > 0.0f) {
      x -= task.frequency_penalty * generated;
      x -= task.presence_penalty;
    }
    row[i] = x;
  }
}

// Steps 1 and 2. A bias takes its token's thread through all biases, since a token's are
// added in their order.
__device__ __forceinline__ void Change(const SampleTask& task, const LogitChange* change,
                                       const std::int32_t* pending, float* table,
                                       float* row, int count) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < task.num_biases; i += kRowThreads) {
    const int token = change[i].token;
    bool first = true;
    for (int j = 0; j < i; ++j) first = first && change[j].token != token;
    if (!first) continue;
    float x = row[token];
    for (int j = i; j < task.num_biases; ++j)
      if (change[j].token == token) x += change[j].value;
    row[token] = x;
  }
  change += task.num_biases;
  __syncthreads();
  for (int i = thread; i < task.num_bans; i += kRowThreads)
    row[change[i].token] = MinusInfinity();
  change += task.num_bans;
  if (task.table >= 0) Penalise(task, change, pending, table, row, count);
  __syncthreads();
}

__device__ __forceinline__ Kept CutTopK(RowShared& s, const float* row, int count,
                                        const Highest& highest, const Weights& weights,
                                        int top_k) {
  const unsigned floor = FloorOf(s, highest, top_k);
  return KeepHighest(
      s, row, count, {}, floor, static_cast<std::uint64_t>(top_k),
      [&](float logit) -> std::uint64_t { return weights.Counts(logit) ? 1 : 0; });
}

__device__ __forceinline__ Kept CutTopP(RowShared& s, const float* row, int count,
                                        const Kept& kept, const Weights& weights,
                                        std::uint64_t top_p) {
  const std::uint64_t total =
      SumOver(s, row, count, [&](int token, float logit) -> std::uint64_t {
        return kept.Has(KeyOf(logit), token) ? weights.Of(logit) : 0;
      });
  const std::uint64_t target = ShareOf(total, top_p) + (total * top_p != 0 ? 1 : 0);
  // What is cut and the last that is kept weigh more than total - target: the last one's
  // weight is above this share of it. Exponents clearly lower need not be looked at.
  const std::uint64_t share = (total - target) / static_cast<unsigned>(count);
  Weights high = weights;
  if (share > 0) {
    const float exponent = logf(static_cast<float>(share) / weights.one) - 0.01f;
    if (exponent > high.lowest) high.lowest = exponent;
  }
  return KeepHighest(s, row, count, kept, 0, target,
                     [&](float logit) { return high.Of(logit); });
}

// Steps 3 to 5 of a row whose highest logit is finite.
__device__ __forceinline__ int Choose(RowShared& s, const float* row, int count,
                                      const Highest& highest, const SampleTask& task,
                                      float one) {
  if (task.inverse_temperature == 0.0f) return RankedToken(highest.all);
  const Weights weights = {LogitOf(RankedKey(highest.all)), task.inverse_temperature,
                           task.lowest_exponent, one};
  Kept kept;
  if (task.top_k > 0) kept = CutTopK(s, row, count, highest, weights, task.top_k);
  if (task.top_p > 0) kept = CutTopP(s, row, count, kept, weights, task.top_p);
  return Locate(
      s, row, count,
      [&](int token, float logit) -> std::uint64_t {
        return kept.Has(KeyOf(logit), token) ? weights.Of(logit) : 0;
      },
      [&](std::uint64_t total) { return ShareOf(total, task.draw); });
}

__device__ __forceinline__ RowSum SumRow(RowShared& s, const float* row, int count,
                                         const Highest& highest, float one) {
  const Weights weights = {LogitOf(RankedKey(highest.all)), 1.0f, kLowestExponent, one};
  const std::uint64_t sum =
      SumOver(s, row, count, [&](int, float logit) { return weights.Of(logit); });
  return {weights.max, sum};
}

// The `wanted` highest logits, at most `count` of them: gathered as threads come, then
// each put where the number of higher ones says.
__device__ __forceinline__ void FindTop(RowShared& s, const float* row, int count,
                                        const Highest& highest, int wanted,
                                        TopLogit* top) {
  __shared__ std::uint64_t found[kMaxTopLogits];
  __shared__ unsigned num_found;
  const unsigned floor = FloorOf(s, highest, wanted);
  const Kept kept =
      KeepHighest(s, row, count, {}, floor, static_cast<std::uint64_t>(wanted),
                  [](float) -> std::uint64_t { return 1; });
  if (threadIdx.x == 0) num_found = 0;
  __syncthreads();
  ForLogits(row, {0, count}, [&](int token, float logit) {
    const unsigned key = KeyOf(logit);
    if (kept.Has(key, token)) found[atomicAdd(&num_found, 1u)] = Ranked(key, token);
  });
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= wanted) return;
  int higher = 0;
  for (int i = 0; i < wanted; ++i) higher += found[i] > found[thread] ? 1 : 0;
  top[higher] = {RankedToken(found[thread]), LogitOf(RankedKey(found[thread]))};
}

// Block i takes task i, and row i of the scratch.
__global__ void __launch_bounds__(kRowThreads, 1)
    SampleKernel(SampleArgs args, float one) {
  __shared__ RowShared s;
  AwaitLaunch();
  const SampleTask task = args.tasks[blockIdx.x];
  const int count = static_cast<int>(args.logits.cols);
  const float* const raw = Row<float>(args.logits, task.row);
  const float* row = raw;
  if (task.num_biases + task.num_bans > 0 || task.table >= 0) {
    float* const changed = args.scratch + blockIdx.x * args.logits.cols;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads)
      changed[i] = raw[i];
    __syncthreads();
    Change(task, args.changes + task.first_change, args.pending,
           args.tables + task.table * args.table_stride, changed, count);
    row = changed;
  }
  Highest highest = FindHighest(s, row, count);
  const bool empty = LogitOf(RankedKey(highest.all)) == MinusInfinity();
  const int token = empty ? task.if_empty : Choose(s, row, count, highest, task, one);
  SampleResult& result = args.results[blockIdx.x];
  if (threadIdx.x == 0) {
    result.token = token;
    args.tokens[blockIdx.x] = token;
  }
  if (task.num_top < 0) return;

  if (row != raw) highest = FindHighest(s, raw, count);
  const RowSum sum = SumRow(s, raw, count, highest, one);
  if (threadIdx.x == 0) {
    result.logit = Finite(raw[token]);
    result.row = sum;
  }
  if (task.num_top > 0) FindTop(s, raw, count, highest, task.num_top, result.top);
}

__global__ void __launch_bounds__(kRowThreads, 1)
    ScoreKernel(Matrix logits, const ScoreTask* tasks, ScoreResult* results, float one) {
  __shared__ RowShared s;
  AwaitLaunch();
  const ScoreTask task = tasks[blockIdx.x];
  const int count = static_cast<int>(logits.cols);
  const float* const row = Row<float>(logits, task.row);
  const Highest highest = FindHighest(s, row, count);
  const RowSum sum = SumRow(s, row, count, highest, one);
  if (threadIdx.x == 0)
    results[blockIdx.x] = {RankedToken(highest.all), Finite(row[task.target]), sum};
}

// The weight of the highest logit, as a power of two.
float OneOf(const Matrix& logits) {
  return static_cast<float>(std::uint64_t{1} << WeightBits(logits.cols));
}

}  // namespace

void PrepareSample(Stream& stream) { LoadKernels(stream, SampleKernel, ScoreKernel); }

void Sample(Stream& stream, const SampleArgs& args, std::int64_t count) {
  Launch(stream, "sample", SampleKernel, dim3(static_cast<unsigned>(count)), kRowThreads,
         0, args, OneOf(args.logits));
}

void Score(Stream& stream, const Matrix& logits, const ScoreTask* tasks,
           std::int64_t count, ScoreResult* results) {
  Launch(stream, "score", ScoreKernel, dim3(static_cast<unsigned>(count)), kRowThreads, 0,
         logits, tasks, results, OneOf(logits));
}

}  // namespace goldfinch::GOLDFINCH_CUDA
