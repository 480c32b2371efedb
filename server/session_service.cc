#include "server/session_service.h"

#include <utility>

#include "server/prefill_reactor.h"
#include "server/session_message.h"
#include "server/transfer_reactors.h"
#include "sessions/session_id.h"

namespace goldfinch {

void SessionService::Finish(grpc::ServerUnaryReactor* reactor,
                            const absl::Status& status) const {
  reactor->Finish(EndStatus(serving_, status));
}

template <typename AnswerFunction>
grpc::ServerUnaryReactor* SessionService::ForTenant(grpc::CallbackServerContext* context,
                                                    const AnswerFunction& answer) const {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, *context);
  if (!tenant.ok()) {
    Finish(reactor, tenant.status());
  } else if (serving_.calls.closed()) {
    Finish(reactor, ShuttingDown());
  } else {
    answer(reactor, *tenant);
  }
  return reactor;
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
  serving_.counts.Count(CallCounts::kCreateSession);
  return PrefillReactor::Create(serving_, context, *request, response);
}

grpc::ServerUnaryReactor* SessionService::AppendToSession(
    grpc::CallbackServerContext* context, const v1::AppendToSessionRequest* request,
    v1::AppendToSessionResponse* response) {
  serving_.counts.Count(CallCounts::kAppendToSession);
  return PrefillReactor::Append(serving_, context, *request, response);
}

grpc::ServerUnaryReactor* SessionService::GetSessionHistory(
    grpc::CallbackServerContext* context, const v1::GetSessionHistoryRequest* request,
    v1::GetSessionHistoryResponse* response) {
  serving_.counts.Count(CallCounts::kGetSessionHistory);
  return ForTenant(context, [&](auto* reactor, const TenantPtr& tenant) {
    const absl::StatusOr<HistoryPage> page = ReadHistoryPage(*request);
    if (!page.ok()) return Finish(reactor, page.status());
    serving_.sessions.Acquire(
        tenant->name, request->session_id(),
        [this, reactor, response, page = *page](auto use) {
          absl::Status status = use.status();
          if (status.ok()) {
            status = FillHistory((*use)->kept()->history(), page,
                                 serving_.limits.vocabulary, *response);
            (*use)->Release();  // at once: who has the answer may call again
          }
          Finish(reactor, status);
        });
  });
}

grpc::ServerUnaryReactor* SessionService::GetSession(grpc::CallbackServerContext* context,
                                                     const v1::GetSessionRequest* request,
                                                     v1::GetSessionResponse* response) {
  serving_.counts.Count(CallCounts::kGetSession);
  return ForTenant(context, [&](auto* reactor, const TenantPtr& tenant) {
    serving_.sessions.Get(tenant->name, request->session_id(),
                          AnswerWith(reactor, response));
  });
}

grpc::ServerUnaryReactor* SessionService::ListSessions(
    grpc::CallbackServerContext* context, const v1::ListSessionsRequest* request,
    v1::ListSessionsResponse* response) {
  serving_.counts.Count(CallCounts::kListSessions);
  return ForTenant(context, [&](auto* reactor, const TenantPtr& tenant) {
    List(*tenant, *request, response, reactor);
  });
}

void SessionService::List(const Tenant& tenant, const v1::ListSessionsRequest& request,
                          v1::ListSessionsResponse* response,
                          grpc::ServerUnaryReactor* reactor) const {
  const absl::StatusOr<std::size_t> size = ReadPageSize(request.page_size());
  if (!size.ok()) return Finish(reactor, size.status());
  const std::size_t limit = *size;
  if (!request.page_token().empty() && !IsSessionId(request.page_token())) {
    return Finish(reactor, BadPageToken());
  }
  // One more than is told, to know whether there is a next page.
  serving_.sessions.List(tenant.name, request.page_token(), limit + 1,
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
}

grpc::ServerUnaryReactor* SessionService::ForkSession(
    grpc::CallbackServerContext* context, const v1::ForkSessionRequest* request,
    v1::ForkSessionResponse* response) {
  serving_.counts.Count(CallCounts::kForkSession);
  return ForTenant(context, [&](auto* reactor, const TenantPtr& tenant) {
    serving_.sessions.Fork(
        tenant->name, request->session_id(),
        [this, context, tenant, reactor, response](absl::StatusOr<SessionInfo> info) {
          const absl::Status told = TellOfNewSession(serving_, *context, tenant, info,
                                                     *response->mutable_session());
          reactor->Finish(EndStatus(serving_, tenant, told));
        });
  });
}

grpc::ServerUnaryReactor* SessionService::ParkSession(
    grpc::CallbackServerContext* context, const v1::ParkSessionRequest* request,
    v1::ParkSessionResponse* response) {
  serving_.counts.Count(CallCounts::kParkSession);
  return ForTenant(context, [&](auto* reactor, const TenantPtr& tenant) {
    serving_.sessions.Park(tenant->name, request->session_id(),
                           AnswerWith(reactor, response));
  });
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(
    grpc::CallbackServerContext* context, const v1::DeleteSessionRequest* request,
    v1::DeleteSessionResponse*) {
  serving_.counts.Count(CallCounts::kDeleteSession);
  return ForTenant(context, [&](auto* reactor, const TenantPtr& tenant) {
    serving_.sessions.Delete(
        tenant->name, request->session_id(),
        [this, reactor](const absl::Status& status) { Finish(reactor, status); });
  });
}

grpc::ServerWriteReactor<v1::ExportSessionResponse>* SessionService::ExportSession(
    grpc::CallbackServerContext* context, const v1::ExportSessionRequest* request) {
  serving_.counts.Count(CallCounts::kExportSession);
  return ExportReactor::Start(serving_, context, *request);
}

grpc::ServerReadReactor<v1::ImportSessionRequest>* SessionService::ImportSession(
    grpc::CallbackServerContext* context, v1::ImportSessionResponse* response) {
  serving_.counts.Count(CallCounts::kImportSession);
  return ImportReactor::Start(serving_, context, response);
}

}  // namespace goldfinch
