// AdminService of the contract, on gRPC's callback API: checks who asks, asks the
// scheduler or the server, and says in the log what was done.
//
// Threads: gRPC's and the step thread, any number at once; the service itself is
// immutable.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "goldfinch/v1/admin_service.grpc.pb.h"
#include "server/serving_context.h"

namespace goldfinch {

// What of the server the service sets in motion. Any thread.
struct AdminActions {
  std::function<void(bool hurry)> drain;                 // returns at once
  std::function<absl::StatusOr<std::int32_t>()> reload;  // how many tenants there are
};

class AdminService final : public v1::AdminService::CallbackService {
 public:
  // `serving` outlives the service.
  AdminService(const ServingContext& serving, AdminActions actions)
      : serving_(serving), actions_(std::move(actions)) {}

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* Reload(grpc::CallbackServerContext* context,
                                   const v1::ReloadRequest* request,
                                   v1::ReloadResponse* response) override;
  grpc::ServerUnaryReactor* ListRequests(grpc::CallbackServerContext* context,
                                         const v1::ListRequestsRequest* request,
                                         v1::ListRequestsResponse* response) override;
  grpc::ServerUnaryReactor* CancelRequest(grpc::CallbackServerContext* context,
                                          const v1::CancelRequestRequest* request,
                                          v1::CancelRequestResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;

 private:
  // What the log says that was asked.
  struct Ask {
    const char* method;
    std::uint64_t argument = 0;  // `hurry`, an id, a level
  };
  // Calls `answer(reactor)` for an admin; refuses the others.
  template <typename AnswerFunction>
  grpc::ServerUnaryReactor* ForAdmin(const Ask& ask, grpc::CallbackServerContext* context,
                                     const AnswerFunction& answer) const;
  void Finish(grpc::ServerUnaryReactor* reactor, const absl::Status& status) const;
  // For the step thread: finishing may run the handler of another call on the way.
  void FinishLater(grpc::ServerUnaryReactor* reactor, absl::Status status) const;

  const ServingContext& serving_;
  const AdminActions actions_;
};

}  // namespace goldfinch
