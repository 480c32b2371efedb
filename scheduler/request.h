// What the scheduler is asked for and what it answers: lengths, limits and tokens, never
// text.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/sampling.h"
#include "engine/token.h"
#include "scheduler/kept_prefix.h"
#include "scheduler/tenant_meter.h"
#include "scheduler/tenant_policy.h"

namespace goldfinch {

// Decides on the step thread whether a candidate's output has reached a stop string.
// The server implements it over text; here it is only a predicate on tokens, so the
// place where a sequence ends is a function of its tokens and of nothing else.
class StopCondition {
 public:
  virtual ~StopCondition() = default;

  // Takes the next generated token; returns the index of the stop string it completed,
  // or -1. Called once for every token, in order; must take microseconds. Nothing stops
  // a candidate within its first min_tokens tokens (stop tokens are banned there), so
  // what Push returns for those is ignored and the following tokens are pushed as usual.
  virtual int Push(TokenId token) = 0;
};

// What ends a call that comes too late, or whose server does not wait for it.
inline absl::Status ShuttingDown() {
  return absl::UnavailableError("the server is shutting down");
}

// Names a request to Scheduler::Cancel; never reused.
enum class RequestId : std::uint64_t {};

enum class RequestKind {
  kGenerate,
  kScore,
  kPrefill,  // runs all of the prompt but its last token, and keeps the result
};

enum class FinishReason {
  kStop,    // a stop string, a stop token or end of text
  kLength,  // max_tokens reached
};

// Which of several things ended a candidate with kStop.
struct StopMatch {
  enum class Kind { kNone, kEos, kStopToken, kStopString };  // kEos: end of text
  Kind kind = Kind::kNone;
  TokenId token = 0;        // kStopToken
  std::int32_t index = -1;  // kStopString: which one
};

// What a request that keeps its sequence leaves behind.
struct RequestEnd {
  absl::Status status;
  // The base's history, the prompt and every token generated. Null when the conversation
  // is as it was before the request: nothing was generated, or the device failed.
  std::shared_ptr<KeptPrefix> kept;
  // Interrupt or Shutdown ended it, perhaps within its prompt: `kept` and the request's
  // own fields are enough to go on with the very next token.
  bool interrupted = false;
  // kGenerate: how many of the history's last tokens the request generated, the resumed
  // ones included; with logprobs asked for, what this run sampled.
  std::int64_t num_generated = 0;
  std::vector<SampledToken> sampled;
  FinishReason finish_reason = FinishReason::kStop;  // when status is OK
  StopMatch stop;
};

// One call, already validated against the contract's bounds by the server. The
// scheduler checks what depends on its own limits (see Scheduler::Submit).
struct Request {
  RequestKind kind = RequestKind::kGenerate;
  // At least one token, `base` included.
  std::vector<TokenId> prompt;
  // The request goes on from here: the base's history comes before `prompt`. Null: from
  // nothing. Not with kScore, nor with several candidates.
  std::shared_ptr<KeptPrefix> base;
  std::string tenant;                          // the prefix cache is one for each
  std::shared_ptr<const TenantPolicy> policy;  // null: defaults
  std::shared_ptr<TenantMeter> meter;          // null: nobody counts
  bool use_prefix_cache = false;               // to read and to write; without a base
  // Among a tenant's waiting requests the highest goes first, equals first come first
  // served.
  std::int32_t priority = 0;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  // When its call came, which may have had to wait for its session since; none: at
  // Submit. Times are told from then on; limits of waiting count from Submit, before
  // which nobody could have taken its turn.
  std::optional<std::chrono::steady_clock::time_point> arrived;

  // Called once on the step thread when the request, if it was accepted, has ended, and
  // before its stream tells so; returns quickly. With it, one candidate's sequence is
  // kept.
  std::function<void(RequestEnd)> on_end;
  bool keeps_only_interrupted = false;  // RequestEnd::kept is wanted for nothing else

  // kGenerate.
  // The request goes on with a generation that was interrupted: so many of the base's
  // last tokens are its output so far, and `prompt` is empty.
  std::int64_t num_generated = 0;
  std::int64_t max_tokens = 0;      // at least 1, per candidate; resumed ones included
  std::int32_t num_candidates = 1;  // candidate i samples with sampling.candidate = i
  SamplingParams sampling;
  std::vector<TokenId> stop_token_ids;  // sorted; ends a candidate, reported as kStop
  bool ignore_eos = false;              // else end of text ends a candidate, as kStop
  // Makes the stop condition of one candidate; empty: none.
  std::function<std::unique_ptr<StopCondition>()> make_stop_condition;

  // kScore: the tokens whose log-probabilities are wanted, at least one.
  std::vector<TokenId> continuation;
};

// Times are durations since Request::arrived.
struct RequestUsage {
  std::int64_t prompt_tokens = 0;         // the base's history included
  std::int64_t cached_prompt_tokens = 0;  // taken from a prefix cache instead of computed
  std::int64_t generated_tokens = 0;      // of this candidate
  std::int64_t scored_tokens = 0;         // kScore: of the continuation
  std::chrono::nanoseconds queue_time{0};
  std::chrono::nanoseconds first_token_time{0};
  std::chrono::nanoseconds total_time{0};
};

// One entry of a request's stream, in the order of its candidate's tokens. The token that
// ends a candidate (a stop token, end of text) has its kToken event too, and counts in
// generated_tokens; whether to show it is the reader's business.
struct StreamEvent {
  // kFilled: a kPrefill's prompt has run.
  enum class Kind { kToken, kFinished, kScores, kFilled };
  Kind kind = Kind::kToken;
  std::int32_t candidate = 0;

  SampledToken sample;  // kToken

  FinishReason finish_reason = FinishReason::kStop;  // kFinished
  StopMatch stop;
  RequestUsage usage;  // but with kToken

  std::vector<ScoredToken> scores;  // kScores: one a token of the continuation
};

}  // namespace goldfinch
