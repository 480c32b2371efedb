// What a request takes of the engine's memory for its whole life, and whether that can
// ever be had. A pure function of its lengths.
//
// Candidates share the full pages of the prompt's first P - 1 tokens (P: prompt length),
// which are counted once; each candidate runs the last prompt token by itself. The last
// generated token is never fed back, so P + max_tokens - 1 tokens are held at most; of a
// scored continuation neither is the last one. A base counts as if it were fed (its pages
// are shared with it), and for one page more: its last one, partly filled, is copied.
//
// Threads: pure functions.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "scheduler/request.h"

namespace goldfinch {

struct RequestNeeds {
  std::int64_t slots = 0;
  std::int64_t pages = 0;
  std::int64_t prompt_tokens = 0;    // P: the base's history included
  std::int64_t sequence_tokens = 0;  // SequenceSpec::max_tokens of each sequence
};

// The prompt's length with the base's history before it, without what a generation that
// goes on has generated.
std::int64_t PromptTokens(const Request& request);

// Tokens the request brings to be fed before its answer begins: what its base has not run
// (one token, or all of a history that was imported or interrupted), its prompt, and what
// is scored but for the last token. What a prefix cache may know is not looked at: these
// are what waits in the queue, and what a tenant's rate is charged. A function of what
// never changes in a request, so what is charged can be given back.
std::int64_t TokensToFeed(const Request& request);

// INVALID_ARGUMENT, naming the value and the limit, when the request could not run even
// with the whole engine to itself, or could not be resumed there.
absl::StatusOr<RequestNeeds> NeedsOf(const Request& request, const EngineInfo& engine,
                                     std::int64_t max_context_tokens);

}  // namespace goldfinch
