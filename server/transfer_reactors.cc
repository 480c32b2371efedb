#include "server/transfer_reactors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/session_message.h"
#include "server/status.h"

namespace goldfinch {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;

}  // namespace

grpc::ServerWriteReactor<v1::ExportSessionResponse>* ExportReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    const v1::ExportSessionRequest& request) {
  auto reactor = std::make_shared<ExportReactor>(Private(), serving);
  reactor->self_ = reactor;
  if (serving.calls.closed()) {
    reactor->FinishWith(DrainingStatus());
  } else {
    serving.sessions.Export(
        TenantOf(*context), request.session_id(),
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
  StartWrite(&message_);
}

void ExportReactor::OnWriteDone(bool ok) {
  message_.clear_total_bytes();
  ok ? WriteNext() : FinishWith(absl::CancelledError("the client is gone"));
}

void ExportReactor::FinishWith(const absl::Status& status) {
  if (!status.ok()) serving_.observer.OnRefused(status);
  Finish(ToGrpcStatus(status));
}

void ExportReactor::OnDone() { self_.reset(); }

grpc::ServerReadReactor<v1::ImportSessionRequest>* ImportReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    v1::ImportSessionResponse* response) {
  auto reactor = std::make_shared<ImportReactor>(Private(), serving, context, response);
  reactor->self_ = reactor;
  if (serving.calls.closed()) {
    reactor->FinishWith(DrainingStatus());
  } else {
    reactor->StartRead(&reactor->message_);
  }
  return reactor.get();
}

ImportReactor::~ImportReactor() { serving_.import_bytes -= taken_; }

absl::Status ImportReactor::Take(const std::string& chunk) {
  const auto size = static_cast<std::int64_t>(chunk.size());
  const std::int64_t limit = serving_.sessions.max_snapshot_bytes();
  if (taken_ + size > limit) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has more than ", limit, " bytes, this server's limit"));
  }
  taken_ += size;
  // One always has room: it is checked against the limit of one above.
  const std::int64_t all = serving_.import_bytes += size;
  if (all > std::max(limit, kMaxImportBytes) && all > taken_) {
    return absl::ResourceExhaustedError(
        "too many snapshots are being imported; the server has no room for more");
  }
  snapshot_.append(chunk);
  return absl::OkStatus();
}

void ImportReactor::OnReadDone(bool ok) {
  if (ok) {
    const absl::Status status = Take(message_.chunk());
    if (!status.ok()) return FinishWith(status);
    return StartRead(&message_);
  }
  // The client has sent all, or is gone; then the answer goes nowhere.
  if (context_->IsCancelled()) return FinishWith(absl::CancelledError("cancelled"));
  serving_.sessions.Import(TenantOf(*context_), std::move(snapshot_),
                           [self = self_](auto info) {
                             if (info.ok())
                               FillSession(*info, *self->response_->mutable_session());
                             self->FinishWith(info.status());
                           });
}

void ImportReactor::FinishWith(const absl::Status& status) {
  if (!status.ok()) serving_.observer.OnRefused(status);
  Finish(ToGrpcStatus(status));
}

void ImportReactor::OnDone() { self_.reset(); }

}  // namespace goldfinch
