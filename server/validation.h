// Turns a message of the contract into a Request the scheduler can trust, or says what
// is wrong with it. Every bound that the proto writes of what becomes a Request is
// checked here and nowhere else; what depends on the scheduler's own state (queue, pool)
// is checked by Submit.
//
// Invariant: a Request that comes out has finite numbers inside the contract's bounds,
// token ids inside the vocabulary and at least one prompt token, the history of the
// session it goes on from included.
//
// A call on a session is complete only when the session is at hand: then its generation
// is fitted to the history, or made from what the session remembers of the last one.
//
// Threads: pure functions, any (an unset seed is drawn at random).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "goldfinch/v1/generation_service.pb.h"
#include "scheduler/request.h"
#include "server/candidate_text.h"
#include "server/text/tokenizer.h"
#include "server/text/vocabulary.h"
#include "sessions/snapshot.h"

namespace goldfinch {

// What a request is checked against, beside the contract's constants. References
// outlive every call.
struct ServingLimits {
  const Vocabulary& vocabulary;
  const Tokenizer& tokenizer;
  std::int64_t max_context_tokens = 0;
  std::int64_t default_max_tokens = 0;
  std::int64_t max_message_bytes = 0;  // of an answer
};

// A valid Generate call.
struct GenerateCall {
  Request request;  // without its deadline
  TextOptions text;
  std::vector<std::string> stop;  // as given, for matched_stop
  std::string session;            // to go on from; empty: none
  // Of `session`, tells its last generation from here on; all else is unset then.
  std::optional<std::int64_t> resume_after;
  bool sets_max_tokens = false;
};

absl::StatusOr<GenerateCall> ValidateGenerate(const v1::GenerateRequest& request,
                                              const ServingLimits& limits);

// The call, with a session, now that its history is known to have `history_tokens`.
absl::Status FitToHistory(std::int64_t history_tokens, const ServingLimits& limits,
                          GenerateCall& call);

// What a session remembers of a call's generation, and the call it makes again: with
// `generated`, its tokens so far. DATA_LOSS when no call can have left this turn. Whether
// it fits into this server's context is not asked: one that has ended need not.
Turn TurnOf(const GenerateCall& call);
absl::StatusOr<GenerateCall> CallOf(const Turn& turn, std::span<const TokenId> generated,
                                    const ServingLimits& limits);

// The ids of a text or of a list of ids, whichever is set (of both, neither).
absl::StatusOr<std::vector<TokenId>> ReadTokens(absl::string_view name,
                                                const std::string* text,
                                                const v1::TokenIds* ids,
                                                const ServingLimits& limits);

// The request's prompt is the context (end of text when it is empty), its continuation
// what is scored.
absl::StatusOr<Request> ValidateScore(const v1::ScoreRequest& request,
                                      const ServingLimits& limits);

// Entries on a page: `unset` when none are asked for.
absl::StatusOr<std::size_t> ReadPageSize(std::int32_t page_size, std::int32_t unset = 100,
                                         std::int32_t max = 1000);

// What is wrong with a page_token that no listing gave.
absl::Status BadPageToken();

// `bytes` are no more than an answer may have; INVALID_ARGUMENT for the request that asks
// for it.
absl::Status ValidateAnswerBytes(std::int64_t bytes, const ServingLimits& limits);

absl::Status ValidatePriority(std::int32_t priority);

// Every id of `ids`, called `name` in the message, is in the vocabulary.
absl::Status ValidateTokens(absl::string_view name,
                            const google::protobuf::RepeatedField<std::int32_t>& ids,
                            const Vocabulary& vocabulary);

}  // namespace goldfinch
