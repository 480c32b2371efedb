#include <array>
#include <utility>

#include "server/metric_families.h"
#include "server/metrics.h"

namespace goldfinch {
namespace {

using prometheus::MetricFamily;

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

void Metrics::CollectPrefixes(std::vector<MetricFamily>& families) const {
  const auto lookups = [this](PrefixLookup outcome) {
    return prefix_lookups_[static_cast<std::size_t>(outcome)].load(kRelaxed);
  };
  AddOne(families,
         Counters("goldfinch_prefix_cache_hits_total",
                  "Prompts that went on from a prefix in the cache"),
         static_cast<double>(lookups(PrefixLookup::kHit)));
  MetricFamily misses = Counters("goldfinch_prefix_cache_misses_total",
                                 "Prompts that found nothing in the cache, by why");
  AddCounter(misses, {{"reason", "cold"}}, lookups(PrefixLookup::kCold));
  AddCounter(misses, {{"reason", "not_kept_there"}},
             lookups(PrefixLookup::kNotKeptThere));
  AddCounter(misses, {{"reason", "evicted"}}, lookups(PrefixLookup::kEvicted));
  families.push_back(std::move(misses));
  MetricFamily evictions = Counters("goldfinch_prefix_cache_evictions_total",
                                    "Prefixes that left the cache, by why");
  AddCounter(evictions, {{"reason", "full"}}, prefix_cache_evictions_.load(kRelaxed));
  AddCounter(evictions, {{"reason", "pages"}}, prefix_cache_forgotten_.load(kRelaxed));
  families.push_back(std::move(evictions));
  AddOne(families, Gauges("goldfinch_prefix_cache_entries", "Prefixes in the cache"),
         static_cast<double>(prefix_cache_entries_.load(kRelaxed)));
  AddOne(families,
         Gauges("goldfinch_prefix_cache_bytes", "Host memory of the prefix cache"),
         static_cast<double>(prefix_cache_bytes_.load(kRelaxed)));
  AddOne(families,
         Gauges("goldfinch_prefix_cache_limit_bytes",
                "Host memory that the prefix cache may take"),
         static_cast<double>(info_.prefix_cache_bytes));
  AddOne(families,
         Gauges("goldfinch_prefixes_on_device",
                "Kept prefixes with pages: sessions and entries of the cache"),
         static_cast<double>(prefixes_on_device_.load(kRelaxed)));
}

void Metrics::CollectSessions(std::vector<MetricFamily>& families) const {
  const MutexLock lock(watched_mu_);
  if (sessions_ == nullptr) return;
  const SessionStats& stats = *sessions_;
  MetricFamily places =
      Gauges("goldfinch_sessions", "Sessions that this server holds, by place");
  AddGauge(places, {{"place", "alive"}}, stats.alive.load(kRelaxed));
  AddGauge(places, {{"place", "resting"}}, stats.resting.load(kRelaxed));
  families.push_back(std::move(places));
  AddOne(families, Gauges("goldfinch_sessions_busy", "Sessions in use by a call"),
         static_cast<double>(stats.busy.load(kRelaxed)));
  AddOne(families, Gauges("goldfinch_session_host_bytes", "Host memory of sessions"),
         static_cast<double>(stats.host_bytes.load(kRelaxed)));
  AddOne(families,
         Gauges("goldfinch_sessions_stored",
                "Snapshots in the session store, whoever put them there"),
         static_cast<double>(stats.stored.load(kRelaxed)));
  if (const int good = stats.lease_good.load(kRelaxed); good >= 0) {
    AddOne(families,
           Gauges("goldfinch_session_lease_good",
                  "Whether this server may use the sessions of the store: 1 or 0"),
           good);
  }
  const std::pair<const char*, const std::atomic<std::uint64_t>*> events[] = {
      {"created", &stats.created},
      {"forked", &stats.forked},
      {"parked", &stats.parked},
      {"loaded", &stats.loaded},
      {"deleted", &stats.deleted},
      {"expired", &stats.expired},
      {"expired_stored", &stats.expired_stored},
      {"stale", &stats.stale},
      {"park_failed", &stats.park_failures},
      {"over_quota", &stats.over_quota},
      {"load_failed", &stats.load_failures},
      {"lease_lapsed", &stats.lease_lapses}};
  MetricFamily total =
      Counters("goldfinch_session_events_total", "What happened to sessions");
  for (const auto& [event, count] : events) {
    AddCounter(total, {{"event", event}}, count->load(kRelaxed));
  }
  families.push_back(std::move(total));
  const auto histogram = [&families](const char* name, const char* help,
                                     const MoveStats& moves) {
    families.push_back(Histograms(name, help));
    AddHistogram(families.back(), {{"result", "ok"}}, moves.done);
    AddHistogram(families.back(), {{"result", "failed"}}, moves.failed);
  };
  histogram("goldfinch_session_load_seconds",
            "Bringing a session back from the store: claimed, read and checked",
            stats.loads);
  histogram("goldfinch_session_park_seconds",
            "Parking a session: copied from the device and written", stats.parks);
  AddOne(families,
         Counters("goldfinch_session_loaded_bytes_total",
                  "Bytes of snapshots that were read to bring sessions back"),
         static_cast<double>(stats.loads.bytes.load(kRelaxed)));
  AddOne(families,
         Counters("goldfinch_session_parked_bytes_total",
                  "Bytes of snapshots that parks have written"),
         static_cast<double>(stats.parks.bytes.load(kRelaxed)));
}

}  // namespace goldfinch
