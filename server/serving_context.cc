#include "server/serving_context.h"

#include <chrono>
#include <iterator>
#include <string_view>

#include "server/status.h"

namespace goldfinch {
namespace {

// A client that gives up at its deadline is often heard of before that has passed here.
// gRPC tells the time that is left in three digits, rounded up, and what it sends then
// overtakes our timer by a network's whim.
constexpr auto kRounding = 100;  // a hundredth
constexpr auto kWhim = std::chrono::milliseconds(100);

}  // namespace

std::optional<TimePoint> DeadlineOf(const grpc::ServerContextBase& context,
                                    const Clock& clock) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  // "None" is a time so far away that the sum below could overflow; so is this.
  constexpr auto kNone = std::chrono::hours(24 * 365);
  if (left > kNone) return std::nullopt;
  return clock.Now() + std::chrono::duration_cast<std::chrono::nanoseconds>(left);
}

std::optional<TimePoint> LateFrom(std::optional<TimePoint> deadline, const Clock& clock) {
  if (!deadline.has_value()) return std::nullopt;
  return *deadline - (*deadline - clock.Now()) / kRounding - kWhim;
}

absl::Status ClientGoneStatus(std::optional<TimePoint> late_from, const Clock& clock) {
  if (late_from.has_value() && *late_from <= clock.Now()) {
    return absl::DeadlineExceededError("the client is gone, at its deadline");
  }
  return absl::CancelledError("the client is gone");
}

absl::StatusOr<TenantPtr> Authenticate(const ServingContext& serving,
                                       const grpc::ServerContextBase& context) {
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  std::string_view authorization;
  // Of two, a proxy may have looked at the other one.
  if (first != last && std::next(first) == last) {
    authorization = {first->second.data(), first->second.size()};
  }
  return serving.tenants.Authenticate(authorization);
}

grpc::Status EndStatus(const ServingContext& serving, const TenantPtr& tenant,
                       const absl::Status& status) {
  if (!status.ok() && !absl::IsCancelled(status)) CountRefusal(serving, tenant, status);
  return ToGrpcStatus(status);
}

absl::Status MayBegin(const ServingContext& serving, bool entered) {
  if (!entered) return ShuttingDown();
  return serving.memory == nullptr ? absl::OkStatus() : serving.memory->Check();
}

void SetTenant(const TenantPtr& tenant, Request& request) {
  request.tenant = tenant->name;
  request.policy = std::shared_ptr<const TenantPolicy>(tenant, &tenant->policy);
  request.meter = tenant->meter;
}

void GoOnFrom(const std::shared_ptr<KeptPrefix>& kept, Request& request) {
  if (kept->history().empty()) {
    request.use_prefix_cache = true;
  } else {
    request.base = kept;
  }
}

void CountRefusal(const ServingContext& serving, const TenantPtr& tenant,
                  const absl::Status& status) {
  serving.observer.OnRefused(status);
  if (tenant != nullptr) ++tenant->meter->refused;
}

}  // namespace goldfinch
