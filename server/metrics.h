// What the server counts, and the HTTP endpoint where Prometheus reads it.
//
// Every number is an atomic with a fixed place, so the step thread's calls are a few
// relaxed additions and a scrape only loads: neither ever waits for the other.
//
// Invariant: label values come from lists in metrics.cc, from the model's description and
// from the tenants file, never from requests.
//
// Threads: any.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/sync/atomic_histogram.h"
#include "engine/sync/mutex.h"
#include "scheduler/observer.h"
#include "server/call_counts.h"
#include "sessions/session_stats.h"

namespace prometheus {
class Exposer;
struct MetricFamily;
}  // namespace prometheus

namespace goldfinch {

class MemoryGuard;
class OpenCalls;
class TenantDirectory;

// Constant while the server runs.
struct MetricsInfo {
  std::string version;
  std::string model_name;
  std::string model_fingerprint;
  std::string compute_dtype;
  std::string numerics_id;
  std::string kernels;
  std::int64_t num_pages = 0;
  std::int64_t num_slots = 0;
  std::int64_t expanded_pages = 0;
  std::int64_t prefix_cache_bytes = 0;  // at most
  DeviceBytes device_bytes = {};
};

class Metrics final : public SchedulerObserver {
 public:
  explicit Metrics(MetricsInfo info);

  void OnLevels(const SchedulerLevels& levels) override;
  void OnStep(const StepReport& step) override;
  void OnPrefixLookup(PrefixLookup lookup) override;
  void OnFirstToken(std::chrono::nanoseconds since_arrival) override;
  void OnInterToken(std::chrono::nanoseconds since_last_token) override;
  void OnFinished(const RequestReport& report) override;
  void OnRefused(const absl::Status& status) override;
  // Logs it too: the one line of it that an operator will look for.
  void OnEngineError(const absl::Status& status) override;

  // Calls `told` after every error of the engine, on the step thread. Before the first.
  void WhenEngineFails(std::function<void()> told) {
    when_engine_fails_ = std::move(told);
  }

  // Where calls are counted as they come.
  CallCounts& call_counts() { return call_counts_; }

  // What the session manager counts, whose tenants have series of their own (all others
  // share one), which calls are open, and what watches memory (null: nothing), from now
  // on until Forget.
  void Watch(const SessionStats& sessions, const TenantDirectory& tenants,
             const OpenCalls& calls, const MemoryGuard* memory);
  void Forget();

  // Everything, as it is now; Text in Prometheus's format.
  std::vector<prometheus::MetricFamily> Collect() const;
  std::string Text() const;

 private:
  // Ways to end well, by their label; the others are status codes.
  enum : std::size_t { kStop, kLength, kScored, kFilled };
  static constexpr std::array<const char*, 4> kGoodEnds = {"stop", "length", "scored",
                                                           "filled"};
  static constexpr std::size_t kNumCodes = 17;  // of absl::StatusCode
  // By RequestKind, as labels.
  static constexpr std::array<const char*, 3> kKinds = {"generate", "score", "prefill"};
  using Gauge = std::atomic<std::int64_t>;
  using Counter = std::atomic<std::uint64_t>;

  void CollectInfo(std::vector<prometheus::MetricFamily>& families) const;
  void CollectLevels(std::vector<prometheus::MetricFamily>& families) const;
  void CollectCounters(std::vector<prometheus::MetricFamily>& families) const;
  void CollectCalls(std::vector<prometheus::MetricFamily>& families) const;
  void CollectPrefixes(std::vector<prometheus::MetricFamily>& families) const;
  void CollectMemory(std::vector<prometheus::MetricFamily>& families) const;
  void CollectSessions(std::vector<prometheus::MetricFamily>& families) const;
  void CollectTenants(std::vector<prometheus::MetricFamily>& families) const;
  void CollectSessionsOfTenants(std::vector<prometheus::MetricFamily>& families) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(watched_mu_);
  void CollectHistograms(std::vector<prometheus::MetricFamily>& families) const;

  const MetricsInfo info_;
  std::function<void()> when_engine_fails_;

  CallCounts call_counts_;
  Gauge running_requests_{0};
  Gauge running_sequences_{0};
  Gauge waiting_sequences_{0};
  Gauge waiting_requests_{0};
  Gauge waiting_tokens_{0};
  Gauge aside_requests_{0};
  Gauge aside_bytes_{0};
  Counter put_aside_{0};
  Gauge paused_requests_{0};
  Gauge pages_used_{0};
  Gauge pages_running_{0};
  Gauge slots_used_{0};
  Gauge expanded_used_{0};
  Counter expanded_hits_{0};
  Counter expanded_misses_{0};
  Counter expanded_evictions_{0};
  Counter expanded_rebuilt_{0};
  Gauge prefixes_on_device_{0};
  Gauge prefix_cache_entries_{0};
  Gauge prefix_cache_bytes_{0};
  Counter prefix_cache_evictions_{0};
  Counter prefix_cache_forgotten_{0};
  std::array<Counter, 5> prefix_lookups_{};  // by PrefixLookup

  std::array<Counter, kGoodEnds.size() + kNumCodes> finished_{};  // by end, then code
  std::array<Counter, kNumCodes> refused_{};                      // by code
  Counter engine_errors_{0};
  Counter prompt_tokens_{0};
  Counter cached_prompt_tokens_{0};
  Counter generated_tokens_{0};
  Counter scored_tokens_{0};
  Counter step_prompt_tokens_{0};
  Counter step_decode_tokens_{0};

  // Scrapes and the server's end only: the step thread never meets it.
  mutable Mutex watched_mu_;
  const SessionStats* sessions_ ABSL_GUARDED_BY(watched_mu_) = nullptr;
  const TenantDirectory* tenants_ ABSL_GUARDED_BY(watched_mu_) = nullptr;
  const OpenCalls* calls_ ABSL_GUARDED_BY(watched_mu_) = nullptr;
  const MemoryGuard* memory_ ABSL_GUARDED_BY(watched_mu_) = nullptr;

  AtomicHistogram first_token_;
  AtomicHistogram inter_token_;
  AtomicHistogram time_per_token_;
  AtomicHistogram generated_lengths_;
  struct OfKind {
    OfKind();
    AtomicHistogram queue;
    AtomicHistogram prefill;
    AtomicHistogram total;
    AtomicHistogram prompt_tokens;
  };
  std::array<OfKind, kKinds.size()> of_kind_;  // by RequestKind
  AtomicHistogram step_;
  AtomicHistogram step_sequences_;
};

// Serves Metrics::Collect at http://ADDRESS/metrics.
class MetricsEndpoint {
 public:
  // `address` is HOST:PORT; port 0 takes a free one. UNAVAILABLE when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(
      const std::string& address, std::shared_ptr<const Metrics> metrics);
  ~MetricsEndpoint();

  int port() const;

 private:
  class Source;
  MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer,
                  std::shared_ptr<Source> source);

  std::shared_ptr<Source> source_;  // the exposer keeps a weak pointer to it
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace goldfinch
