#include "server/cli/generation.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "goldfinch/v1/generation_service.grpc.pb.h"

namespace goldfinch {
namespace {

class Generation {
 public:
  using Show = std::function<bool(const v1::GenerateResponse&)>;

  Generation(Connection& connection, Signals& signals, v1::GenerateRequest request,
             const GenerationOptions& options, const Show& show)
      : connection_(connection),
        signals_(signals),
        options_(options),
        show_(show),
        patience_(connection, signals, options.limits.deadline, options.limits.patience),
        request_(std::move(request)) {
    result_.tokens_received = request_.resume().tokens_received();
  }

  GenerationResult Run() {
    do {
      result_.status = Attempt();
    } while (PrepareNext(AdviceOf(result_.status)));
    // Also while it waited for a server.
    if (!result_.status.ok() && signals_.interrupted()) {
      result_.status = grpc::Status::CANCELLED;
    }
    return std::move(result_);
  }

 private:
  grpc::Status Attempt() {
    const auto channel = connection_.Channel(options_.limits.deadline);
    if (!connection_.reached())
      return connection_.WhyNotReached(options_.limits.deadline);
    grpc::ClientContext context;
    SetDeadline(options_.limits.deadline, context);
    const Signals::Call scope(signals_, context);
    const auto stub = v1::GenerationService::NewStub(channel);
    const auto reader = stub->Generate(&context, request_);
    bool first = true;
    for (v1::GenerateResponse message; reader->Read(&message); first = false) {
      if (first && request_.has_resume()) {
        ++result_.num_resumed;
        result_.kept_session = request_.resume().session_id();
      }
      if (received_any_ && first) message.clear_seed();
      received_any_ = true;
      result_.tokens_received += message.tokens_size();
      patience_.Restore();
      if (!show_(message)) {
        context.TryCancel();
        reader->Finish();
        return grpc::Status::CANCELLED;  // also when it had just ended
      }
    }
    return reader->Finish();
  }

  // What the next attempt asks for; false when there is none.
  bool PrepareNext(const Advice& advice) {
    if (advice.interruption.has_value()) {
      result_.kept_session = advice.interruption->session_id();
      if (!options_.resume) return false;
      request_.Clear();
      request_.mutable_resume()->set_session_id(result_.kept_session);
      patience_.set_limit(std::max(options_.limits.patience, kThroughARestart));
    }
    if (request_.has_resume()) {
      // Asking again changes nothing: the answer depends on what was received alone.
      if (!IsOfTheMoment(advice)) return false;
      request_.mutable_resume()->set_tokens_received(result_.tokens_received);
    } else if (received_any_ || !WasRefused(result_.status, connection_)) {
      return false;
    }
    return patience_.WaitForNextTry(advice);
  }

  // The server went away, or has no room for now.
  bool IsOfTheMoment(const Advice& advice) const {
    const grpc::StatusCode code = result_.status.error_code();
    return code == grpc::StatusCode::UNAVAILABLE ||
           (code == grpc::StatusCode::RESOURCE_EXHAUSTED &&
            advice.retry_after.has_value());
  }

  Connection& connection_;
  Signals& signals_;
  const GenerationOptions& options_;
  const Show& show_;
  Patience patience_;
  v1::GenerateRequest request_;
  bool received_any_ = false;
  GenerationResult result_;
};

}  // namespace

GenerationResult RunGeneration(
    Connection& connection, Signals& signals, const v1::GenerateRequest& request,
    const GenerationOptions& options,
    const std::function<bool(const v1::GenerateResponse&)>& show) {
  return Generation(connection, signals, request, options, show).Run();
}

}  // namespace goldfinch
