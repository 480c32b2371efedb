#include "server/session_message.h"

#include <chrono>

namespace goldfinch {
namespace {

v1::SessionPlace PlaceOf(SessionPlace place) {
  switch (place) {
    case SessionPlace::kAlive:
      return v1::SESSION_PLACE_ALIVE;
    case SessionPlace::kResting:
      return v1::SESSION_PLACE_RESTING;
    case SessionPlace::kParked:
      return v1::SESSION_PLACE_PARKED;
  }
  return v1::SESSION_PLACE_UNSPECIFIED;
}

}  // namespace

void FillSession(const SessionInfo& info, v1::Session& out) {
  out.set_id(info.id);
  out.set_place(PlaceOf(info.place));
  out.set_num_tokens(info.num_tokens);
  out.set_busy(info.busy);
  out.set_generated_tokens(info.num_generated);
  out.set_interrupted(info.interrupted);
  out.set_numerics_changed(info.numerics_changed);
  out.set_bytes(info.bytes);
  if (info.place == SessionPlace::kParked) return;
  constexpr std::int64_t kNanosPerSecond = 1'000'000'000;
  out.mutable_idle_time()->set_seconds(info.idle.count() / kNanosPerSecond);
  out.mutable_idle_time()->set_nanos(
      static_cast<std::int32_t>(info.idle.count() % kNanosPerSecond));
}

absl::Status TellOfNewSession(const ServingContext& serving,
                              const grpc::ServerContextBase& context,
                              const TenantPtr& tenant,
                              const absl::StatusOr<SessionInfo>& info, v1::Session& out) {
  if (!info.ok()) return info.status();
  FillSession(*info, out);
  if (!context.IsCancelled()) return absl::OkStatus();
  serving.sessions.Delete(tenant->name, info->id, [](const absl::Status&) {});
  return absl::CancelledError("the client is gone");
}

}  // namespace goldfinch
