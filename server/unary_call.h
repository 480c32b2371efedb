// A unary call that is answered on the spot or by a callback: who calls, whether it may
// begin, that it is open meanwhile, and how it ends.
//
// Threads: the handler's (Answer), whichever ends it, the sweep's and gRPC's. Lifetime as
// in generate_reactor.h: the call owns itself until OnDone, which follows its End.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/status.h"
#include "server/open_calls.h"
#include "server/serving_context.h"
#include "server/unread_answer.h"

namespace goldfinch {

class UnaryCall final : public grpc::ServerUnaryReactor, public OpenCall {
  struct Private {};  // made by Answer only

 public:
  // What it takes to answer: such a call is made when memory is short, or is not.
  enum class Takes { kLittle, kMemory };
  // Who is told of refusals besides the server's count: what makes a session is among the
  // tenant's.
  enum class Refusals { kOfServer, kOfTenant };

  // Calls `answer(call, tenant)` for who may call now, which is to End it, then or later;
  // refuses the others. `response` is gRPC's, until the end.
  template <typename AnswerFunction>
  static grpc::ServerUnaryReactor* Answer(const ServingContext& serving,
                                          grpc::CallbackServerContext* context,
                                          const google::protobuf::MessageLite* response,
                                          Takes takes, const AnswerFunction& answer,
                                          Refusals refusals = Refusals::kOfServer) {
    const auto call =
        std::make_shared<UnaryCall>(Private(), serving, context, response, refusals);
    call->self_ = call;
    const absl::Status status = call->Begin(takes, *context);
    if (status.ok()) {
      answer(call.get(), call->tenant_);
    } else {
      call->End(status);
    }
    return call.get();
  }

  UnaryCall(Private, const ServingContext& serving, grpc::CallbackServerContext* context,
            const google::protobuf::MessageLite* response, Refusals refusals)
      : serving_(serving), response_(response), refusals_(refusals), unread_(*context) {}

  // Finishes the call, with the response if that is OK and there is room for it; once.
  // What is refused is counted.
  void End(absl::Status status);

  void OnDone() override;

  void CutOffIfStuck(TimePoint since) override { unread_.CutOffIfStuck(since); }

 private:
  absl::Status Begin(Takes takes, const grpc::CallbackServerContext& context);

  const ServingContext& serving_;
  const google::protobuf::MessageLite* const response_;
  const Refusals refusals_;
  std::shared_ptr<UnaryCall> self_;  // from Answer until OnDone
  TenantPtr tenant_;                 // set by Begin
  bool entered_ = false;             // likewise
  UnreadAnswer unread_;
};

}  // namespace goldfinch
