// SessionService of the contract, on gRPC's callback API: a handler asks the session
// manager and returns; the manager's answer finishes the call.
//
// Threads: gRPC's and the manager's, any number at once; the service itself is immutable.
#pragma once

#include "goldfinch/v1/session_service.grpc.pb.h"
#include "server/serving_context.h"
#include "server/unary_call.h"

namespace goldfinch {

class SessionService final : public v1::SessionService::CallbackService {
 public:
  // `serving` outlives the service.
  explicit SessionService(const ServingContext& serving) : serving_(serving) {}

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* context,
                                          const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) override;
  grpc::ServerUnaryReactor* AppendToSession(
      grpc::CallbackServerContext* context, const v1::AppendToSessionRequest* request,
      v1::AppendToSessionResponse* response) override;
  grpc::ServerUnaryReactor* GetSessionHistory(
      grpc::CallbackServerContext* context, const v1::GetSessionHistoryRequest* request,
      v1::GetSessionHistoryResponse* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const v1::GetSessionRequest* request,
                                       v1::GetSessionResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* ForkSession(grpc::CallbackServerContext* context,
                                        const v1::ForkSessionRequest* request,
                                        v1::ForkSessionResponse* response) override;
  grpc::ServerUnaryReactor* ParkSession(grpc::CallbackServerContext* context,
                                        const v1::ParkSessionRequest* request,
                                        v1::ParkSessionResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context,
                                          const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) override;
  grpc::ServerWriteReactor<v1::ExportSessionResponse>* ExportSession(
      grpc::CallbackServerContext* context,
      const v1::ExportSessionRequest* request) override;
  grpc::ServerReadReactor<v1::ImportSessionRequest>* ImportSession(
      grpc::CallbackServerContext* context, v1::ImportSessionResponse* response) override;

 private:
  void List(const Tenant& tenant, const v1::ListSessionsRequest& request,
            v1::ListSessionsResponse* response, UnaryCall* call) const;

  const ServingContext& serving_;
};

}  // namespace goldfinch
