#include "server/session_service.h"

#include <utility>

#include "server/prefill_reactor.h"
#include "server/session_message.h"
#include "server/transfer_reactors.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

using Takes = UnaryCall::Takes;

// For a callback that gets a session: fills `response` with it.
template <typename Response>
SessionManager::InfoCallback AnswerWith(UnaryCall* call, Response* response) {
  return [call, response](const absl::StatusOr<SessionInfo>& info) {
    if (info.ok()) FillSession(*info, *response->mutable_session());
    call->End(info.status());
  };
}

}  // namespace

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
  return UnaryCall::Answer(
      serving_, context, response, Takes::kMemory,
      [&](UnaryCall* call, const TenantPtr& tenant) {
        const absl::StatusOr<HistoryPage> page = ReadHistoryPage(*request);
        if (!page.ok()) return call->End(page.status());
        serving_.sessions.Acquire(
            tenant->name, request->session_id(),
            [this, call, response, page = *page](auto use) {
              absl::Status status = use.status();
              if (status.ok()) {
                status = FillHistory((*use)->kept()->history(), page,
                                     serving_.limits.vocabulary, *response);
                (*use)->Release();  // at once: who has the answer may call again
              }
              call->End(status);
            });
      });
}

grpc::ServerUnaryReactor* SessionService::GetSession(grpc::CallbackServerContext* context,
                                                     const v1::GetSessionRequest* request,
                                                     v1::GetSessionResponse* response) {
  serving_.counts.Count(CallCounts::kGetSession);
  return UnaryCall::Answer(serving_, context, response, Takes::kLittle,
                           [&](UnaryCall* call, const TenantPtr& tenant) {
                             serving_.sessions.Get(tenant->name, request->session_id(),
                                                   AnswerWith(call, response));
                           });
}

grpc::ServerUnaryReactor* SessionService::ListSessions(
    grpc::CallbackServerContext* context, const v1::ListSessionsRequest* request,
    v1::ListSessionsResponse* response) {
  serving_.counts.Count(CallCounts::kListSessions);
  return UnaryCall::Answer(serving_, context, response, Takes::kLittle,
                           [&](UnaryCall* call, const TenantPtr& tenant) {
                             List(*tenant, *request, response, call);
                           });
}

void SessionService::List(const Tenant& tenant, const v1::ListSessionsRequest& request,
                          v1::ListSessionsResponse* response, UnaryCall* call) const {
  const absl::StatusOr<std::size_t> size = ReadPageSize(request.page_size());
  if (!size.ok()) return call->End(size.status());
  const std::size_t limit = *size;
  if (!request.page_token().empty() && !IsSessionId(request.page_token())) {
    return call->End(BadPageToken());
  }
  // One more than is told, to know whether there is a next page.
  serving_.sessions.List(tenant.name, request.page_token(), limit + 1,
                         [call, response, limit](auto infos) {
                           if (infos.ok()) {
                             if (infos->size() > limit) {
                               infos->resize(limit);
                               response->set_next_page_token(infos->back().id);
                             }
                             for (const SessionInfo& info : *infos) {
                               FillSession(info, *response->add_sessions());
                             }
                           }
                           call->End(infos.status());
                         });
}

grpc::ServerUnaryReactor* SessionService::ForkSession(
    grpc::CallbackServerContext* context, const v1::ForkSessionRequest* request,
    v1::ForkSessionResponse* response) {
  serving_.counts.Count(CallCounts::kForkSession);
  return UnaryCall::Answer(
      serving_, context, response, Takes::kMemory,
      [&](UnaryCall* call, const TenantPtr& tenant) {
        serving_.sessions.Fork(
            tenant->name, request->session_id(),
            [this, context, tenant, call, response](absl::StatusOr<SessionInfo> info) {
              const absl::Status told = TellOfNewSession(serving_, *context, tenant, info,
                                                         *response->mutable_session());
              call->End(told);
            });
      },
      UnaryCall::Refusals::kOfTenant);
}

grpc::ServerUnaryReactor* SessionService::ParkSession(
    grpc::CallbackServerContext* context, const v1::ParkSessionRequest* request,
    v1::ParkSessionResponse* response) {
  serving_.counts.Count(CallCounts::kParkSession);
  return UnaryCall::Answer(serving_, context, response, Takes::kLittle,
                           [&](UnaryCall* call, const TenantPtr& tenant) {
                             serving_.sessions.Park(tenant->name, request->session_id(),
                                                    AnswerWith(call, response));
                           });
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(
    grpc::CallbackServerContext* context, const v1::DeleteSessionRequest* request,
    v1::DeleteSessionResponse* response) {
  serving_.counts.Count(CallCounts::kDeleteSession);
  return UnaryCall::Answer(serving_, context, response, Takes::kLittle,
                           [&](UnaryCall* call, const TenantPtr& tenant) {
                             serving_.sessions.Delete(tenant->name, request->session_id(),
                                                      [call](const absl::Status& status) {
                                                        call->End(status);
                                                      });
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
