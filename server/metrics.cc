#include "server/metrics.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"
#include "server/log.h"
#include "server/metric_families.h"
#include "server/metrics_process.h"
#include "server/open_calls.h"

namespace goldfinch {
namespace {

using prometheus::MetricFamily;

constexpr auto kRelaxed = std::memory_order_relaxed;

// Bounds in seconds: from a fast step to a prompt that takes hours, dense where latencies
// of interest lie. Beyond the last one a quantile is unknown: a million tokens of prompt
// take most of an hour on a CPU, and between two tokens of a request that was put aside
// may be a minute.
std::vector<double> RequestSeconds() {
  return {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,  1,    2.5, 5,
          10,    30,   60,    120,  300, 600,  1800, 3600, 7200};
}
std::vector<double> StepSeconds() {
  return {0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05,
          0.075,  0.1,   0.15,  0.25,  0.5,   1,     2.5,  5,     10,   30,   60};
}
// Up to the longest context that a tenant is given unless its file says otherwise.
std::vector<double> Tokens() {
  return {1,      2,      5,       10,      20,      50,      100,   200,
          500,    1000,   2000,    5000,    10000,   20000,   50000, 100000,
          200000, 500000, 1000000, 2000000, 5000000, 16777216};
}
std::vector<double> Sequences() { return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}; }

std::size_t CodeIndex(absl::StatusCode code) {
  const auto index = static_cast<std::size_t>(code);
  constexpr auto kUnknown = static_cast<std::size_t>(absl::StatusCode::kUnknown);
  return index <= static_cast<std::size_t>(absl::StatusCode::kUnauthenticated) ? index
                                                                               : kUnknown;
}

std::string CodeName(std::size_t index) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(index));
}

// "DEADLINE_EXCEEDED" as a label value: "deadline_exceeded".
std::string LowerCodeName(std::size_t index) {
  std::string name = CodeName(index);
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

}  // namespace

Metrics::OfKind::OfKind()
    : queue(RequestSeconds()),
      prefill(RequestSeconds()),
      total(RequestSeconds()),
      prompt_tokens(Tokens()) {}

Metrics::Metrics(MetricsInfo info)
    : info_(std::move(info)),
      first_token_(RequestSeconds()),
      inter_token_(StepSeconds()),
      time_per_token_(StepSeconds()),
      generated_lengths_(Tokens()),
      step_(StepSeconds()),
      step_sequences_(Sequences()) {}

void Metrics::OnLevels(const SchedulerLevels& levels) {
  running_requests_.store(levels.running_requests, kRelaxed);
  running_sequences_.store(levels.running_sequences, kRelaxed);
  waiting_sequences_.store(levels.waiting_sequences, kRelaxed);
  waiting_requests_.store(levels.waiting_requests, kRelaxed);
  waiting_tokens_.store(levels.waiting_tokens, kRelaxed);
  aside_requests_.store(levels.aside_requests, kRelaxed);
  aside_bytes_.store(levels.aside_bytes, kRelaxed);
  put_aside_.store(levels.put_aside, kRelaxed);
  paused_requests_.store(levels.paused_requests, kRelaxed);
  pages_used_.store(levels.engine.pages_used, kRelaxed);
  pages_running_.store(levels.engine.pages_open, kRelaxed);
  slots_used_.store(levels.engine.slots_used, kRelaxed);
  const ExpandedUsage& expanded = levels.engine.expanded;
  expanded_used_.store(expanded.used, kRelaxed);
  expanded_hits_.store(static_cast<std::uint64_t>(expanded.hits), kRelaxed);
  expanded_misses_.store(static_cast<std::uint64_t>(expanded.misses), kRelaxed);
  expanded_evictions_.store(static_cast<std::uint64_t>(expanded.evictions), kRelaxed);
  expanded_rebuilt_.store(static_cast<std::uint64_t>(expanded.rebuilt), kRelaxed);
  prefixes_on_device_.store(levels.prefixes_on_device, kRelaxed);
  prefix_cache_entries_.store(levels.prefix_cache_entries, kRelaxed);
  prefix_cache_bytes_.store(levels.prefix_cache_bytes, kRelaxed);
  prefix_cache_evictions_.store(levels.prefix_cache_evictions, kRelaxed);
  prefix_cache_forgotten_.store(levels.prefix_cache_forgotten, kRelaxed);
}

void Metrics::OnPrefixLookup(PrefixLookup lookup) {
  prefix_lookups_[static_cast<std::size_t>(lookup)].fetch_add(1, kRelaxed);
}

void Metrics::Watch(const SessionStats& sessions, const TenantDirectory& tenants,
                    const OpenCalls& calls, const MemoryGuard* memory) {
  const MutexLock lock(watched_mu_);
  sessions_ = &sessions;
  tenants_ = &tenants;
  calls_ = &calls;
  memory_ = memory;
}

void Metrics::Forget() {
  const MutexLock lock(watched_mu_);
  sessions_ = nullptr;
  tenants_ = nullptr;
  calls_ = nullptr;
  memory_ = nullptr;
}

void Metrics::OnStep(const StepReport& step) {
  step_.ObserveSeconds(step.duration);
  step_sequences_.Observe(static_cast<double>(step.sequences));
  step_prompt_tokens_.fetch_add(static_cast<std::uint64_t>(step.prompt_tokens), kRelaxed);
  step_decode_tokens_.fetch_add(static_cast<std::uint64_t>(step.decode_tokens), kRelaxed);
}

void Metrics::OnFirstToken(std::chrono::nanoseconds since_arrival) {
  first_token_.ObserveSeconds(since_arrival);
}

void Metrics::OnInterToken(std::chrono::nanoseconds since_last_token) {
  inter_token_.ObserveSeconds(since_last_token);
}

void Metrics::OnFinished(const RequestReport& report) {
  std::size_t reason = kGoodEnds.size() + CodeIndex(report.status.code());
  if (report.status.ok()) {
    reason = report.finish_reason == FinishReason::kLength ? kLength : kStop;
    if (report.kind == RequestKind::kScore) reason = kScored;
    if (report.kind == RequestKind::kPrefill) reason = kFilled;
  }
  finished_[reason].fetch_add(1, kRelaxed);
  const RequestUsage& usage = report.usage;
  prompt_tokens_.fetch_add(static_cast<std::uint64_t>(report.read_prompt_tokens),
                           kRelaxed);
  cached_prompt_tokens_.fetch_add(static_cast<std::uint64_t>(usage.cached_prompt_tokens),
                                  kRelaxed);
  generated_tokens_.fetch_add(static_cast<std::uint64_t>(usage.generated_tokens),
                              kRelaxed);
  scored_tokens_.fetch_add(static_cast<std::uint64_t>(usage.scored_tokens), kRelaxed);
  OfKind& of_kind = of_kind_[static_cast<std::size_t>(report.kind)];
  of_kind.total.ObserveSeconds(usage.total_time);
  // Also of what ended in the queue: else the longest times would be missing.
  of_kind.queue.ObserveSeconds(usage.queue_time);
  of_kind.prompt_tokens.Observe(static_cast<double>(usage.prompt_tokens));
  if (usage.generated_tokens > 0) {
    generated_lengths_.Observe(static_cast<double>(usage.generated_tokens));
  }
  if (report.time_per_token) time_per_token_.ObserveSeconds(*report.time_per_token);
  if (report.prefill_time) of_kind.prefill.ObserveSeconds(*report.prefill_time);
}

void Metrics::OnRefused(const absl::Status& status) {
  refused_[CodeIndex(status.code())].fetch_add(1, kRelaxed);
}

void Metrics::OnEngineError(const absl::Status& status) {
  engine_errors_.fetch_add(1, kRelaxed);
  LogError(absl::StrCat("the engine failed: ", status.message()));
  if (when_engine_fails_) when_engine_fails_();
}

std::vector<MetricFamily> Metrics::Collect() const {
  std::vector<MetricFamily> families;
  CollectInfo(families);
  CollectLevels(families);
  CollectCounters(families);
  CollectCalls(families);
  CollectPrefixes(families);
  CollectMemory(families);
  CollectSessions(families);
  CollectTenants(families);
  CollectHistograms(families);
  CollectProcess(families);
  return families;
}

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(Collect());
}

void Metrics::CollectInfo(std::vector<MetricFamily>& families) const {
  MetricFamily build = Gauges("goldfinch_build_info", "Version of the server; always 1");
  AddGauge(build, {{"version", info_.version}}, 1);
  families.push_back(std::move(build));
  MetricFamily model = Gauges("goldfinch_model_info", "The model served; always 1");
  AddGauge(model,
           {{"model", info_.model_name},
            {"fingerprint", info_.model_fingerprint},
            {"compute_dtype", info_.compute_dtype},
            {"numerics_id", info_.numerics_id},
            {"kernels", info_.kernels}},
           1);
  families.push_back(std::move(model));
}

void Metrics::CollectLevels(std::vector<MetricFamily>& families) const {
  MetricFamily waiting = Gauges("goldfinch_requests_waiting",
                                "Requests that are not advancing, by what they wait for");
  AddGauge(waiting, {{"reason", "admission"}}, waiting_requests_.load(kRelaxed));
  AddGauge(waiting, {{"reason", "put_aside"}}, aside_requests_.load(kRelaxed));
  AddGauge(waiting, {{"reason", "slow_reader"}}, paused_requests_.load(kRelaxed));
  families.push_back(std::move(waiting));

  const auto gauge = [&families](const char* name, const char* help, std::int64_t value) {
    families.push_back(Gauges(name, help));
    AddGauge(families.back(), {}, value);
  };
  gauge("goldfinch_requests_running", "Requests admitted and not ended",
        running_requests_.load(kRelaxed));
  gauge("goldfinch_sequences_running", "Candidates of running requests",
        running_sequences_.load(kRelaxed));
  gauge("goldfinch_sequences_waiting",
        "Of the running sequences, those that decode and wait for their turn",
        waiting_sequences_.load(kRelaxed));
  gauge("goldfinch_aside_bytes",
        "Host memory that requests put aside for others may come to take",
        aside_bytes_.load(kRelaxed));
  gauge("goldfinch_waiting_prompt_tokens", "Prompt tokens of requests not yet admitted",
        waiting_tokens_.load(kRelaxed));
  gauge("goldfinch_cache_pages_used", "Pages of the cache in use, kept prefixes included",
        pages_used_.load(kRelaxed));
  gauge("goldfinch_cache_pages_running",
        "Pages of running requests; the other used ones count as free for admission",
        pages_running_.load(kRelaxed));
  gauge("goldfinch_cache_pages", "Pages of the cache, all together", info_.num_pages);
  gauge("goldfinch_state_slots_used", "Slots of recurrent state in use",
        slots_used_.load(kRelaxed));
  gauge("goldfinch_state_slots", "Slots of recurrent state, all together",
        info_.num_slots);
}

void Metrics::CollectCounters(std::vector<MetricFamily>& families) const {
  MetricFamily finished = Counters("goldfinch_requests_finished_total",
                                   "Accepted requests, by how they ended");
  for (std::size_t i = 0; i < kGoodEnds.size(); ++i) {
    AddCounter(finished, {{"reason", kGoodEnds[i]}}, finished_[i].load(kRelaxed));
  }
  MetricFamily refused = Counters("goldfinch_requests_refused_total",
                                  "Calls that were not accepted, by status code");
  for (std::size_t code = 1; code < kNumCodes; ++code) {
    AddCounter(finished, {{"reason", LowerCodeName(code)}},
               finished_[kGoodEnds.size() + code].load(kRelaxed));
    AddCounter(refused, {{"code", CodeName(code)}}, refused_[code].load(kRelaxed));
  }
  families.push_back(std::move(finished));
  families.push_back(std::move(refused));

  MetricFamily step_tokens = Counters("goldfinch_step_tokens_total",
                                      "Tokens that went through the model, by kind");
  AddCounter(step_tokens, {{"kind", "prompt"}}, step_prompt_tokens_.load(kRelaxed));
  AddCounter(step_tokens, {{"kind", "decode"}}, step_decode_tokens_.load(kRelaxed));
  families.push_back(std::move(step_tokens));

  const auto counter = [&families](const char* name, const char* help,
                                   const Counter& value) {
    families.push_back(Counters(name, help));
    AddCounter(families.back(), {}, value.load(kRelaxed));
  };
  counter("goldfinch_prompt_tokens_total",
          "Prompt tokens of ended requests that were computed or cached", prompt_tokens_);
  counter("goldfinch_cached_prompt_tokens_total",
          "Of the prompt tokens, those of a session or from the prefix cache",
          cached_prompt_tokens_);
  counter("goldfinch_generated_tokens_total", "Tokens generated by ended requests",
          generated_tokens_);
  counter("goldfinch_scored_tokens_total", "Tokens of continuations that were scored",
          scored_tokens_);
  counter("goldfinch_requests_put_aside_total",
          "Times a running request was put aside for another tenant's", put_aside_);
  counter("goldfinch_engine_errors_total", "Engine calls that failed", engine_errors_);
}

void Metrics::CollectCalls(std::vector<MetricFamily>& families) const {
  MetricFamily total = Counters("goldfinch_calls_total", "Calls that came, by method");
  for (std::size_t i = 0; i < CallCounts::kNames.size(); ++i) {
    AddCounter(total, {{"method", CallCounts::kNames[i]}}, call_counts_.Read(i));
  }
  families.push_back(std::move(total));
  const MutexLock lock(watched_mu_);
  if (calls_ == nullptr) return;
  AddOne(
      families,
      Gauges("goldfinch_calls_open", "Calls under way, but those of the admin service"),
      static_cast<double>(calls_->size()));
}

void Metrics::CollectHistograms(std::vector<MetricFamily>& families) const {
  const auto histogram = [&families](const char* name, const char* help,
                                     const AtomicHistogram& values) {
    families.push_back(Histograms(name, help));
    AddHistogram(families.back(), {}, values);
  };
  const auto by_kind_histogram = [&](const char* name, const char* help,
                                     AtomicHistogram OfKind::*values) {
    families.push_back(Histograms(name, help));
    for (std::size_t i = 0; i < kKinds.size(); ++i) {
      AddHistogram(families.back(), {{"kind", kKinds[i]}}, of_kind_[i].*values);
    }
  };
  histogram("goldfinch_time_to_first_token_seconds", "From arrival to the first token",
            first_token_);
  histogram("goldfinch_inter_token_latency_seconds", "Between two tokens of a candidate",
            inter_token_);
  by_kind_histogram("goldfinch_request_queue_seconds",
                    "From arrival to admission, or to the end of what never was admitted",
                    &OfKind::queue);
  by_kind_histogram("goldfinch_request_prefill_seconds",
                    "From admission to the first token, the scores, or a prompt's end",
                    &OfKind::prefill);
  by_kind_histogram("goldfinch_request_duration_seconds", "From arrival to the end",
                    &OfKind::total);
  histogram("goldfinch_request_time_per_output_token_seconds",
            "Mean between two tokens of a candidate, over one request", time_per_token_);
  by_kind_histogram("goldfinch_request_prompt_tokens",
                    "Length of a request's prompt, a session's history included",
                    &OfKind::prompt_tokens);
  histogram("goldfinch_request_generated_tokens",
            "Tokens that one request generated, of all its candidates",
            generated_lengths_);
  histogram("goldfinch_step_duration_seconds", "One forward pass over the batch", step_);
  histogram("goldfinch_step_sequences", "Sequences in one forward pass", step_sequences_);
}

}  // namespace goldfinch
