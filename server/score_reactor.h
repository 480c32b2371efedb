// One Score call: waits for the scores of its request and answers with all of them.
//
// Threads: the handler's (Start), then the delivery thread alone (Advance, Finish), and
// gRPC's OnCancel, which reads only what Start set. Lifetime as in generate_reactor.h:
// the reactor owns itself until OnDone, the delivery thread holds a weak pointer, Finish
// is the one operation and OnDone follows it.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <vector>

#include "goldfinch/v1/generation_service.pb.h"
#include "scheduler/scheduler.h"
#include "server/call_log.h"
#include "server/open_calls.h"
#include "server/serving_context.h"
#include "server/unread_answer.h"

namespace goldfinch {

class ScoreReactor final : public grpc::ServerUnaryReactor,
                           public OpenCall,
                           public std::enable_shared_from_this<ScoreReactor> {
  struct Private {};  // made by Start only

 public:
  static grpc::ServerUnaryReactor* Start(const ServingContext& serving,
                                         grpc::CallbackServerContext* context,
                                         const v1::ScoreRequest& request,
                                         v1::ScoreResponse* response);

  ScoreReactor(Private, const ServingContext& serving,
               grpc::CallbackServerContext* context, v1::ScoreResponse* response);

  void OnCancel() override;
  void OnDone() override;

  // Writes nothing before its end.
  void CutOffIfStuck(TimePoint since) override { unread_.CutOffIfStuck(since); }

 private:
  absl::Status Submit(const v1::ScoreRequest& request,
                      grpc::CallbackServerContext& context);
  void Advance();
  void Fill(const StreamEvent& event);

  void End(absl::Status status);

  const ServingContext& serving_;
  v1::ScoreResponse* const response_;  // gRPC's, until Finish
  UnreadAnswer unread_;
  const CallLog log_;
  std::shared_ptr<ScoreReactor> self_;  // from Start until OnDone

  // Set by Start; constant afterwards.
  bool entered_ = false;
  std::optional<TimePoint> late_from_;
  std::vector<TokenId> continuation_;
  std::optional<RequestId> id_;  // none: refused
  std::shared_ptr<TokenStream> stream_;

  bool finished_ = false;      // delivery thread
  CallLog::End log_end_ = {};  // Start, then the delivery thread, then OnDone
};

}  // namespace goldfinch
