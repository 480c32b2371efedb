#include "server/session_message.h"

#include <google/protobuf/util/time_util.h>

#include <chrono>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

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

constexpr std::int32_t kDefaultHistoryPage = 16384, kMaxHistoryPage = 65536;
// Whatever a client's limit of messages is, it takes so much.
constexpr std::size_t kMaxHistoryBytes = std::size_t{1} << 20;

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
  *out.mutable_idle_time() =
      google::protobuf::util::TimeUtil::NanosecondsToDuration(info.idle.count());
}

absl::Status TellOfNewSession(const ServingContext& serving,
                              const grpc::ServerContextBase& context,
                              const TenantPtr& tenant,
                              const absl::StatusOr<SessionInfo>& info, v1::Session& out) {
  if (!info.ok()) return info.status();
  FillSession(*info, out);
  if (!context.IsCancelled()) return absl::OkStatus();
  serving.sessions.Discard(tenant->name, info->id);
  return absl::CancelledError("the client is gone");
}

absl::StatusOr<HistoryPage> ReadHistoryPage(const v1::GetSessionHistoryRequest& request) {
  const std::int64_t first = request.first_token();
  if (first < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_token is ", first, "; it must be at least 0"));
  }
  const absl::StatusOr<std::size_t> size =
      ReadPageSize(request.page_size(), kDefaultHistoryPage, kMaxHistoryPage);
  if (!size.ok()) return size.status();
  return HistoryPage{.first = static_cast<std::size_t>(first), .size = *size};
}

absl::Status FillHistory(const std::vector<TokenId>& history, const HistoryPage& page,
                         const Vocabulary& vocabulary,
                         v1::GetSessionHistoryResponse& out) {
  if (page.first > history.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "first_token is ", page.first, "; the session has ", history.size(), " tokens"));
  }
  out.set_num_tokens(std::ssize(history));
  std::string& text = *out.mutable_text();
  for (const TokenId token : std::span(history).subspan(page.first)) {
    const std::string_view bytes = vocabulary.bytes(token);
    const auto taken = static_cast<std::size_t>(out.tokens_size());
    if (taken == page.size) break;
    if (taken > 0 && text.size() + bytes.size() > kMaxHistoryBytes) break;
    out.add_tokens(token);
    text.append(bytes);
  }
  return absl::OkStatus();
}

}  // namespace goldfinch
