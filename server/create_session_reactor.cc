#include "server/create_session_reactor.h"

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
    : serving_(serving), context_(context), response_(response) {}

absl::Status CreateSessionReactor::Begin(const v1::CreateSessionRequest& request) {
  absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, *context_);
  if (!tenant.ok()) return tenant.status();
  tenant_ = *std::move(tenant);
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
    self->serving_.delivery.Post(
        [self, status = std::move(status)] { self->Answer(status); });
  };
  submitted_ = true;
  const absl::StatusOr<Scheduler::Submission> submission =
      serving_.scheduler.Submit(std::move(request_));
  if (!submission.ok()) return submission.status();
  use->SetRequest(submission->id);
  std::optional<absl::Status> cancelled;
  {
    const MutexLock lock(mu_);
    id_ = submission->id;
    cancelled = cancelled_;
  }
  if (cancelled.has_value()) {
    serving_.scheduler.Cancel(submission->id, *std::move(cancelled));
  }
  return absl::OkStatus();
}

void CreateSessionReactor::Answer(const absl::Status& status) {
  if (!status.ok()) {
    // Nobody knows of the session.
    serving_.sessions.Delete(tenant_->name, session_id_, [](const absl::Status&) {});
    return FinishWith(status);
  }
  serving_.sessions.Get(
      tenant_->name, session_id_, [self = shared_from_this()](auto info) {
        if (!info.ok()) return self->FinishWith(info.status());
        FillSession(*info, *self->response_->mutable_session());
        self->FinishWith(
            DeleteIfUntold(self->serving_, *self->context_, self->tenant_, info->id));
      });
}

void CreateSessionReactor::FinishWith(const absl::Status& status) {
  // The scheduler counts what it was asked, refused or not.
  Finish(submitted_ ? ToGrpcStatus(status) : EndStatus(serving_, status));
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
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
