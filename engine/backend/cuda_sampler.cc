#include "engine/backend/cuda_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/check.h"
#include "engine/sampling/random.h"
#include "engine/sampling/sample_rules.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// A share below 1 in units of 2^-64, rounded up, so that what is above 0 stays so.
std::uint64_t Share(double share) {
  return static_cast<std::uint64_t>(std::ceil(std::ldexp(share, 64)));
}

// Log-probabilities of one row.
class Logprobs {
 public:
  Logprobs(const RowSum& row, std::int64_t vocab_size)
      : max_(row.max),
        log_sum_exp_(row.sum == 0
                         ? 0.0
                         : LogSumExp(row.max, std::ldexp(static_cast<double>(row.sum),
                                                         -WeightBits(vocab_size)))) {}
  float Of(float logit) const { return LogprobOf(logit, max_, log_sum_exp_); }

 private:
  const float max_;
  const double log_sum_exp_;
};

static_assert(kMaxTopLogits == kMaxTopTokens);

std::int32_t NumTop(std::int32_t num_logprobs, std::int64_t vocab_size) {
  GOLDFINCH_CHECK(num_logprobs <= kMaxTopLogits);
  return static_cast<std::int32_t>(std::min<std::int64_t>(num_logprobs, vocab_size));
}

void Tell(const SampleResult& result, std::int32_t num_logprobs, std::int64_t vocab_size,
          SampledToken& out) {
  out.token = result.token;
  out.logprob = 0.0f;
  out.top.clear();
  if (num_logprobs < 0) return;
  const Logprobs logprobs(result.row, vocab_size);
  out.logprob = logprobs.Of(result.logit);
  const auto num_top = static_cast<std::size_t>(NumTop(num_logprobs, vocab_size));
  out.top.reserve(num_top);
  for (const auto& [token, logit] : std::span(result.top).first(num_top))
    out.top.push_back({token, logprobs.Of(logit)});
}

}  // namespace

CudaSampler::CudaSampler(Stream& stream, HostCopies& copies)
    : stream_(stream), copies_(copies) {}

void CudaSampler::Prepare(std::int64_t vocab_size, std::int64_t logit_rows) {
  const auto tasks = static_cast<std::size_t>(std::max(logit_rows, kMinTasks));
  if (vocab_size <= vocab_size_ && tasks <= max_tasks_) return;
  max_tasks_ = std::max(max_tasks_, tasks);
  vocab_size = std::max(vocab_size, vocab_size_);
  tasks_.reserve(max_tasks_);
  score_tasks_.reserve(max_tasks_);
  score_results_.reserve(max_tasks_);
  device_tasks_.Allocate(stream_, max_tasks_);
  for (Set& set : sets_) {
    set.results.Allocate(stream_, max_tasks_);
    set.tokens.Allocate(stream_, max_tasks_);
    set.on_host.emplace(max_tasks_ * sizeof(SampleResult));
    set.wanted.reserve(max_tasks_);
  }
  device_score_tasks_.Allocate(stream_, max_tasks_);
  device_score_results_.Allocate(stream_, max_tasks_);
  const auto vocab = static_cast<std::size_t>(vocab_size);
  changed_rows_.Allocate(stream_, max_tasks_ * vocab);
  // Of counts, one for each request of a launch: with 256, 64 MiB at the World
  // vocabulary.
  count_tables_.emplace(static_cast<std::int32_t>(max_tasks_));
  tables_.Allocate(stream_, max_tasks_ * vocab);
  // One request may bias, ban and count every token; many count some thousand each.
  ReserveChanges(4 * vocab);
  vocab_size_ = vocab_size;
}

std::int64_t CudaSampler::device_bytes() const {
  std::int64_t bytes = device_tasks_.bytes + device_changes_.bytes +
                       device_score_tasks_.bytes + device_score_results_.bytes +
                       changed_rows_.bytes + tables_.bytes;
  for (const Set& set : sets_) bytes += set.results.bytes + set.tokens.bytes;
  return bytes;
}

void CudaSampler::ReserveChanges(std::size_t count) {
  // There is no more to be had of a device that has failed, nor is it needed.
  if (count <= max_changes_ || !stream_.ok()) return;
  changes_.reserve(count);
  // A launch may still be reading what there was.
  stream_.Check(cudaStreamSynchronize(stream_.handle), "cudaStreamSynchronize");
  device_changes_.Allocate(stream_, count);
  max_changes_ = count;
}

template <typename T>
void CudaSampler::Upload(const std::vector<T>& values, const Array<T>& to) {
  copies_.ToDevice(stream_, to.data(), values.data(),
                   static_cast<std::int64_t>(values.size() * sizeof(T)));
}

void CudaSampler::AppendChange(TokenId token, float value) {
  GOLDFINCH_CHECK(token >= 0 && token < vocab_size_);
  changes_.push_back({token, value});
}

// Each token once: two threads do not write one logit, not even the same.
std::int32_t CudaSampler::AppendBans(const std::vector<TokenId>& tokens) {
  const auto first = static_cast<std::ptrdiff_t>(changes_.size());
  for (const TokenId token : tokens) AppendChange(token, 0.0f);
  std::sort(changes_.begin() + first, changes_.end(),
            [](const auto& a, const auto& b) { return a.token < b.token; });
  changes_.erase(
      std::unique(changes_.begin() + first, changes_.end(),
                  [](const auto& a, const auto& b) { return a.token == b.token; }),
      changes_.end());
  return static_cast<std::int32_t>(static_cast<std::ptrdiff_t>(changes_.size()) - first);
}

// An entry: 0 of a token that was not seen, else 1 more than its count.
void CudaSampler::AppendCounts(const TokenCounts& counts, CountTables::Lacks lacks) {
  const auto entry = [](std::int32_t count) { return static_cast<float>(count + 1); };
  if (lacks == CountTables::Lacks::kLastOutput)
    AppendChange(counts.last_output(), entry(counts.OutputCount(counts.last_output())));
  if (lacks == CountTables::Lacks::kAll)
    counts.ForEach([&](TokenId token, bool, std::int32_t output_count) {
      AppendChange(token, entry(output_count));
    });
}

bool CudaSampler::Append(const Backend::SampleRequest& request, std::int64_t vocab_size) {
  using Lacks = CountTables::Lacks;
  const SamplingParams& params = *request.params;
  const bool bans = BansNow(params, request.num_generated);
  std::optional<CountTables::Use> counts;
  if (params.HasPenalties()) {
    counts = count_tables_->Find(*request.counts, request.pending.has_value());
    if (!counts.has_value()) return false;
  }
  const std::size_t num_biases = params.logit_bias.size();
  const std::size_t most_bans = bans ? params.banned_before_min_tokens.size() : 0;
  std::int64_t num_counts = 0;
  if (counts.has_value() && counts->lacks != Lacks::kNothing)
    num_counts =
        counts->lacks == Lacks::kAll ? request.counts->num_distinct() : std::int64_t{1};
  const std::size_t needed =
      changes_.size() + num_biases + most_bans + static_cast<std::size_t>(num_counts);
  if (needed > max_changes_) {
    if (!tasks_.empty()) return false;
    ReserveChanges(needed);
  }

  const double draw = UniformDraw(params.seed, params.candidate,
                                  static_cast<std::uint64_t>(request.num_generated));
  SampleTask task = {
      .row = request.row,
      .draw = Share(draw),
      .top_p = params.top_p < 1.0f ? Share(static_cast<double>(params.top_p)) : 0,
      .inverse_temperature = params.Greedy() ? 0.0f : 1.0f / params.temperature,
      .lowest_exponent = LowestExponent(params.min_p),
      .repetition_penalty = params.repetition_penalty,
      .frequency_penalty = params.frequency_penalty,
      .presence_penalty = params.presence_penalty,
      .top_k = params.top_k > 0 && params.top_k < vocab_size ? params.top_k : 0,
      .num_top = NumTop(params.num_logprobs, vocab_size),
      .if_empty = LowestAllowed(static_cast<std::size_t>(vocab_size), params,
                                request.num_generated),
      .first_change = static_cast<std::int32_t>(changes_.size()),
      .num_biases = static_cast<std::int32_t>(num_biases),
      .num_counts = static_cast<std::int32_t>(num_counts)};
  for (const auto& [token, bias] : params.logit_bias) AppendChange(token, bias);
  if (bans) task.num_bans = AppendBans(params.banned_before_min_tokens);
  if (counts.has_value()) {
    task.table = counts->table;
    task.clear_table = counts->lacks == Lacks::kAll;
    AppendCounts(*request.counts, counts->lacks);
    if (request.pending.has_value())
      task.pending = static_cast<std::int32_t>(*request.pending);
    count_tables_->Commit(*counts, *request.counts, request.pending.has_value());
  }
  tasks_.push_back(task);
  return true;
}

void CudaSampler::Sample(const Matrix& logits,
                         std::span<const Backend::SampleRequest> requests) {
  Prepare(logits.cols, 0);
  while (!requests.empty()) {
    const std::size_t count = std::min(max_tasks_, requests.size());
    Start(logits, requests.first(count), 0);
    Finish(0);
    requests = requests.subspan(count);
  }
}

void CudaSampler::Start(const Matrix& logits,
                        std::span<const Backend::SampleRequest> requests, int set) {
  static_assert(Backend::kSampleSets == 2);  // there is one other
  Set& s = sets_[set];
  GOLDFINCH_CHECK(logits.cols <= vocab_size_ && requests.size() <= max_tasks_);
  GOLDFINCH_CHECK(s.wanted.empty());
  s.vocab_size = logits.cols;
  for (std::size_t begin = 0; begin < requests.size();) {
    const std::size_t count = Collect(logits, requests.subspan(begin));
    Upload(tasks_, device_tasks_);
    Upload(changes_, device_changes_);
    GOLDFINCH_CUDA::Sample(stream_,
                           {.logits = logits,
                            .tasks = device_tasks_.data(),
                            .changes = device_changes_.data(),
                            .scratch = changed_rows_.data(),
                            .tables = tables_.data(),
                            .table_stride = vocab_size_,
                            .results = s.results.data() + begin,
                            .tokens = s.tokens.data() + begin,
                            .pending = sets_[1 - set].tokens.data()},
                           static_cast<std::int64_t>(count));
    begin += count;
  }
  for (const Backend::SampleRequest& request : requests)
    s.wanted.push_back({request.params->num_logprobs, request.out});
  if (requests.empty() || !stream_.ok()) return;
  stream_.Check(cudaMemcpyAsync(s.on_host->data(), s.results.data(),
                                requests.size() * sizeof(SampleResult),
                                cudaMemcpyDeviceToHost, stream_.handle),
                "cudaMemcpyAsync");
  s.done.Record(stream_);
}

void CudaSampler::Finish(int set) {
  Set& s = sets_[set];
  if (s.wanted.empty()) return;
  s.done.Wait(stream_);
  const std::byte* from = s.on_host->data();
  for (const auto& [num_logprobs, out] : s.wanted) {
    SampleResult result = {};
    if (stream_.ok()) std::memcpy(&result, from, sizeof result);
    Tell(result, num_logprobs, s.vocab_size, *out);
    from += sizeof result;
  }
  s.wanted.clear();
}

std::size_t CudaSampler::Collect(const Matrix& logits,
                                 std::span<const Backend::SampleRequest> requests) {
  GOLDFINCH_CHECK(logits.type == DType::kF32);
  tasks_.clear();
  changes_.clear();
  count_tables_->BeginLaunch();
  for (const Backend::SampleRequest& request :
       requests.first(std::min(max_tasks_, requests.size()))) {
    GOLDFINCH_CHECK(request.row >= 0 && request.row < logits.rows);
    if (request.params->HasPenalties()) {
      GOLDFINCH_CHECK(request.counts != nullptr);
      GOLDFINCH_CHECK(request.counts->vocab_size() <= logits.cols);
    }
    if (!Append(request, logits.cols)) break;
  }
  GOLDFINCH_CHECK(!tasks_.empty());
  return tasks_.size();
}

void CudaSampler::Score(const Matrix& logits,
                        std::span<const Backend::ScoreRequest> requests) {
  Prepare(logits.cols, 0);
  GOLDFINCH_CHECK(logits.type == DType::kF32);
  for (std::size_t begin = 0; begin < requests.size(); begin += max_tasks_) {
    const auto some =
        requests.subspan(begin, std::min(max_tasks_, requests.size() - begin));
    score_tasks_.clear();
    for (const auto& [row, target, out] : some) {
      GOLDFINCH_CHECK(row >= 0 && row < logits.rows);
      GOLDFINCH_CHECK(target >= 0 && target < logits.cols);
      score_tasks_.push_back({row, target});
    }
    Upload(score_tasks_, device_score_tasks_);
    GOLDFINCH_CUDA::Score(stream_, logits, device_score_tasks_.data(),
                          static_cast<std::int64_t>(some.size()),
                          device_score_results_.data());
    score_results_.assign(some.size(), {});
    copies_.ToHost(
        stream_, score_results_.data(), device_score_results_.data(),
        static_cast<std::int64_t>(score_results_.size() * sizeof(ScoreResult)));
    for (std::size_t i = 0; i < some.size(); ++i) {
      const ScoreResult& result = score_results_[i];
      *some[i].out = {Logprobs(result.row, logits.cols).Of(result.logit),
                      result.greedy == some[i].target};
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
