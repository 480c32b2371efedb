#include "server/session_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/create_session_reactor.h"
#include "server/session_message.h"
#include "server/status.h"
#include "server/transfer_reactors.h"

namespace goldfinch {
namespace {

constexpr int kDefaultPageSize = 100;
constexpr int kMaxPageSize = 1000;

}  // namespace

void SessionService::Finish(grpc::ServerUnaryReactor* reactor,
                            const absl::Status& status) const {
  if (!status.ok()) serving_.observer.OnRefused(status);
  reactor->Finish(ToGrpcStatus(status));
}

template <typename Response>
SessionManager::InfoCallback SessionService::AnswerWith(grpc::ServerUnaryReactor* reactor,
                                                        Response* response) const {
  return [this, reactor, response](absl::StatusOr<SessionInfo> info) {
    if (info.ok()) FillSession(*info, *response->mutable_session());
    Finish(reactor, info.status());
  };
}

grpc::ServerUnaryReactor* SessionService::CreateSession(
    grpc::CallbackServerContext* context, const v1::CreateSessionRequest* request,
    v1::CreateSessionResponse* response) {
  return CreateSessionReactor::Start(serving_, context, *request, response);
}

grpc::ServerUnaryReactor* SessionService::GetSession(grpc::CallbackServerContext* context,
                                                     const v1::GetSessionRequest* request,
                                                     v1::GetSessionResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (serving_.calls.closed()) {
    Finish(reactor, DrainingStatus());
  } else {
    serving_.sessions.Get(TenantOf(*context), request->session_id(),
                          AnswerWith(reactor, response));
  }
  return reactor;
}

grpc::ServerUnaryReactor* SessionService::ListSessions(
    grpc::CallbackServerContext* context, const v1::ListSessionsRequest* request,
    v1::ListSessionsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const int wanted = request->page_size() == 0 ? kDefaultPageSize : request->page_size();
  if (serving_.calls.closed()) {
    Finish(reactor, DrainingStatus());
    return reactor;
  }
  if (wanted < 1 || wanted > kMaxPageSize) {
    Finish(reactor, absl::InvalidArgumentError(absl::StrCat("page_size is ", wanted,
                                                            "; it must be in [1, ",
                                                            kMaxPageSize, "], or 0")));
    return reactor;
  }
  const auto limit = static_cast<std::size_t>(wanted);
  // One more than is told, to know whether there is a next page.
  serving_.sessions.List(TenantOf(*context), request->page_token(), limit + 1,
                         [this, reactor, response, limit](auto infos) {
                           if (infos.ok()) {
                             if (infos->size() > limit) {
                               infos->resize(limit);
                               response->set_next_page_token(infos->back().id);
                             }
                             for (const SessionInfo& info : *infos) {
                               FillSession(info, *response->add_sessions());
                             }
                           }
                           Finish(reactor, infos.status());
                         });
  return reactor;
}

grpc::ServerUnaryReactor* SessionService::ForkSession(
    grpc::CallbackServerContext* context, const v1::ForkSessionRequest* request,
    v1::ForkSessionResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (serving_.calls.closed()) {
    Finish(reactor, DrainingStatus());
  } else {
    serving_.sessions.Fork(TenantOf(*context), request->session_id(),
                           AnswerWith(reactor, response));
  }
  return reactor;
}

grpc::ServerUnaryReactor* SessionService::ParkSession(
    grpc::CallbackServerContext* context, const v1::ParkSessionRequest* request,
    v1::ParkSessionResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (serving_.calls.closed()) {
    Finish(reactor, DrainingStatus());
  } else {
    serving_.sessions.Park(TenantOf(*context), request->session_id(),
                           AnswerWith(reactor, response));
  }
  return reactor;
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(
    grpc::CallbackServerContext* context, const v1::DeleteSessionRequest* request,
    v1::DeleteSessionResponse*) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (serving_.calls.closed()) {
    Finish(reactor, DrainingStatus());
  } else {
    serving_.sessions.Delete(
        TenantOf(*context), request->session_id(),
        [this, reactor](const absl::Status& status) { Finish(reactor, status); });
  }
  return reactor;
}

grpc::ServerWriteReactor<v1::ExportSessionResponse>* SessionService::ExportSession(
    grpc::CallbackServerContext* context, const v1::ExportSessionRequest* request) {
  return ExportReactor::Start(serving_, context, *request);
}

grpc::ServerReadReactor<v1::ImportSessionRequest>* SessionService::ImportSession(
    grpc::CallbackServerContext* context, v1::ImportSessionResponse* response) {
  return ImportReactor::Start(serving_, context, response);
}

}  // namespace goldfinch
