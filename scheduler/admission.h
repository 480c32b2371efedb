// Which waiting request gets memory next, and who has to make room for it: policy as
// numbers.
//
// Tenants take turns by what they have been served (fair_share.h): the least served one
// goes next. Within a tenant the highest priority goes first, equals first come first
// served. Admission stops at the first request that does not fit; nobody overtakes it.
// The price is memory left idle while a large one waits; what it buys is that no request
// starves: what runs ends, and its memory cannot be taken by somebody younger.
//
// A running request is put aside (preempted) when it is in the way of a waiting one whose
// tenant was served no more than its own, in two cases. Its tenant holds more, this
// request included, than the waiting one's would with it: so a tenant that floods an idle
// server gives up its excess at once. Or their services have drifted apart by a slack,
// which is what bounds unfairness. Neither can be undone by the other tenant before
// services have moved by that slack, so two tenants never swap places step by step.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace goldfinch {

// One tenant at the moment of admission.
struct TenantDemand {
  double service = 0;  // weighted tokens served, by weight; see fair_share.h
  // A request waits that the tenant's own limit of running ones lets go.
  bool waits = false;
  std::uint64_t arrival = 0;  // of that request; no two are equal
  // Share of the scarcer of slots and pages that its running requests take, by weight.
  double held = 0;
};

// The tenant whose request goes next: the least served; of equals the one that holds
// least, then who came first. None when nobody waits.
std::optional<std::size_t> NextTenant(std::span<const TenantDemand> tenants);

// Whether, and why, a running request of `holder` is put aside for one of `newcomer`,
// which would then hold `newcomer_held`.
enum class Yield {
  kNo,      // it stays
  kExcess,  // its tenant holds more, with it, than the newcomer then would
  kDrift,   // its tenant's service is `slack` or more ahead
};
Yield HasToYield(const TenantDemand& holder, const TenantDemand& newcomer,
                 double newcomer_held, double slack);

}  // namespace goldfinch
