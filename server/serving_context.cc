#include "server/serving_context.h"

#include <chrono>

namespace goldfinch {

std::optional<TimePoint> DeadlineOf(const grpc::ServerContextBase& context,
                                    const Clock& clock) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  // "None" is a time so far away that the sum below could overflow; so is this.
  constexpr auto kNone = std::chrono::hours(24 * 365);
  if (left > kNone) return std::nullopt;
  return clock.Now() + std::chrono::duration_cast<std::chrono::nanoseconds>(left);
}

std::string TenantOf(const grpc::ServerContextBase&) { return "default"; }

}  // namespace goldfinch
