// Turns a message of the contract into a Request the scheduler can trust, or says what
// is wrong with it. Every bound written in the proto is checked here and nowhere else;
// what depends on the scheduler's own state (queue, pool) is checked by Submit.
//
// Invariant: a Request that comes out has finite numbers inside the contract's bounds,
// token ids inside the vocabulary and at least one prompt token. Sessions come first:
// they answer UNIMPLEMENTED whatever else is wrong.
//
// Threads: pure functions, any (an unset seed is drawn at random).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "goldfinch/v1/generation_service.pb.h"
#include "scheduler/request.h"
#include "server/candidate_text.h"
#include "server/text/tokenizer.h"
#include "server/text/vocabulary.h"

namespace goldfinch {

// What a request is checked against, beside the contract's constants. References
// outlive every call.
struct ServingLimits {
  const Vocabulary& vocabulary;
  const Tokenizer& tokenizer;
  std::int64_t max_context_tokens = 0;
  std::int64_t default_max_tokens = 0;
};

// A valid Generate call.
struct GenerateCall {
  Request request;  // without its deadline
  TextOptions text;
  std::vector<std::string> stop;  // as given, for matched_stop
};

absl::StatusOr<GenerateCall> ValidateGenerate(const v1::GenerateRequest& request,
                                              const ServingLimits& limits);

// The request's prompt is the context (end of text when it is empty), its continuation
// what is scored.
absl::StatusOr<Request> ValidateScore(const v1::ScoreRequest& request,
                                      const ServingLimits& limits);

// Every id of `ids`, called `name` in the message, is in the vocabulary.
absl::Status ValidateTokens(absl::string_view name,
                            const google::protobuf::RepeatedField<std::int32_t>& ids,
                            const Vocabulary& vocabulary);

}  // namespace goldfinch
