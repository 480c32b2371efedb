#include "server/prefill_reactor.h"

#include <iterator>
#include <utility>
#include <vector>

#include "scheduler/needs.h"
#include "server/response_builder.h"
#include "server/session_message.h"
#include "server/status.h"
#include "sessions/session_id.h"

namespace goldfinch {

grpc::ServerUnaryReactor* PrefillReactor::Create(const ServingContext& serving,
                                                 grpc::CallbackServerContext* context,
                                                 const v1::CreateSessionRequest& request,
                                                 v1::CreateSessionResponse* response) {
  auto reactor = std::make_shared<PrefillReactor>(Private(), "CreateSession", serving,
                                                  context, response);
  reactor->self_ = reactor;
  const absl::Status status = reactor->Begin(request);
  if (status.ok()) {
    serving.sessions.Create(reactor->tenant_->name,
                            [reactor](auto use) { reactor->OnSession(std::move(use)); });
  } else {
    reactor->FinishWith(status);
  }
  return reactor.get();
}

grpc::ServerUnaryReactor* PrefillReactor::Append(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    const v1::AppendToSessionRequest& request, v1::AppendToSessionResponse* response) {
  auto reactor = std::make_shared<PrefillReactor>(Private(), "AppendToSession", serving,
                                                  context, response);
  reactor->self_ = reactor;
  absl::Status status = reactor->Begin(request);
  // For the log, however it ends; what is no id may be any text.
  if (reactor->tenant_ != nullptr && IsSessionId(request.session_id())) {
    reactor->session_id_ = request.session_id();
  }
  if (status.ok() && reactor->request_.prompt.empty()) {
    status = absl::InvalidArgumentError("input has 0 tokens; it must have at least 1");
  }
  if (status.ok()) {
    serving.sessions.Acquire(reactor->tenant_->name, request.session_id(),
                             [reactor](auto use) { reactor->OnSession(std::move(use)); });
  } else {
    reactor->FinishWith(status);
  }
  return reactor.get();
}

PrefillReactor::PrefillReactor(Private, const char* method, const ServingContext& serving,
                               grpc::CallbackServerContext* context, Response response)
    : serving_(serving),
      context_(context),
      response_(response),
      unread_(*context),
      log_(method, *context, serving.clock) {}

template <typename Message>
absl::Status PrefillReactor::Begin(const Message& message) {
  absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, *context_);
  if (!tenant.ok()) return tenant.status();
  tenant_ = *std::move(tenant);
  log_end_.tenant = tenant_->name;
  entered_ = serving_.calls.Enter(self_);
  absl::Status status = MayBegin(serving_, entered_);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<TokenId>> prompt =
      ReadTokens("tokens", message.has_text() ? &message.text() : nullptr,
                 message.has_tokens() ? &message.tokens() : nullptr, serving_.limits);
  if (!prompt.ok()) return prompt.status();
  status = ValidatePriority(message.priority());
  if (!status.ok()) return status;
  request_.kind = RequestKind::kPrefill;
  request_.prompt = *std::move(prompt);
  log_end_.prompt_tokens = std::ssize(request_.prompt);
  request_.priority = message.priority();
  SetTenant(tenant_, request_);
  request_.deadline = DeadlineOf(*context_, serving_.clock);
  request_.arrived = log_.started();
  late_from_ = LateFrom(request_.deadline, serving_.clock);
  return absl::OkStatus();
}

void PrefillReactor::OnSession(absl::StatusOr<std::shared_ptr<SessionUse>> use) {
  if (!use.ok()) return FinishWith(use.status());
  session_id_ = (*use)->id();
  absl::Status status;
  if (!request_.prompt.empty()) {
    status = Prefill(*use);
    if (status.ok()) return;
  }
  (*use)->Release();
  Answer(status);
}

absl::Status PrefillReactor::Prefill(const std::shared_ptr<SessionUse>& use) {
  GoOnFrom(use->kept(), request_);
  log_end_.prompt_tokens = PromptTokens(request_);
  request_.on_end = [self = shared_from_this(),
                     end_session = use->OnEnd(std::nullopt)](RequestEnd end) {
    absl::Status status = end.status;
    end_session(std::move(end));
    self->serving_.delivery.Post(
        [self, status = std::move(status)] { self->OnEnd(status); });
  };
  submitted_ = true;
  std::optional<absl::Status> cancelled;
  std::optional<RequestId> id;
  {
    // Held, so that no answer goes out before its metadata is complete.
    const MutexLock lock(mu_);
    const absl::StatusOr<Scheduler::Submission> submission =
        serving_.scheduler.Submit(std::move(request_));
    if (!submission.ok()) return submission.status();
    id = id_ = submission->id;
    stream_ = submission->stream;
    TellRequestId(static_cast<std::uint64_t>(*id), *context_);
    cancelled = cancelled_;
  }
  use->SetRequest(*id);
  if (cancelled.has_value()) {
    serving_.scheduler.Cancel(*id, *std::move(cancelled));
  }
  return absl::OkStatus();
}

void PrefillReactor::OnEnd(const absl::Status& status) {
  std::shared_ptr<TokenStream> stream;
  {
    const MutexLock lock(mu_);  // whoever submits has it until all is in place
    stream = stream_;
  }
  for (StreamEvent& event : stream->Take().events) {
    if (event.kind == StreamEvent::Kind::kFilled) log_end_.finished = std::move(event);
  }
  Answer(status);
}

void PrefillReactor::Answer(const absl::Status& status) {
  if (!status.ok()) {
    if (makes_session()) {  // nobody knows of it
      serving_.sessions.Discard(tenant_->name, session_id_);
    }
    return FinishWith(status);
  }
  serving_.sessions.Get(
      tenant_->name, session_id_,
      [self = shared_from_this()](auto info) { self->FinishWith(self->Tell(info)); });
}

absl::Status PrefillReactor::Tell(const absl::StatusOr<SessionInfo>& info) {
  return std::visit(
      [&](auto* response) {
        if (log_end_.finished.has_value()) {
          FillUsage(log_end_.finished->usage, *response->mutable_usage());
        }
        v1::Session& session = *response->mutable_session();
        if (makes_session()) {
          if (!info.ok()) serving_.sessions.Discard(tenant_->name, session_id_);
          return TellOfNewSession(serving_, *context_, tenant_, info, session);
        }
        if (info.ok()) {
          FillSession(*info, session);
        } else {
          // It was parked or deleted since. The text is in it all the same, and who is
          // told otherwise would send it again.
          session.set_id(session_id_);
          session.set_num_tokens(response->usage().prompt_tokens());
        }
        return absl::OkStatus();
      },
      response_);
}

void PrefillReactor::FinishWith(absl::Status status) {
  if (status.ok()) {
    status = std::visit(
        [this](const auto* response) {
          return unread_.Begin(*response, serving_.transfers, tenant_->name,
                               serving_.clock.Now());
        },
        response_);
  }
  // The scheduler counts what it was asked, refused or not.
  const grpc::Status end =
      submitted_ ? ToGrpcStatus(status) : EndStatus(serving_, tenant_, status);
  log_end_.status = end;
  if (status.ok() || !makes_session()) log_end_.session_id = session_id_;
  Finish(end);
}

void PrefillReactor::OnCancel() {
  absl::Status status = ClientGoneStatus(late_from_, serving_.clock);
  std::optional<RequestId> cancel;
  {
    const MutexLock lock(mu_);
    cancelled_ = status;
    cancel = id_;
  }
  if (cancel.has_value()) serving_.scheduler.Cancel(*cancel, std::move(status));
}

void PrefillReactor::OnDone() {
  const std::shared_ptr<PrefillReactor> self = std::move(self_);
  {
    const MutexLock lock(mu_);
    if (id_.has_value()) log_end_.request_id = static_cast<std::uint64_t>(*id_);
  }
  log_.Write(log_end_);  // the server may go once the call has left
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
