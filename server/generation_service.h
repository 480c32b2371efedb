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
  // Whether a call that is answered on the spot and takes memory may be made: as
  // Authenticate and MayBegin.
  absl::Status Admit(const grpc::CallbackServerContext& context) const;
  // Finishes it.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                   const absl::Status& status);
  // With `response`, or INVALID_ARGUMENT when it is more than may be sent: the library
  // would find that out by itself, but for two gigabytes, at which it ends the process.
  template <typename Response>
  grpc::ServerUnaryReactor* AnswerIfItFits(grpc::CallbackServerContext* context,
                                           Response& response);

  const ServingContext& serving_;
  const v1::GetModelResponse model_;
};

}  // namespace goldfinch
