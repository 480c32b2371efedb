// ExportSession and ImportSession: a snapshot out and in, piece by piece.
//
// Snapshots that are on their way take memory; together they take no more than a bound,
// beyond which further ones are refused.
//
// Threads: the handler's (Start), the manager's (when it has an answer), gRPC's (the
// others, one at a time). A reactor owns itself until OnDone, which gRPC calls after
// everything else.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "goldfinch/v1/session_service.pb.h"
#include "server/serving_context.h"

namespace goldfinch {

class ExportReactor final : public grpc::ServerWriteReactor<v1::ExportSessionResponse> {
  struct Private {};  // made by Start only

 public:
  static grpc::ServerWriteReactor<v1::ExportSessionResponse>* Start(
      const ServingContext& serving, grpc::CallbackServerContext* context,
      const v1::ExportSessionRequest& request);

  ExportReactor(Private, const ServingContext& serving) : serving_(serving) {}

  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  void OnSnapshot(absl::StatusOr<std::string> snapshot);
  void WriteNext();
  void FinishWith(const absl::Status& status);

  const ServingContext& serving_;
  std::shared_ptr<ExportReactor> self_;  // from Start until OnDone
  std::string snapshot_;
  std::size_t sent_ = 0;
  v1::ExportSessionResponse message_;
};

class ImportReactor final : public grpc::ServerReadReactor<v1::ImportSessionRequest> {
  struct Private {};  // made by Start only

 public:
  static grpc::ServerReadReactor<v1::ImportSessionRequest>* Start(
      const ServingContext& serving, grpc::CallbackServerContext* context,
      v1::ImportSessionResponse* response);

  ImportReactor(Private, const ServingContext& serving,
                grpc::CallbackServerContext* context, v1::ImportSessionResponse* response)
      : serving_(serving), context_(context), response_(response) {}
  ~ImportReactor() override;

  void OnReadDone(bool ok) override;
  void OnDone() override;

 private:
  absl::Status Take(const std::string& chunk);
  void FinishWith(const absl::Status& status);

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  v1::ImportSessionResponse* const response_;  // gRPC's, until Finish
  std::shared_ptr<ImportReactor> self_;        // from Start until OnDone
  v1::ImportSessionRequest message_;
  std::string snapshot_;
  std::int64_t taken_ = 0;  // of serving_.import_bytes
};

}  // namespace goldfinch
