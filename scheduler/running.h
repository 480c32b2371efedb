// A request that holds memory in the engine: which tokens it still has to feed, what its
// results mean, and when its candidates end.
//
// Life of a generation: the prompt is fed in chunks to candidate 0's sequence, the
// parent. Alone, it samples from the last prompt token. With other candidates it stops
// one token short, the others branch off there, and each feeds the last prompt token by
// itself, as it later feeds the tokens it samples. Scoring feeds context and continuation
// as one prompt and collects scores on the way; pre-filling feeds all but the last token.
//
// Where the engine computes prompts in blocks, every prompt stops one token short, and
// that token is fed by itself.
//
// What a base has run already is not fed. On the way, prefixes are kept for the prefix
// cache; at the end, the sequence is kept for who asked for it.
//
// A request can be put aside, which other servers call preempted: its sequences are
// closed, and what they held is kept like any prefix, so it counts as free. It goes on
// later with the same bits, whatever became of its pages meanwhile.
//
// Invariant: every sequence is closed exactly once, by the end of its candidate, by
// PutAside() or by Close(). on_end is called exactly once. Spans point into this object,
// which therefore does not move.
//
// Threads: the step thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "scheduler/clock.h"
#include "scheduler/inbox.h"
#include "scheduler/observer.h"
#include "scheduler/plan.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/prefix_keeper.h"
#include "scheduler/request.h"
#include "scheduler/request_info.h"

namespace goldfinch {

// What the requests of one scheduler share.
struct RunningContext {
  Engine& engine;
  PrefixKeeper& keeper;
  PrefixCache& cache;
};

// What admission found out about a request.
struct AdmittedFrom {
  std::shared_ptr<KeptPrefix> base;   // what it goes on from, on the device; or null
  std::vector<std::int64_t> keep_at;  // keep_points.h
};

enum class Grant {
  kGranted,
  kNoRoom,   // until something that runs has ended, or was put aside
  kCopying,  // prefixes are being moved out of the way; the next step goes on
};

SequenceSpec SequenceSpecOf(const AcceptedRequest& accepted,
                            std::span<const std::int64_t> keep_at,
                            std::int32_t candidate);

// Opens a sequence that goes on from `base`, on the device, or from nothing when that is
// null or of no tokens. `tokens` begin with the base's.
absl::StatusOr<SequenceId> OpenOn(const RunningContext& context, KeptPrefix* base,
                                  const SequenceSpec& spec,
                                  std::span<const TokenId> tokens);

// Opens all sequences the request needs, the parent first; on an error none is open.
absl::StatusOr<std::vector<SequenceId>> OpenSequences(const RunningContext& context,
                                                      const AcceptedRequest& accepted,
                                                      const AdmittedFrom& from);

class RunningRequest {
 public:
  // `sequences` come from OpenSequences. What they go on from is let go of: of what only
  // the cache holds, nothing is moved out of the way for a request that has its copy.
  RunningRequest(const RunningContext& context, std::unique_ptr<AcceptedRequest> accepted,
                 const AdmittedFrom& from, const std::vector<SequenceId>& sequences,
                 TimePoint now);
  RunningRequest(const RunningRequest&) = delete;
  RunningRequest& operator=(const RunningRequest&) = delete;
  ~RunningRequest();

  const AcceptedRequest& accepted() const { return *accepted_; }
  TokenStream& stream() const { return *accepted_->stream; }

  // Whether the stream takes what one step can produce, as found by UpdatePaused().
  bool paused() const { return paused_; }
  void UpdatePaused();

  // Some of its prompt has not been through the model, and could be.
  bool feeds_prompt() const { return Prefilling() && !paused_; }

  // Whether the engine could bring it back with all of its memory to itself: several
  // candidates no longer share pages once they have been moved to host memory.
  bool CanBePutAside() const;
  void PutAside();
  // Host memory that it takes aside, once what it leaves on the device has had to make
  // room as well. The same before it is put aside and after.
  std::int64_t BytesAside() const;
  // Takes memory as admission does, and goes on. Not kGranted: it is still aside.
  absl::StatusOr<Grant> Resume();
  // The scheduler's count of engine steps when it last came back; none if it never did.
  std::optional<std::uint64_t> resumed_in() const { return resumed_in_; }
  void set_resumed_in(std::uint64_t step) { resumed_in_ = step; }

  // Which candidate of this request stands behind a PlanSequence.
  struct Member {
    RunningRequest* request = nullptr;
    std::int32_t candidate = 0;
  };

  // Appends every sequence that could run, in parallel to both vectors.
  void AppendTo(std::vector<PlanSequence>& sequences, std::vector<Member>& members);

  // A decoding candidate's next `tokens` tokens have a place in the arena (plan.h).
  void GivePlace(std::int32_t candidate, std::int64_t tokens) {
    candidates_[static_cast<std::size_t>(candidate)].place_left = tokens;
  }

  // The next `tokens` tokens of a candidate as a span; TakeResult must follow it.
  Span MakeSpan(std::int32_t candidate, std::int64_t tokens) const;

  // Who is told of a result, which turn it was (plan.h), and when.
  struct Turn {
    SchedulerObserver& observer;
    std::uint64_t number;
    TimePoint now;
  };

  // Whether the candidate's next `tokens` tokens may run in this `step`: if they attend
  // to a past that is not expanded, a part of that is done first, and taken from `left`,
  // the tokens that this step may still expand.
  bool Prepare(std::int32_t candidate, std::int64_t tokens, std::uint64_t step,
               std::int64_t& left);

  // The sequence that the candidate's next token goes to; none if it has ended.
  SequenceId sequence(std::int32_t candidate) const {
    return candidates_[static_cast<std::size_t>(candidate)].sequence;
  }
  // Whether the token that a decoding candidate samples next is its last in any case.
  bool EndsWithNext(std::int32_t candidate) const;
  // Whether the stream takes what two steps produce.
  bool HasRoomAhead() const;

  // Publishes what the span made by MakeSpan(candidate, tokens) has produced.
  void TakeResult(std::int32_t candidate, std::int64_t tokens, SpanResult& result,
                  const Turn& turn);

  // Every candidate has finished, or everything is scored.
  bool finished() const { return unfinished_ == 0; }

  std::int64_t num_open_sequences() const;

  // How a request that has not finished is ended.
  enum class Leaving {
    kEnded,        // cancelled, late: what was generated is kept
    kInterrupted,  // to be resumed: kept wherever it is
    kLost,         // the device failed: there is nothing to keep
  };
  // Keeps what is to be kept, tells on_end, and closes what is still open.
  void Leave(const absl::Status& status, Leaving leaving);

  // As it is now.
  RequestInfo Info(TimePoint now) const;

  // The report of a request ending with `status` now.
  RequestReport Report(absl::Status status, TimePoint now) const;

 private:
  struct Candidate {
    SequenceId sequence = SequenceId::kNone;
    TokenId next = 0;  // to be fed by its next step, while it decodes
    std::int64_t generated = 0;
    std::uint64_t last_turn = 0;
    std::int64_t place_left = 0;  // plan.h
    std::uint64_t ran_in = 0;   // step
    std::int64_t prepared = 0;  // tokens expanded since
    TimePoint first_token;      // of this run, as the last
    TimePoint last_token;
    std::unique_ptr<StopCondition> stop;
    bool finished = false;
    std::vector<TokenId> tokens;        // generated, beside other candidates
    std::shared_ptr<KeptPrefix> aside;  // while aside, if anything has been fed
  };
  struct Finish {
    FinishReason reason = FinishReason::kStop;
    StopMatch match;
  };

  bool Prefilling() const { return fed_ < prefill_; }
  bool UsesCache() const;
  bool CanBeCached(std::int64_t length) const;
  std::int64_t FeedUntil() const;
  void KeepForCache(std::int64_t length);
  bool Decodes() const { return !Prefilling() && prefill_ >= prompt_tokens_; }
  std::vector<TokenId> TakeFedTokens();
  // At its end, which needs no tokens any more.
  std::shared_ptr<KeptPrefix> KeepAll();
  // Aside, it is one prefix: a prompt that is being fed, or a lone candidate.
  bool IsOne() const { return Prefilling() || candidates_.size() == 1; }
  std::int64_t HistoryLength(const Candidate& candidate) const;
  std::int64_t LengthAside(const Candidate& candidate) const;
  std::shared_ptr<KeptPrefix> Freeze(const Candidate& candidate);
  Grant MakeRoomForOne();
  Grant MakeRoomForCandidates();
  SequenceSpec SpecOf(std::size_t candidate) const;
  absl::StatusOr<SequenceId> OpenAside(std::size_t candidate);
  void TellEnd(absl::Status status, bool interrupted);
  void Close();
  Span PrefillSpan(std::int64_t tokens) const;
  void FinishPrefill(TimePoint now);
  void TakeToken(std::int32_t index, SampledToken sample, const Turn& turn);
  void TakeScores(SpanResult& result, const Turn& turn);
  void NoteToken(Candidate& candidate, const Turn& turn);
  std::optional<Finish> FinishOf(Candidate& candidate, TokenId token) const;
  void CloseSequence(Candidate& candidate);
  std::int64_t NumScored() const;
  RequestUsage Usage(std::int64_t generated, TimePoint now) const;

  const RunningContext context_;
  Engine& engine_;
  const std::unique_ptr<AcceptedRequest> accepted_;
  const std::vector<std::int64_t> keep_at_;
  const KeptPrefix::Origin origin_;   // of all that its sequences hold
  const std::int64_t cached_tokens_;  // which had run before it began
  const std::int64_t prompt_tokens_;
  const TimePoint admitted_;
  // By position: the prompt, the base's history first; then, when scoring, the
  // continuation, and for a single candidate what it generates.
  std::vector<TokenId> fed_tokens_;
  PrefixCache::Handle last_entry_;  // of the beginning of those tokens
  std::int64_t prefill_ = 0;  // tokens the parent feeds before anything decodes
  std::int64_t fed_ = 0;      // of those; the base's to begin with
  std::vector<Candidate> candidates_;
  std::int64_t unfinished_ = 0;
  std::vector<ScoredToken> scores_;
  std::optional<TimePoint> first_token_;
  FinishReason first_reason_ = FinishReason::kStop;  // of candidate 0
  StopMatch first_match_;                            // the same
  std::vector<SampledToken> sampled_;                // RequestEnd::sampled
  std::shared_ptr<KeptPrefix> kept_;
  bool end_told_ = false;
  bool paused_ = false;
  bool aside_ = false;
  std::optional<std::uint64_t> resumed_in_;
};

}  // namespace goldfinch
