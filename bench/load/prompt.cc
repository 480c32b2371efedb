#include "bench/load/prompt.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <random>
#include <string>

#include "absl/status/status.h"

namespace goldfinch {

v1::GenerateRequest MakeRequest(const RequestShape& shape, std::uint64_t seed,
                                std::uint64_t number) {
  std::seed_seq seeds{seed & 0xffffffff, seed >> 32, number & 0xffffffff, number >> 32};
  std::mt19937 random(seeds);
  v1::GenerateRequest request;
  auto& ids = *request.mutable_tokens()->mutable_ids();
  ids.Reserve(static_cast<int>(shape.prompt_tokens));
  // 0 is end of text.
  const auto choices = static_cast<std::uint32_t>(shape.vocab_size - 1);
  for (std::int64_t i = 0; i < shape.prompt_tokens; ++i) {
    ids.Add(static_cast<std::int32_t>(1 + random() % choices));
  }
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_max_tokens(shape.max_tokens);
  sampling.set_ignore_eos(true);
  sampling.set_seed(number);
  request.set_priority(shape.priority);
  return request;
}

absl::StatusOr<std::int32_t> VocabularySize(v1::GenerationService::Stub& stub) {
  constexpr auto kPatience = std::chrono::seconds(20);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  context.set_wait_for_ready(true);
  v1::GetModelResponse model;
  const grpc::Status status = stub.GetModel(&context, {}, &model);
  if (!status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        status.error_message());
  }
  if (model.vocab_size() < 2) return absl::InternalError("the model has no vocabulary");
  return model.vocab_size();
}

}  // namespace goldfinch
