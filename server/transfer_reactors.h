// ExportSession and ImportSession: a snapshot out and in, piece by piece.
//
// Snapshots that are on their way take memory, a share of TransferRoom; where there is
// none, further ones are refused.
//
// Threads: the handler's (Start), the manager's (when it has an answer), the sweep's
// (CutOffIfStuck), gRPC's (the others, one at a time). A reactor owns itself until
// OnDone, which gRPC calls after everything else.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "goldfinch/v1/session_service.pb.h"
#include "server/open_calls.h"
#include "server/pending_operation.h"
#include "server/serving_context.h"
#include "server/unread_answer.h"

namespace goldfinch {

class ExportReactor final : public grpc::ServerWriteReactor<v1::ExportSessionResponse>,
                            public OpenCall {
  struct Private {};  // made by Start only

 public:
  static grpc::ServerWriteReactor<v1::ExportSessionResponse>* Start(
      const ServingContext& serving, grpc::CallbackServerContext* context,
      const v1::ExportSessionRequest& request);

  ExportReactor(Private, const ServingContext& serving,
                grpc::CallbackServerContext* context)
      : serving_(serving), context_(context) {}

  void OnWriteDone(bool ok) override;
  void OnDone() override;

  void CutOffIfStuck(TimePoint since) override;

 private:
  void OnSnapshot(absl::StatusOr<std::string> snapshot);
  void WriteNext();
  void GoOn(bool ok);
  void FinishWith(const absl::Status& status);

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<ExportReactor> self_;  // from Start until OnDone
  bool entered_ = false;                 // set by Start
  std::optional<TransferShare> share_;   // likewise, for who may export
  std::string snapshot_;
  std::size_t sent_ = 0;
  v1::ExportSessionResponse message_;

  PendingOperation write_;
};

class ImportReactor final : public grpc::ServerReadReactor<v1::ImportSessionRequest>,
                            public OpenCall {
  struct Private {};  // made by Start only

 public:
  static grpc::ServerReadReactor<v1::ImportSessionRequest>* Start(
      const ServingContext& serving, grpc::CallbackServerContext* context,
      v1::ImportSessionResponse* response);

  ImportReactor(Private, const ServingContext& serving,
                grpc::CallbackServerContext* context, v1::ImportSessionResponse* response)
      : serving_(serving),
        context_(context),
        response_(response),
        unread_(*context) {}

  void OnReadDone(bool ok) override;
  void OnDone() override;

  void CutOffIfStuck(TimePoint since) override;

 private:
  absl::Status Take(const std::string& chunk);
  void ReadNext();
  void GoOn(bool ok);
  void FinishWith(absl::Status status);

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  v1::ImportSessionResponse* const response_;  // gRPC's, until Finish
  std::shared_ptr<ImportReactor> self_;        // from Start until OnDone
  bool entered_ = false;                       // set by Start
  TenantPtr tenant_;                           // set by Start
  v1::ImportSessionRequest message_;
  std::optional<TransferShare> share_;  // likewise, for who may import
  std::string snapshot_;
  // How much had come when the wait for the next kChunkBytes began: bytes that trickle in
  // hold what others could use.
  std::int64_t waited_from_ = 0;
  TimePoint waiting_since_;
  PendingOperation read_;
  UnreadAnswer unread_;
};

}  // namespace goldfinch
