#include "scheduler/fair_share.h"

#include <algorithm>
#include <optional>

namespace goldfinch {

void FairShare::Update(std::span<const Competitor> tenants) {
  std::optional<double> lowest;
  double highest_left = floor_;
  for (const auto& [counter, backlogged] : tenants) {
    if (!counter->backlogged) continue;
    if (backlogged) {
      lowest = std::min(lowest.value_or(counter->service), counter->service);
    } else {
      highest_left = std::max(highest_left, counter->service);
    }
  }
  floor_ = std::max(floor_, lowest.value_or(highest_left));
  for (const auto& [counter, backlogged] : tenants) {
    if (backlogged && !counter->backlogged) {
      counter->service = std::max(counter->service, floor_);
    }
    counter->backlogged = backlogged;
  }
}

}  // namespace goldfinch
