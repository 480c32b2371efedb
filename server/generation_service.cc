#include "server/generation_service.h"

#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/generate_reactor.h"
#include "server/score_reactor.h"
#include "server/text/detokenizer.h"
#include "server/unary_call.h"

namespace goldfinch {
namespace {

// A string for each takes forty times the memory of its id.
constexpr std::ptrdiff_t kMaxTokensWithBytes = 65536;

}  // namespace

GenerationService::GenerationService(const ServingContext& serving,
                                     v1::GetModelResponse model)
    : serving_(serving), model_(std::move(model)) {}

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  serving_.counts.Count(CallCounts::kGenerate);
  return GenerateReactor::Start(serving_, context, *request);
}

grpc::ServerUnaryReactor* GenerationService::Score(grpc::CallbackServerContext* context,
                                                   const v1::ScoreRequest* request,
                                                   v1::ScoreResponse* response) {
  serving_.counts.Count(CallCounts::kScore);
  return ScoreReactor::Start(serving_, context, *request, response);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(
    grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
    v1::TokenizeResponse* response) {
  serving_.counts.Count(CallCounts::kTokenize);
  return UnaryCall::Answer(serving_, context, response, UnaryCall::Takes::kMemory,
                           [&](UnaryCall* call, const TenantPtr&) {
                             Tokenize(*request, *response);
                             call->End(ValidateAnswer(*response));
                           });
}

void GenerationService::Tokenize(const v1::TokenizeRequest& request,
                                 v1::TokenizeResponse& response) const {
  std::vector<TokenId> tokens;
  serving_.limits.tokenizer.Encode(request.text(), tokens);
  response.mutable_tokens()->Add(tokens.begin(), tokens.end());
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(
    grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
    v1::DetokenizeResponse* response) {
  serving_.counts.Count(CallCounts::kDetokenize);
  return UnaryCall::Answer(serving_, context, response, UnaryCall::Takes::kMemory,
                           [&](UnaryCall* call, const TenantPtr&) {
                             const absl::Status status = Detokenize(*request, *response);
                             call->End(status.ok() ? ValidateAnswer(*response) : status);
                           });
}

absl::Status GenerationService::Detokenize(const v1::DetokenizeRequest& request,
                                           v1::DetokenizeResponse& response) const {
  const absl::Status status =
      ValidateTokens("tokens", request.tokens(), serving_.limits.vocabulary);
  if (!status.ok()) return status;
  const std::vector<TokenId> tokens(request.tokens().begin(), request.tokens().end());
  if (request.with_token_bytes() && std::ssize(tokens) > kMaxTokensWithBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens has ", tokens.size(), " ids; the limit with ",
                     "with_token_bytes is ", kMaxTokensWithBytes));
  }
  // A message of ids may stand for gigabytes: known before they are made.
  const absl::Status fits = ValidateAnswerBytes(
      serving_.limits.tokenizer.DecodedBytes(tokens), serving_.limits);
  if (!fits.ok()) return fits;
  response.set_text(ToValidUtf8(serving_.limits.tokenizer.Decode(tokens)));
  if (request.with_token_bytes()) {
    for (const TokenId token : tokens) {
      const std::string_view bytes = serving_.limits.vocabulary.bytes(token);
      response.add_token_bytes(bytes.data(), bytes.size());
    }
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* GenerationService::GetModel(
    grpc::CallbackServerContext* context, const v1::GetModelRequest*,
    v1::GetModelResponse* response) {
  serving_.counts.Count(CallCounts::kGetModel);
  return UnaryCall::Answer(serving_, context, response, UnaryCall::Takes::kLittle,
                           [&](UnaryCall* call, const TenantPtr&) {
                             *response = model_;
                             call->End(absl::OkStatus());
                           });
}

absl::Status GenerationService::ValidateAnswer(
    const google::protobuf::MessageLite& response) const {
  return ValidateAnswerBytes(static_cast<std::int64_t>(response.ByteSizeLong()),
                             serving_.limits);
}

}  // namespace goldfinch
