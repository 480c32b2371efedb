// One CreateSession call: makes a session and, when a text is given, runs it first.
//
// Threads: the handler's (Start), the manager's (OnSession), the step thread (the
// request's end, which only posts), the delivery thread (the answer), and gRPC's
// OnCancel. What OnCancel and the others share is guarded by mu_. Lifetime as in
// generate_reactor.h.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <string>

#include "engine/sync/mutex.h"
#include "goldfinch/v1/session_service.pb.h"
#include "server/call_log.h"
#include "server/open_calls.h"
#include "server/serving_context.h"

namespace goldfinch {

class CreateSessionReactor final
    : public grpc::ServerUnaryReactor,
      public OpenCall,
      public std::enable_shared_from_this<CreateSessionReactor> {
  struct Private {};  // made by Start only

 public:
  static grpc::ServerUnaryReactor* Start(const ServingContext& serving,
                                         grpc::CallbackServerContext* context,
                                         const v1::CreateSessionRequest& request,
                                         v1::CreateSessionResponse* response);

  CreateSessionReactor(Private, const ServingContext& serving,
                       grpc::CallbackServerContext* context,
                       v1::CreateSessionResponse* response);

  void OnCancel() override;
  void OnDone() override;

  void CutOffIfStuck(TimePoint) override {}  // writes nothing before its end

 private:
  absl::Status Begin(const v1::CreateSessionRequest& request);
  void OnSession(absl::StatusOr<std::shared_ptr<SessionUse>> use);
  absl::Status Prefill(const std::shared_ptr<SessionUse>& use);
  void WaitUntilSubmitted();
  // With the session's description, or without the session.
  void Answer(const absl::Status& status);
  void FinishWith(const absl::Status& status);

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  v1::CreateSessionResponse* const response_;   // gRPC's, until Finish
  std::shared_ptr<CreateSessionReactor> self_;  // from Start until OnDone
  bool entered_ = false;                        // set by Start
  TenantPtr tenant_;                            // set by Start; null: refused
  std::string session_id_;                      // set before anything runs on it
  std::optional<TimePoint> late_from_;          // likewise
  const CallLog log_;
  CallLog::End log_end_;  // what is known so far
  Request request_;       // the prompt to run, if any; until it is submitted
  bool submitted_ = false;

  Mutex mu_;
  // The client is gone, and what the request ends with for it.
  std::optional<absl::Status> cancelled_ ABSL_GUARDED_BY(mu_);
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
