// The part of the metrics that is about tenants.
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"
#include "server/metric_families.h"
#include "server/metrics.h"
#include "server/tenants/tenant_directory.h"

namespace goldfinch {
namespace {

using prometheus::MetricFamily;

std::uint64_t Count(std::int64_t value) { return static_cast<std::uint64_t>(value); }

}  // namespace

void Metrics::CollectTenants(std::vector<MetricFamily>& families) const {
  const MutexLock lock(watched_mu_);
  if (tenants_ == nullptr) return;
  MetricFamily running = Gauges("goldfinch_tenant_requests_running", "Running requests");
  MetricFamily waiting = Gauges("goldfinch_tenant_requests_waiting",
                                "Requests that wait, those put aside included");
  MetricFamily tokens = Counters("goldfinch_tenant_tokens_total",
                                 "Tokens that went through the model, by kind");
  MetricFamily service = Counters(
      "goldfinch_tenant_service_total",
      "What fairness counts: prompt tokens and twice the generated ones, unweighted");
  MetricFamily aside = Counters("goldfinch_tenant_put_aside_total",
                                "Times a running request was put aside for others");
  MetricFamily refused = Counters("goldfinch_tenant_refused_total",
                                  "Calls to generate, score, or make or fill a session "
                                  "that were not accepted");
  const auto add = [&](const std::string& name, const TenantReading& reading) {
    AddGauge(running, {{"tenant", name}}, reading.running);
    AddGauge(waiting, {{"tenant", name}}, reading.waiting);
    AddCounter(tokens, {{"tenant", name}, {"kind", "prompt"}}, Count(reading.prompt));
    AddCounter(tokens, {{"tenant", name}, {"kind", "generated"}},
               Count(reading.generated));
    AddCounter(service, {{"tenant", name}}, Count(reading.service));
    AddCounter(aside, {{"tenant", name}}, Count(reading.put_aside));
    AddCounter(refused, {{"tenant", name}}, Count(reading.refused));
  };
  for (const TenantDirectory::TenantPtr& tenant : tenants_->tenants()) {
    add(tenant->name, Read(*tenant->meter));
  }
  add(kOtherTenants, tenants_->ReadFormer());
  if (sessions_ != nullptr) CollectSessionsOfTenants(families);
  for (MetricFamily* family : {&running, &waiting, &tokens, &service, &aside, &refused}) {
    families.push_back(std::move(*family));
  }
}

void Metrics::CollectSessionsOfTenants(std::vector<MetricFamily>& families) const {
  const auto collect = [&](MetricFamily family, const TenantLevels& levels) {
    std::map<std::string, std::int64_t> left = levels.Get();
    for (const TenantDirectory::TenantPtr& tenant : tenants_->tenants()) {
      const auto level = left.extract(tenant->name);
      AddGauge(family, {{"tenant", tenant->name}}, level.empty() ? 0 : level.mapped());
    }
    std::int64_t others = 0;
    for (const auto& [name, level] : left) others += level;
    AddGauge(family, {{"tenant", kOtherTenants}}, others);
    families.push_back(std::move(family));
  };
  collect(Gauges("goldfinch_tenant_session_host_bytes",
                 "Host memory of sessions that this server holds"),
          sessions_->tenant_host_bytes);
  collect(Gauges("goldfinch_tenant_stored_bytes",
                 "Snapshots in the session store, whoever put them there"),
          sessions_->tenant_stored_bytes);
}

}  // namespace goldfinch
