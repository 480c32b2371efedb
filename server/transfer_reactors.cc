#include "server/transfer_reactors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/session_message.h"

namespace goldfinch {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;

}  // namespace

grpc::ServerWriteReactor<v1::ExportSessionResponse>* ExportReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    const v1::ExportSessionRequest& request) {
  auto reactor = std::make_shared<ExportReactor>(Private(), serving, context);
  reactor->self_ = reactor;
  const absl::StatusOr<TenantPtr> tenant = Authenticate(serving, *context);
  if (!tenant.ok()) {
    reactor->FinishWith(tenant.status());
    return reactor.get();
  }
  reactor->entered_ = serving.calls.Enter(reactor);
  const absl::Status may_begin = MayBegin(serving, reactor->entered_);
  if (!may_begin.ok()) {
    reactor->FinishWith(may_begin);
  } else {
    reactor->share_.emplace(serving.transfers, (*tenant)->name);
    serving.sessions.Export(
        (*tenant)->name, request.session_id(),
        [reactor](std::int64_t bytes) { return reactor->share_->Take(bytes); },
        [reactor](auto snapshot) { reactor->OnSnapshot(std::move(snapshot)); });
  }
  return reactor.get();
}

void ExportReactor::OnSnapshot(absl::StatusOr<std::string> snapshot) {
  if (!snapshot.ok()) return FinishWith(snapshot.status());
  snapshot_ = *std::move(snapshot);
  message_.set_total_bytes(static_cast<std::int64_t>(snapshot_.size()));
  WriteNext();
}

void ExportReactor::WriteNext() {
  if (sent_ == snapshot_.size()) return FinishWith(absl::OkStatus());
  const std::size_t size = std::min(kChunkBytes, snapshot_.size() - sent_);
  message_.set_chunk(snapshot_.substr(sent_, size));
  sent_ += size;
  write_.Begin(serving_.clock.Now());
  StartWrite(&message_);
}

void ExportReactor::OnWriteDone(bool ok) {
  if (write_.End(ok)) GoOn(ok);
}

void ExportReactor::GoOn(bool ok) {
  message_.clear_total_bytes();
  ok ? WriteNext() : FinishWith(absl::CancelledError("the client is gone"));
}

void ExportReactor::CutOffIfStuck(TimePoint since) {
  write_.CutOffIfStuck(since, *context_, [this](bool ok) { GoOn(ok); });
}

void ExportReactor::FinishWith(const absl::Status& status) {
  Finish(EndStatus(serving_, status));
}

void ExportReactor::OnDone() {
  const std::shared_ptr<ExportReactor> self = std::move(self_);
  if (entered_) serving_.calls.Leave(self);
}

grpc::ServerReadReactor<v1::ImportSessionRequest>* ImportReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    v1::ImportSessionResponse* response) {
  auto reactor = std::make_shared<ImportReactor>(Private(), serving, context, response);
  reactor->self_ = reactor;
  absl::StatusOr<TenantPtr> tenant = Authenticate(serving, *context);
  if (!tenant.ok()) {
    reactor->FinishWith(tenant.status());
    return reactor.get();
  }
  reactor->tenant_ = *std::move(tenant);
  reactor->share_.emplace(serving.transfers, reactor->tenant_->name);
  reactor->entered_ = serving.calls.Enter(reactor);
  const absl::Status may_begin = MayBegin(serving, reactor->entered_);
  if (!may_begin.ok()) {
    reactor->FinishWith(may_begin);
  } else {
    reactor->waiting_since_ = serving.clock.Now();
    reactor->ReadNext();
  }
  return reactor.get();
}

absl::Status ImportReactor::Take(const std::string& chunk) {
  const auto size = static_cast<std::int64_t>(chunk.size());
  const std::int64_t limit = serving_.sessions.max_snapshot_bytes();
  if (share_->taken() + size > limit) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has more than ", limit, " bytes, this server's limit"));
  }
  absl::Status room = share_->Take(size);
  if (room.ok()) snapshot_.append(chunk);
  return room;
}

void ImportReactor::ReadNext() {
  if (share_->taken() - waited_from_ >= static_cast<std::int64_t>(kChunkBytes)) {
    waited_from_ = share_->taken();
    waiting_since_ = serving_.clock.Now();
  }
  read_.Begin(waiting_since_);
  StartRead(&message_);
}

void ImportReactor::OnReadDone(bool ok) {
  if (read_.End(ok)) GoOn(ok);
}

void ImportReactor::CutOffIfStuck(TimePoint since) {
  read_.CutOffIfStuck(since, *context_, [this](bool ok) { GoOn(ok); });
  unread_.CutOffIfStuck(since);
}

void ImportReactor::GoOn(bool ok) {
  if (ok) {
    const absl::Status status = Take(message_.chunk());
    if (!status.ok()) return FinishWith(status);
    return ReadNext();
  }
  // The client has sent all, or is gone; then the answer goes nowhere.
  if (context_->IsCancelled()) return FinishWith(absl::CancelledError("cancelled"));
  serving_.sessions.Import(
      tenant_->name, std::move(snapshot_), [self = self_](auto info) {
        self->FinishWith(TellOfNewSession(self->serving_, *self->context_, self->tenant_,
                                          info, *self->response_->mutable_session()));
      });
}

void ImportReactor::FinishWith(absl::Status status) {
  // The snapshot is a session now, or nothing.
  snapshot_ = {};
  message_ = {};
  share_.reset();
  if (status.ok()) {
    status = unread_.Begin(*response_, serving_.transfers, tenant_->name,
                           serving_.clock.Now());
  }
  Finish(EndStatus(serving_, tenant_, status));
}

void ImportReactor::OnDone() {
  const std::shared_ptr<ImportReactor> self = std::move(self_);
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
