// An engine without a model: instant, and as strict about its contract as it can be.
//
// The next token is a hash of every token of the sequence so far, the seed and the
// candidate, so a wrong, lost or repeated token changes everything after it. Pages are
// numbered and reference counted as in the real pool. Whatever engine.h calls our bug is
// a CHECK here: a span past max_tokens or across a keep_at, outputs before first_logits,
// two spans of one sequence, a branch at the wrong place, a sequence opened while a step
// is queued, a prefix that goes on where its
// GOLD layers have not run (as if there were one), anything but Close after a fault, with
// a prompt_grid a span that ends off it in the midst of a prompt. So
// is a page or a slot that is neither used nor free, which usage() looks for.
//
// Threads: as Engine; the controls for tests may be called from any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/gold_rows.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

struct FakeEngineOptions {
  std::int32_t vocab_size = 1000;
  std::int32_t page_tokens = 16;
  std::int64_t num_pages = 1024;
  std::int32_t num_slots = 64;
  std::int32_t max_step_tokens = 512;
  std::int64_t state_bytes = sizeof(std::uint64_t);  // what is more is only there
  const char* numerics_id = "fake";
  std::int32_t prompt_grid = 1;  // tokens of whole blocks enter the hash in their own way
  bool expands = false;          // Prepare has something to do: every sequence's own past
  std::int64_t expanded_pages = 0;  // of EngineInfo
  bool expands_in_vain = false;  // and it is always gone again
  bool runs_ahead = false;       // results are told by Wait
  bool broken_logits = false;    // log-probabilities are not finite
};

class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(const FakeEngineOptions& options = {});

  const EngineInfo& info() const override { return info_; }
  absl::StatusOr<SequenceId> Open(const SequenceSpec& spec) override;
  absl::StatusOr<SequenceId> OpenBranch(SequenceId parent, std::int64_t at,
                                        const SequenceSpec& spec) override;
  void Branch(SequenceId child) override;
  void Close(SequenceId sequence) override;
  PrefixId Keep(SequenceId sequence) override;
  absl::StatusOr<SequenceId> OpenFrom(PrefixId base, const SequenceSpec& spec,
                                      std::span<const TokenId> history) override;
  std::int64_t PagesToOpen(PrefixId base, std::int64_t max_tokens) const override;
  void Drop(PrefixId prefix) override;
  absl::Status Save(PrefixId prefix, PrefixImage& image) override;
  absl::Status CheckImage(const PrefixImage& image) const override;
  absl::StatusOr<PrefixId> Load(const PrefixImage& image) override;
  Preparation Prepare(SequenceId sequence, std::int64_t tokens,
                      std::int64_t max_tokens) override;
  std::size_t ReserveExpanded(std::span<const SequenceId> sequences) override;
  void Queue(std::span<const Span> batch, std::span<SpanResult> results) override;
  bool QueueNext(std::span<const SequenceId> sequences,
                 std::span<SpanResult> results) override;
  absl::Status Wait() override;
  EngineUsage usage() const override;

  // What a sequence of this prompt samples, worked out without the engine: the first
  // `count` tokens.
  static std::vector<TokenId> Expected(std::span<const TokenId> prompt,
                                       const SamplingParams& sampling, std::int64_t count,
                                       std::int32_t vocab_size = 1000,
                                       std::int64_t prompt_grid = 1);
  static std::vector<ScoredToken> ExpectedScores(std::span<const TokenId> context,
                                                 std::span<const TokenId> continuation,
                                                 std::int64_t prompt_grid = 1);

  // The k-th Open or OpenBranch from now (1: the next) fails with `status`.
  void FailOpen(int k, absl::Status status);
  // The k-th step from now fails with `status`.
  void FailForward(int k, absl::Status status);
  // Every Save from now on fails with `status`, until it is OK again.
  void FailSaves(absl::Status status);
  // Called when a step is queued, on the step thread.
  void SetForwardHook(std::function<void(std::span<const Span>)> hook);

  // The next step stops inside Queue until Release().
  void BlockForward();
  void WaitUntilBlocked();
  void Release();

  std::int64_t num_forwards() const;
  std::int64_t num_saves() const { return num_saves_; }  // step thread
  // Of them, those that were queued behind another one. Step thread.
  std::int64_t num_queued_next() const { return num_queued_next_; }
  // Most tokens of pasts that one call of Forward or Prepare expanded. Step thread.
  std::int64_t most_expanded() const { return most_expanded_; }
  // Most pages, shared ones once, that one step's decoding sequences attended to, without
  // those whose past has no room by itself. Step thread.
  std::int64_t most_attended() const { return most_attended_; }

 private:
  struct Sequence {
    SequenceSpec spec;
    std::vector<std::int64_t> pages;  // names of the pages it holds, shared ones first
    std::vector<TokenId> tokens;
    std::int64_t num_tokens = 0;
    std::uint64_t hash = 0;                       // of its tokens
    std::int64_t block_begin = 0, block_end = 0;  // positions in the span of whole blocks
    GoldRows gold;
    std::int64_t num_sampled = 0;
    std::int64_t num_expanded = 0;
    SequenceId parent = SequenceId::kNone;  // until Branch
    std::int64_t branch_at = 0;
    bool lost = false;  // open during a fault: good for Close only
  };
  struct Kept {
    std::vector<std::int64_t> pages;
    std::int64_t num_tokens = 0;
    std::vector<TokenId> tokens;  // none when it was loaded by a model without pages
    std::uint64_t hash = 0;
    GoldRows gold;
  };
  // Between Queue and Wait.
  struct Step {
    absl::Status status;
    std::span<SpanResult> results;
    std::vector<SpanResult> found;  // what they will be
    std::vector<SequenceId> sequences;
    std::map<SequenceId, Sequence> next;  // what open sequences become, if it ran ahead
  };
  struct Failure {
    int countdown = 0;  // fails when it gets to 0
    absl::Status status;
  };

  void Settle(Step& step);
  Sequence& Find(SequenceId id);
  const Kept& Find(PrefixId id) const;
  absl::StatusOr<SequenceId> Take(Sequence sequence, std::int64_t new_pages);
  void TakePages(std::int64_t count, std::vector<std::int64_t>& pages);
  void ReleasePages(const std::vector<std::int64_t>& pages);
  std::int64_t FullPages(const Kept& kept) const;
  bool IsOpen(std::int64_t page) const {
    return open_references_[static_cast<std::size_t>(page)] > 0;
  }
  static absl::Status CountDown(std::optional<Failure>& failure);
  absl::Status NoteForward(std::span<const Span> batch);
  void NoteAttended(std::span<const Span> batch);
  // The pages that the sequence's next token attends to.
  std::span<const std::int64_t> Attended(const Sequence& sequence) const;
  bool RunsGold(const Sequence& sequence, std::int64_t tokens) const;
  void Expand(Sequence& sequence, std::int64_t tokens);
  void Advance(Sequence& sequence, const Span& span);
  void PlaceBlocks(Sequence& sequence, const Span& span) const;
  void Feed(Sequence& sequence, TokenId token) const;
  void RunSpan(const Span& span, SpanResult& result);
  void Sample(Sequence& sequence, SpanResult& result) const;
  void Score(Sequence& sequence, const Span& span, SpanResult& result);

  const FakeEngineOptions options_;
  const EngineInfo info_;

  // Owned by the step thread.
  std::map<SequenceId, Sequence> sequences_;
  std::deque<Step> steps_;  // at most two
  std::int64_t num_queued_next_ = 0;
  std::int64_t num_saves_ = 0;
  std::map<PrefixId, Kept> prefixes_;
  std::int32_t last_prefix_ = -1;
  std::int64_t expanded_ = 0;  // by the Forward that runs
  std::int64_t most_expanded_ = 0;
  std::int64_t most_attended_ = 0;
  std::set<SequenceId> free_slots_;
  std::vector<int> page_references_;  // by page
  std::vector<int> open_references_;  // by page: from sequences
  std::vector<std::int64_t> free_pages_;

  mutable Mutex mu_;
  CondVar changed_;
  std::optional<Failure> fail_open_ ABSL_GUARDED_BY(mu_);
  std::optional<Failure> fail_forward_ ABSL_GUARDED_BY(mu_);
  absl::Status fail_saves_ ABSL_GUARDED_BY(mu_);
  std::function<void(std::span<const Span>)> hook_ ABSL_GUARDED_BY(mu_);
  bool block_ ABSL_GUARDED_BY(mu_) = false;
  bool blocked_ ABSL_GUARDED_BY(mu_) = false;
  std::int64_t num_forwards_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace goldfinch
