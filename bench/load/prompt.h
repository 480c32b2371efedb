// Requests made up of numbers.
//
// Threads: pure functions.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"

namespace goldfinch {

struct RequestShape {
  std::int64_t prompt_tokens = 0;
  std::int64_t max_tokens = 0;
  std::int32_t priority = 0;
  std::int32_t vocab_size = 0;
};

// A prompt of random tokens, and an end at the last token asked for, whatever comes: the
// same for the same seed and number, and no beginning in common with another one, so no
// cache of prefixes helps.
v1::GenerateRequest MakeRequest(const RequestShape& shape, std::uint64_t seed,
                                std::uint64_t number);

// From the server that `stub` leads to.
absl::StatusOr<std::int32_t> VocabularySize(v1::GenerationService::Stub& stub);

}  // namespace goldfinch
