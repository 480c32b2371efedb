#include "server/create_session_reactor.h"

#include <iterator>
#include <utility>
#include <vector>

#include "server/session_message.h"
#include "server/status.h"

namespace goldfinch {

grpc::ServerUnaryReactor* CreateSessionReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    const v1::CreateSessionRequest& request, v1::CreateSessionResponse* response) {
  auto reactor =
      std::make_shared<CreateSessionReactor>(Private(), serving, context, response);
  reactor->self_ = reactor;
  const absl::Status status = reactor->Begin(request);
  if (!status.ok()) reactor->FinishWith(status);
  return reactor.get();
}

CreateSessionReactor::CreateSessionReactor(Private, const ServingContext& serving,
                                           grpc::CallbackServerContext* context,
                                           v1::CreateSessionResponse* response)
    : serving_(serving),
      context_(context),
      response_(response),
      log_("CreateSession", *context, serving.clock) {}

absl::Status CreateSessionReactor::Begin(const v1::CreateSessionRequest& request) {
  absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, *context_);
  if (!tenant.ok()) return tenant.status();
  tenant_ = *std::move(tenant);
  log_end_.tenant = tenant_->name;
  entered_ = serving_.calls.Enter(self_);
  absl::Status status = MayBegin(serving_, entered_);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<TokenId>> prompt =
      ReadTokens("tokens", request.has_text() ? &request.text() : nullptr,
                 request.has_tokens() ? &request.tokens() : nullptr, serving_.limits);
  if (!prompt.ok()) return prompt.status();
  status = ValidatePriority(request.priority());
  if (!status.ok()) return status;
  request_.kind = RequestKind::kPrefill;
  request_.prompt = *std::move(prompt);
  log_end_.prompt_tokens = std::ssize(request_.prompt);
  request_.priority = request.priority();
  SetTenant(tenant_, request_);
  request_.use_prefix_cache = true;
  request_.deadline = DeadlineOf(*context_, serving_.clock);
  late_from_ = LateFrom(request_.deadline, serving_.clock);
  serving_.sessions.Create(tenant_->name,
                           [self = self_](auto use) { self->OnSession(std::move(use)); });
  return absl::OkStatus();
}

void CreateSessionReactor::OnSession(absl::StatusOr<std::shared_ptr<SessionUse>> use) {
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

absl::Status CreateSessionReactor::Prefill(const std::shared_ptr<SessionUse>& use) {
  request_.on_end = [self = shared_from_this(),
                     end_session = use->OnEnd(std::nullopt)](RequestEnd end) {
    absl::Status status = end.status;
    end_session(std::move(end));
    self->serving_.delivery.Post([self, status = std::move(status)] {
      self->WaitUntilSubmitted();
      self->Answer(status);
    });
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
    TellRequestId(static_cast<std::uint64_t>(*id), *context_);
    cancelled = cancelled_;
  }
  use->SetRequest(*id);
  if (cancelled.has_value()) {
    serving_.scheduler.Cancel(*id, *std::move(cancelled));
  }
  return absl::OkStatus();
}

void CreateSessionReactor::WaitUntilSubmitted() { const MutexLock lock(mu_); }

void CreateSessionReactor::Answer(const absl::Status& status) {
  if (!status.ok()) {
    // Nobody knows of the session.
    serving_.sessions.Delete(tenant_->name, session_id_, [](const absl::Status&) {});
    return FinishWith(status);
  }
  serving_.sessions.Get(
      tenant_->name, session_id_, [self = shared_from_this()](auto info) {
        self->FinishWith(TellOfNewSession(self->serving_, *self->context_, self->tenant_,
                                          info, *self->response_->mutable_session()));
      });
}

void CreateSessionReactor::FinishWith(const absl::Status& status) {
  // The scheduler counts what it was asked, refused or not.
  const grpc::Status end =
      submitted_ ? ToGrpcStatus(status) : EndStatus(serving_, status);
  log_end_.status = end.error_code();
  if (status.ok()) log_end_.session_id = session_id_;
  Finish(end);
}

void CreateSessionReactor::OnCancel() {
  absl::Status status = ClientGoneStatus(late_from_, serving_.clock);
  std::optional<RequestId> cancel;
  {
    const MutexLock lock(mu_);
    cancelled_ = status;
    cancel = id_;
  }
  if (cancel.has_value()) serving_.scheduler.Cancel(*cancel, std::move(status));
}

void CreateSessionReactor::OnDone() {
  const std::shared_ptr<CreateSessionReactor> self = std::move(self_);
  {
    const MutexLock lock(mu_);
    if (id_.has_value()) log_end_.request_id = static_cast<std::uint64_t>(*id_);
  }
  log_.Write(log_end_);  // the server may go once the call has left
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
