#include "scheduler/admission.h"

#include <tuple>

namespace goldfinch {

std::optional<std::size_t> NextTenant(std::span<const TenantDemand> tenants) {
  const auto order = [&](std::size_t i) {
    return std::tuple(tenants[i].service, tenants[i].held, tenants[i].arrival);
  };
  std::optional<std::size_t> next;
  for (std::size_t i = 0; i < tenants.size(); ++i) {
    if (!tenants[i].waits) continue;
    if (!next.has_value() || order(i) < order(*next)) next = i;
  }
  return next;
}

Yield HasToYield(const TenantDemand& holder, const TenantDemand& newcomer,
                 double newcomer_held, double slack) {
  const double ahead = holder.service - newcomer.service;
  if (ahead >= slack) return Yield::kDrift;
  return ahead >= 0 && newcomer_held < holder.held ? Yield::kExcess : Yield::kNo;
}

}  // namespace goldfinch
