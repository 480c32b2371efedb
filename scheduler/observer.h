// What the scheduler tells about itself while it works. The server turns it into
// metrics; the default ignores it.
//
// Called on the step thread (OnRefused: on the submitting thread), so it must only bump
// counters: no locks that a scrape holds, no I/O.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "scheduler/request.h"

namespace goldfinch {

// What a prompt found in the prefix cache, or why nothing.
enum class PrefixLookup {
  kNone,  // not asked: no cache, a conversation's own history, a prompt too short
  kHit,
  kCold,          // nothing that begins like it
  kNotKeptThere,  // its beginning was seen, but no state was kept on the way
  kEvicted,       // one was kept there, and went for want of space
};

// Levels after a step.
struct SchedulerLevels {
  std::int64_t running_requests = 0;
  std::int64_t running_sequences = 0;
  std::int64_t waiting_sequences = 0;  // of them, that decode and wait for their turn
  std::int64_t waiting_requests = 0;
  std::int64_t waiting_tokens = 0;      // prompt tokens of waiting requests
  std::int64_t aside_requests = 0;      // that ran, and were put aside for others
  std::int64_t aside_bytes = 0;         // host memory that those may come to take
  std::int64_t paused_requests = 0;     // running, but their reader is slow
  std::int64_t prefixes_on_device = 0;  // conversations and entries of the prefix cache
  std::int64_t prefix_cache_entries = 0;
  std::int64_t prefix_cache_bytes = 0;  // host memory
  // Since the start: entries that went because the budget was full, and because their
  // pages were wanted or their session came to rest.
  std::uint64_t prefix_cache_evictions = 0;
  std::uint64_t prefix_cache_forgotten = 0;
  std::uint64_t put_aside = 0;  // requests, each time
  EngineUsage engine;
};

// One step of the engine, and what was prepared before it. Without sequences, only that,
// or one that was of no use: everybody in it had ended when it was queued.
struct StepReport {
  std::chrono::nanoseconds duration{0};
  std::int64_t prompt_tokens = 0;
  std::int64_t decode_tokens = 0;
  std::int64_t sequences = 0;
};

// How one request ended; exactly one a request that was accepted.
struct RequestReport {
  RequestKind kind = RequestKind::kGenerate;
  absl::Status status;
  FinishReason finish_reason = FinishReason::kStop;  // of candidate 0, when status is OK
  RequestUsage usage;  // generated_tokens: of all candidates; scored_tokens: so far
  // Of the prompt, what has run or was cached: all of it, unless the request ended within
  // it, or in the queue.
  std::int64_t read_prompt_tokens = 0;
  // Admission to the first token, the scores, or the end of what is nothing but a prompt;
  // none when it ended before.
  std::optional<std::chrono::nanoseconds> prefill_time;
  // Mean over all tokens that followed another one of their candidate; none if none did.
  std::optional<std::chrono::nanoseconds> time_per_token;
};

class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  virtual void OnLevels(const SchedulerLevels&) {}
  virtual void OnStep(const StepReport&) {}
  virtual void OnFirstToken(std::chrono::nanoseconds /*since_arrival*/) {}
  virtual void OnInterToken(std::chrono::nanoseconds /*since_last_token*/) {}
  virtual void OnPrefixLookup(PrefixLookup) {}
  virtual void OnFinished(const RequestReport&) {}
  virtual void OnRefused(const absl::Status&) {}
  // Engine calls that failed, with the details that clients are not told.
  virtual void OnEngineError(const absl::Status&) {}
};

}  // namespace goldfinch
