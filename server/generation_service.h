// GenerationService of the contract, on gRPC's callback API: a handler validates,
// submits and returns; no thread waits for a call.
//
// Threads: gRPC's, any number at once; the service itself is immutable.
#pragma once

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/serving_context.h"

namespace goldfinch {

class GenerationService final : public v1::GenerationService::CallbackService {
 public:
  // `serving` outlives the service; `model` is GetModel's whole answer.
  GenerationService(const ServingContext& serving, v1::GetModelResponse model);

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  void Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse& response) const;
  absl::Status Detokenize(const v1::DetokenizeRequest& request,
                          v1::DetokenizeResponse& response) const;
  // INVALID_ARGUMENT for an answer that is more than may be sent: the library would find
  // that out by itself, but for two gigabytes, at which it ends the process.
  absl::Status ValidateAnswer(const google::protobuf::MessageLite& response) const;

  const ServingContext& serving_;
  const v1::GetModelResponse model_;
};

}  // namespace goldfinch
