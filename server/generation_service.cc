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
  const absl::Status admitted = Admit(*context);
  if (!admitted.ok()) return Answer(context, admitted);
  std::vector<TokenId> tokens;
  serving_.limits.tokenizer.Encode(request->text(), tokens);
  response->mutable_tokens()->Add(tokens.begin(), tokens.end());
  return AnswerIfItFits(context, *response);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(
    grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
    v1::DetokenizeResponse* response) {
  serving_.counts.Count(CallCounts::kDetokenize);
  const absl::Status admitted = Admit(*context);
  if (!admitted.ok()) return Answer(context, admitted);
  const absl::Status status =
      ValidateTokens("tokens", request->tokens(), serving_.limits.vocabulary);
  if (!status.ok()) return Answer(context, status);
  const std::vector<TokenId> tokens(request->tokens().begin(), request->tokens().end());
  if (request->with_token_bytes() && std::ssize(tokens) > kMaxTokensWithBytes) {
    return Answer(context, absl::InvalidArgumentError(absl::StrCat(
                               "tokens has ", tokens.size(), " ids; the limit with ",
                               "with_token_bytes is ", kMaxTokensWithBytes)));
  }
  // A message of ids may stand for gigabytes: known before they are made.
  const absl::Status fits = ValidateAnswerBytes(
      serving_.limits.tokenizer.DecodedBytes(tokens), serving_.limits);
  if (!fits.ok()) return Answer(context, fits);
  response->set_text(ToValidUtf8(serving_.limits.tokenizer.Decode(tokens)));
  if (request->with_token_bytes()) {
    for (const TokenId token : tokens) {
      const std::string_view bytes = serving_.limits.vocabulary.bytes(token);
      response->add_token_bytes(bytes.data(), bytes.size());
    }
  }
  return AnswerIfItFits(context, *response);
}

grpc::ServerUnaryReactor* GenerationService::GetModel(
    grpc::CallbackServerContext* context, const v1::GetModelRequest*,
    v1::GetModelResponse* response) {
  serving_.counts.Count(CallCounts::kGetModel);
  // Takes next to nothing, so it is answered when memory is short, too.
  absl::Status admitted = Authenticate(serving_, *context).status();
  if (admitted.ok() && serving_.calls.closed()) admitted = ShuttingDown();
  if (!admitted.ok()) return Answer(context, admitted);
  *response = model_;
  return Answer(context, absl::OkStatus());
}

absl::Status GenerationService::Admit(const grpc::CallbackServerContext& context) const {
  const absl::Status status = Authenticate(serving_, context).status();
  return status.ok() ? MayBegin(serving_, !serving_.calls.closed()) : status;
}

template <typename Response>
grpc::ServerUnaryReactor* GenerationService::AnswerIfItFits(
    grpc::CallbackServerContext* context, Response& response) {
  const absl::Status fits = ValidateAnswerBytes(
      static_cast<std::int64_t>(response.ByteSizeLong()), serving_.limits);
  if (!fits.ok()) response.Clear();
  return Answer(context, fits);
}

grpc::ServerUnaryReactor* GenerationService::Answer(grpc::CallbackServerContext* context,
                                                    const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(EndStatus(serving_, status));
  return reactor;
}

}  // namespace goldfinch
