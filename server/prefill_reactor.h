// One CreateSession or AppendToSession call: runs a text into a session and generates
// nothing. CreateSession makes the session first, and may have no text.
//
// Threads: the handler's (Create, Append), the manager's (OnSession), the step thread
// (the request's end, which only posts), the delivery thread (the answer), and gRPC's
// OnCancel. What OnCancel and the others share is guarded by mu_. Lifetime as in
// generate_reactor.h.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "engine/sync/mutex.h"
#include "goldfinch/v1/session_service.pb.h"
#include "server/call_log.h"
#include "server/open_calls.h"
#include "server/serving_context.h"
#include "server/unread_answer.h"

namespace goldfinch {

class PrefillReactor final : public grpc::ServerUnaryReactor,
                             public OpenCall,
                             public std::enable_shared_from_this<PrefillReactor> {
  struct Private {};  // made by Create and Append only

 public:
  using Response = std::variant<v1::CreateSessionResponse*, v1::AppendToSessionResponse*>;

  static grpc::ServerUnaryReactor* Create(const ServingContext& serving,
                                          grpc::CallbackServerContext* context,
                                          const v1::CreateSessionRequest& request,
                                          v1::CreateSessionResponse* response);
  static grpc::ServerUnaryReactor* Append(const ServingContext& serving,
                                          grpc::CallbackServerContext* context,
                                          const v1::AppendToSessionRequest& request,
                                          v1::AppendToSessionResponse* response);

  PrefillReactor(Private, const char* method, const ServingContext& serving,
                 grpc::CallbackServerContext* context, Response response);

  void OnCancel() override;
  void OnDone() override;

  // Writes nothing before its end.
  void CutOffIfStuck(TimePoint since) override { unread_.CutOffIfStuck(since); }

 private:
  // The part of Create and Append that both have: who calls, and the text.
  template <typename Message>
  absl::Status Begin(const Message& message);
  void OnSession(absl::StatusOr<std::shared_ptr<SessionUse>> use);
  absl::Status Prefill(const std::shared_ptr<SessionUse>& use);
  void OnEnd(const absl::Status& status);
  // With the session's description, or with what went wrong.
  void Answer(const absl::Status& status);
  absl::Status Tell(const absl::StatusOr<SessionInfo>& info);
  void FinishWith(absl::Status status);
  bool makes_session() const { return response_.index() == 0; }

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  const Response response_;               // gRPC's, until Finish
  std::shared_ptr<PrefillReactor> self_;  // from the start until OnDone
  bool entered_ = false;                  // set by Begin
  TenantPtr tenant_;                      // set by Begin; null: refused
  std::string session_id_;                // set before anything runs on it
  std::optional<TimePoint> late_from_;    // likewise
  UnreadAnswer unread_;
  const CallLog log_;
  CallLog::End log_end_;  // what is known so far
  Request request_;       // the text to run, if any; until it is submitted
  bool submitted_ = false;

  Mutex mu_;
  // The client is gone, and what the request ends with for it.
  std::optional<absl::Status> cancelled_ ABSL_GUARDED_BY(mu_);
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<TokenStream> stream_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
