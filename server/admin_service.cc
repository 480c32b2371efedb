#include "server/admin_service.h"

#include <google/protobuf/util/time_util.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace goldfinch {
namespace {

v1::RequestKind KindOf(RequestKind kind) {
  switch (kind) {
    case RequestKind::kGenerate:
      return v1::REQUEST_KIND_GENERATE;
    case RequestKind::kScore:
      return v1::REQUEST_KIND_SCORE;
    case RequestKind::kPrefill:
      return v1::REQUEST_KIND_PREFILL;
  }
  return v1::REQUEST_KIND_UNSPECIFIED;
}

v1::RequestState StateOf(RequestState state) {
  switch (state) {
    case RequestState::kWaiting:
      return v1::REQUEST_STATE_WAITING;
    case RequestState::kPrompt:
      return v1::REQUEST_STATE_PROMPT;
    case RequestState::kDecoding:
      return v1::REQUEST_STATE_DECODING;
    case RequestState::kPaused:
      return v1::REQUEST_STATE_PAUSED;
    case RequestState::kAside:
      return v1::REQUEST_STATE_ASIDE;
  }
  return v1::REQUEST_STATE_UNSPECIFIED;
}

void Fill(const RequestInfo& info, v1::RequestInfo& out) {
  out.set_id(static_cast<std::uint64_t>(info.id));
  out.set_tenant(info.tenant);
  out.set_kind(KindOf(info.kind));
  out.set_state(StateOf(info.state));
  out.set_priority(info.priority);
  out.set_num_candidates(info.num_candidates);
  out.set_prompt_tokens(info.prompt_tokens);
  out.set_read_prompt_tokens(info.fed_tokens);
  out.set_generated_tokens(info.generated_tokens);
  out.set_max_tokens(info.max_tokens);
  *out.mutable_age() =
      google::protobuf::util::TimeUtil::NanosecondsToDuration(info.age.count());
}

// The names of server/log.h, by the number of the contract.
constexpr const char* kLevels[] = {nullptr, "debug", "info", "warning", "error", "off"};

v1::LogLevel LevelOf(std::string_view name) {
  for (int level = v1::LOG_LEVEL_DEBUG; level <= v1::LOG_LEVEL_OFF; ++level) {
    if (name == kLevels[level]) return static_cast<v1::LogLevel>(level);
  }
  return v1::LOG_LEVEL_UNSPECIFIED;
}

absl::StatusOr<RequestFilter> FilterOf(const v1::ListRequestsRequest& request) {
  const absl::StatusOr<std::size_t> size = ReadPageSize(request.page_size());
  if (!size.ok()) return size.status();
  std::uint64_t after = 0;
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &after)) {
    return BadPageToken();
  }
  return RequestFilter{
      .tenant = request.tenant(), .after = RequestId{after}, .limit = *size};
}

}  // namespace

void AdminService::Finish(grpc::ServerUnaryReactor* reactor,
                          const absl::Status& status) const {
  reactor->Finish(EndStatus(serving_, status));
}

void AdminService::FinishLater(grpc::ServerUnaryReactor* reactor,
                               absl::Status status) const {
  serving_.delivery.Post(
      [this, reactor, status = std::move(status)] { Finish(reactor, status); });
}

template <typename AnswerFunction>
grpc::ServerUnaryReactor* AdminService::ForAdmin(const Ask& ask,
                                                 grpc::CallbackServerContext* context,
                                                 const AnswerFunction& answer) const {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, *context);
  absl::Status status = tenant.status();
  if (status.ok() && !(*tenant)->admin) {
    status = absl::PermissionDeniedError("the key is not one of an admin");
  }
  // Before it is done: it may be that the log tells less from then on.
  const nlohmann::ordered_json line = {
      {"event", "admin"},
      {"method", ask.method},
      {"argument", ask.argument},
      {"allowed", status.ok()},
      {"tenant", tenant.ok() ? (*tenant)->name : std::string()}};
  LogFields(line.dump());
  if (status.ok()) {
    answer(reactor);
  } else {
    Finish(reactor, status);
  }
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const v1::DrainRequest* request,
                                              v1::DrainResponse*) {
  return ForAdmin({"Drain", request->hurry() ? 1u : 0u}, context, [&](auto* reactor) {
    actions_.drain(request->hurry());
    Finish(reactor, absl::OkStatus());
  });
}

grpc::ServerUnaryReactor* AdminService::Reload(grpc::CallbackServerContext* context,
                                               const v1::ReloadRequest*,
                                               v1::ReloadResponse* response) {
  return ForAdmin({"Reload"}, context, [&](auto* reactor) {
    const absl::StatusOr<std::int32_t> num_tenants = actions_.reload();
    if (num_tenants.ok()) response->set_num_tenants(*num_tenants);
    Finish(reactor, num_tenants.status());
  });
}

grpc::ServerUnaryReactor* AdminService::ListRequests(
    grpc::CallbackServerContext* context, const v1::ListRequestsRequest* request,
    v1::ListRequestsResponse* response) {
  return ForAdmin({"ListRequests"}, context, [&](auto* reactor) {
    absl::StatusOr<RequestFilter> filter = FilterOf(*request);
    if (!filter.ok()) return Finish(reactor, filter.status());
    const std::size_t limit = filter->limit;
    // One more than is told, to know whether there is a next page.
    ++filter->limit;
    serving_.scheduler.ListRequests(
        *std::move(filter),
        [this, reactor, response, limit](std::vector<RequestInfo> infos) {
          if (infos.size() > limit) {
            infos.resize(limit);
            response->set_next_page_token(
                absl::StrCat(static_cast<std::uint64_t>(infos.back().id)));
          }
          for (const RequestInfo& info : infos) Fill(info, *response->add_requests());
          FinishLater(reactor, absl::OkStatus());
        });
  });
}

grpc::ServerUnaryReactor* AdminService::CancelRequest(
    grpc::CallbackServerContext* context, const v1::CancelRequestRequest* request,
    v1::CancelRequestResponse*) {
  return ForAdmin({"CancelRequest", request->id()}, context, [&](auto* reactor) {
    const std::uint64_t id = request->id();
    serving_.scheduler.CancelIfThere(
        RequestId{id},
        absl::CancelledError("the request was cancelled by the server's operator"),
        [this, reactor, id](bool found) {
          FinishLater(reactor, found ? absl::OkStatus()
                                     : absl::NotFoundError(absl::StrCat(
                                           "no request ", id, " waits or runs")));
        });
  });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(
    grpc::CallbackServerContext* context, const v1::SetLogLevelRequest* request,
    v1::SetLogLevelResponse* response) {
  const int level = request->level();
  const Ask ask = {"SetLogLevel", static_cast<std::uint64_t>(level)};
  return ForAdmin(ask, context, [&](auto* reactor) {
    if (level < v1::LOG_LEVEL_DEBUG || level > v1::LOG_LEVEL_OFF) {
      return Finish(reactor, absl::InvalidArgumentError(absl::StrCat(
                                 "level is ", level, "; it must be in [",
                                 int{v1::LOG_LEVEL_DEBUG}, ", ",
                                 int{v1::LOG_LEVEL_OFF}, "]")));
    }
    response->set_previous_level(LevelOf(LogLevel()));
    goldfinch::SetLogLevel(kLevels[level]);
    Finish(reactor, absl::OkStatus());
  });
}

}  // namespace goldfinch
