// The engine as the scheduler sees it: sequences that own a state slot and pages,
// Forward over a batch of spans of their tokens, and prefixes.
//
// A prefix is a sequence at one position, kept as a value: its recurrent state in host
// memory, its pages shared with whoever else holds them. It never changes, so any number
// of sequences can go on from it; conversations at rest and the prefix cache are made of
// them. Its image is the same without pages: bytes that can leave the device.
//
// Invariants: a sequence's memory is taken whole by Open, OpenBranch or OpenFrom and
// given back by Close, so Forward never runs out of it, and allocates no more than
// results that are returned. A sequence's outputs depend on its own tokens and sampling
// parameters only, bit for bit: not on what shares a batch, how its tokens were cut into
// spans, or whether it goes on from a prefix. Where EngineInfo::prompt_grid is above 1,
// tokens before first_logits are prompt, computed in blocks of that many: then the same
// holds as long as spans of them end at multiples of it, or at first_logits, across which
// no span may reach.
//
// Steps can overlap: while the device runs one, the next is queued (QueueNext), in which
// sequences go on with tokens that nobody has seen yet. When the first has been waited
// for, they are still what it has left: they can be kept as that, and one that has ended
// can be closed, for which the second step then was in vain. The next QueueNext or Wait
// makes the others what the second step leaves.
//
// Threads: one thread at a time calls the non-const methods (the step thread); info()
// may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sampling.h"
#include "engine/token.h"

namespace goldfinch {

// Names one open sequence; reused after Close.
enum class SequenceId : std::int32_t { kNone = -1 };

// Names one kept prefix; reused after Drop.
enum class PrefixId : std::int32_t { kNone = -1 };

// Device memory an engine takes when it is made, by what it is for; of the CPU backend
// that is the host's.
struct DeviceBytes {
  std::int64_t weights = 0;   // and what is worked out from them once
  std::int64_t cache = 0;     // pages of compressed keys
  std::int64_t expanded = 0;  // the arena of expanded keys and values
  std::int64_t state = 0;     // of all slots
  std::int64_t work = 0;      // what a step writes in between
};

// Constant for the life of an engine.
struct EngineInfo {
  std::int32_t vocab_size = 0;
  std::int32_t page_tokens = 0;     // tokens in one page of the cache
  std::int64_t num_pages = 0;       // 0: this model has no cache (no GOLD layers)
  std::int64_t expanded_pages = 0;  // pages that can be expanded at once
  std::int32_t num_slots = 0;       // sequences that can be open at once
  // A step's tokens as they were asked for, or as suits the backend; at most the next.
  std::int32_t step_tokens = 0;
  // Rows in one Forward, to plan for: prompt_grid - 1 more are possible, so that a span
  // can end at the grid.
  std::int32_t max_step_tokens = 0;
  // Where the spans of a prompt may end, see above; 1: anywhere.
  std::int32_t prompt_grid = 1;
  bool runs_ahead = false;    // QueueNext is of use
  std::string compute_dtype;  // "f32" or "bf16"
  // Of the large matrices and of compressed keys; "int8" or "fp8", else compute_dtype.
  std::string weight_dtype = {};
  std::string cache_dtype = {};
  // Backend, whose bits, kernel version, dtypes and page size: equal ids promise equal
  // bits, of one build.
  std::string numerics_id;
  std::string kernels = {};  // what they are for: "avx512", "sm90"
  // What the device's driver refused, so that steps go without it, and why; empty:
  // nothing. No bit depends on it.
  std::string refused = {};
  std::string model_fingerprint;  // 16 hexadecimal digits over config and weights
  std::int64_t state_bytes = 0;   // of one sequence's state: host memory of a prefix
  // Of one compressed key in an image: D/R elements as the cache holds them, in int8
  // followed by a bf16 scale. 0 without GOLD layers.
  std::int64_t key_bytes = 0;
  DeviceBytes device_bytes = {};

  // Pages that `tokens` tokens occupy.
  std::int64_t PagesFor(std::int64_t tokens) const {
    return num_pages == 0 ? 0 : (tokens + page_tokens - 1) / page_tokens;
  }
  // Whether the row at `position`, of a sequence with these first logits, is of the class of
  // prompts (see Engine). Never where prompt_grid is 1.
  bool IsPrompt(std::int64_t position, std::int64_t first_logits) const {
    return prompt_grid > 1 && position < first_logits;
  }
  // Where a span [begin, end) has to be cut for its rows to be of one class.
  std::int64_t SpanEnd(std::int64_t begin, std::int64_t end,
                       std::int64_t first_logits) const {
    return IsPrompt(begin, first_logits) && end > first_logits ? first_logits : end;
  }
  // Of a prefix of `tokens` tokens, pages that who goes on from it copies: 1 if it ends
  // within a page.
  std::int64_t PagesToCopy(std::int64_t tokens) const {
    return num_pages == 0 || tokens % page_tokens == 0 ? 0 : 1;
  }
};

// The arena of expanded keys and values, in pages. The counts are since the start, of
// pages that steps attended to: those that were expanded already, those that were not,
// those that lost their place to another one, and of those that were not, the ones that
// found no place and were expanded for one step alone.
struct ExpandedUsage {
  std::int64_t used = 0;
  std::int64_t hits = 0;
  std::int64_t misses = 0;
  std::int64_t evictions = 0;
  std::int64_t rebuilt = 0;
};

// What Engine::Prepare has done.
struct Preparation {
  std::int64_t expanded = 0;  // tokens
  bool ready = true;  // the span needs no more of it, or there is no room for more
};

struct EngineUsage {
  std::int64_t pages_used = 0;  // by sequences or prefixes
  std::int64_t pages_open = 0;  // of them, by sequences: no Drop can free these
  std::int32_t slots_used = 0;
  ExpandedUsage expanded = {};
};

// What a prefix is, in host memory. Loaded anywhere it continues with the same state, and
// under the same numerics id with the same bits. A view: copies share what it points to.
struct PrefixImage {
  std::int64_t length = 0;  // tokens it holds
  // Of a model with a cache (GOLD layers); empty without, which keeps no tokens.
  std::vector<TokenId> tokens;        // [length]
  std::span<const std::byte> keys;    // [length, EngineInfo::key_bytes]
  std::span<const std::byte> state;   // [EngineInfo::state_bytes], float32
  std::shared_ptr<const void> owner;  // of what keys and state point to

  std::int64_t bytes() const {
    return static_cast<std::int64_t>(tokens.size() * sizeof(TokenId) + keys.size() +
                                     state.size());
  }
};

// What a sequence will need, told when it is opened.
struct SequenceSpec {
  // Tokens the sequence may ever hold; its pages are reserved by this number.
  std::int64_t max_tokens = 0;
  // First position whose logits will be asked for. GOLD layers (G of them) run on the 2G
  // positions up to it and on all later ones, which is all that outputs depend on.
  std::int64_t first_logits = 0;
  // Positions up to first_logits, ascending, at which Keep will be called, each for a
  // prefix that anything can go on from: GOLD layers run on the 2G positions before each
  // as well. No span may reach across one.
  std::vector<std::int64_t> keep_at = {};
  // Tokens sampled before, by the sequence this one goes on from.
  std::int64_t num_generated = 0;
  // Tokens up to and including this position are the prompt to the penalties; tokens
  // the engine samples are the output.
  SamplingParams sampling = {};
};

// What is wanted of a span's rows.
enum class SpanOutput {
  kNone,    // advance the state only
  kSample,  // one token chosen from the logits after the last row
  kScore,   // ScoredToken for rows from `first_output_row`, against `targets`
  kLogits,  // raw logits of rows from `first_output_row`, copied to `logits`
};

// Consecutive tokens of one sequence. A batch holds at most one span of a sequence.
struct Span {
  SequenceId sequence = SequenceId::kNone;
  std::span<const TokenId> tokens;
  SpanOutput output = SpanOutput::kNone;
  // kScore and kLogits: first row, counted in this span, whose logits are wanted; its
  // position is at least the sequence's `first_logits`.
  std::int64_t first_output_row = 0;
  // kScore: the token that follows each wanted row.
  std::span<const TokenId> targets;
  // kLogits: [wanted rows, vocab_size] float32 in host memory.
  std::span<float> logits;
};

// Results of one step, parallel to its batch; their storage can be used again.
struct SpanResult {
  SampledToken sample;              // kSample
  std::vector<ScoredToken> scores;  // kScore, one a target; else empty
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;

  // Takes a slot and pages for spec.max_tokens. RESOURCE_EXHAUSTED, with nothing taken,
  // when they are not free.
  virtual absl::StatusOr<SequenceId> Open(const SequenceSpec& spec) = 0;

  // As Open, for a sequence that will continue `parent` from its position `at`. The
  // parent's full pages before `at` are shared; only the others count. Runs nothing:
  // the branch is empty until Branch().
  virtual absl::StatusOr<SequenceId> OpenBranch(SequenceId parent, std::int64_t at,
                                                const SequenceSpec& spec) = 0;

  // Makes `child`, opened by OpenBranch, a copy of its parent, which must hold exactly
  // `at` tokens. Cannot fail: everything was taken by OpenBranch.
  virtual void Branch(SequenceId child) = 0;

  // Gives back the slot, and the pages that nothing else holds.
  virtual void Close(SequenceId sequence) = 0;

  // Keeps what the sequence holds now; the sequence goes on as before. Takes host memory
  // (EngineInfo::state_bytes), no slot and no page.
  virtual PrefixId Keep(SequenceId sequence) = 0;

  // As Open, for a sequence that goes on from `base`, whose full pages it shares.
  // spec.max_tokens counts the base's tokens. spec.first_logits is not below that of the
  // sequence `base` was kept of, unless it was kept at one of its keep_at or after its
  // first_logits. `history` is read with penalties only: the base's tokens and, where
  // num_generated > 0, the one that was sampled and not fed yet.
  virtual absl::StatusOr<SequenceId> OpenFrom(PrefixId base, const SequenceSpec& spec,
                                              std::span<const TokenId> history) = 0;

  // Pages that are free or held by prefixes only, and that OpenFrom would make a
  // sequence hold.
  virtual std::int64_t PagesToOpen(PrefixId base, std::int64_t max_tokens) const = 0;

  virtual void Drop(PrefixId prefix) = 0;

  // Copies a prefix out; it stays. Equal prefixes give equal bytes. An error is a device
  // fault, now or before: what the device held is lost, and `image` is of no use.
  virtual absl::Status Save(PrefixId prefix, PrefixImage& image) = 0;

  // INVALID_ARGUMENT when the image is not one of this model and cache type. Any thread.
  virtual absl::Status CheckImage(const PrefixImage& image) const = 0;

  // The prefix that `image`, which passes CheckImage, is of. RESOURCE_EXHAUSTED, with
  // nothing taken, when its pages are not free.
  virtual absl::StatusOr<PrefixId> Load(const PrefixImage& image) = 0;

  // A span that attends to a long past whose keys and values are not expanded makes its
  // step as long as expanding them takes. This does part of that before: up to
  // `max_tokens` tokens of what the sequence's next span, of `tokens` tokens, will attend
  // to. Without it, or before it is ready, the span may run as well, with the same bits.
  virtual Preparation Prepare(SequenceId sequence, std::int64_t tokens,
                              std::int64_t max_tokens) = 0;

  // Room for what `sequences`, each there once, attend to in their next step of one
  // token, in their order: how many of them, from the first on, can have all of it
  // expanded at once, where pages that several share count once. At least one, if there
  // is any: by itself that may have no room, and then it does without as it always may.
  // What these have expanded keeps its place in the calls of Prepare up to the next step,
  // which take the places of others.
  virtual std::size_t ReserveExpanded(std::span<const SequenceId> sequences) = 0;

  // Runs every span; results[i] belongs to batch[i]. `results` has batch.size()
  // entries. The total of tokens is at most info().max_step_tokens + info().prompt_grid
  // - 1, and no sequence grows past its max_tokens (our bug otherwise: CHECK). An error
  // is a device fault: the open sequences' contents are then undefined and they can only
  // be closed.
  absl::Status Forward(std::span<const Span> batch, std::span<SpanResult> results) {
    Queue(batch, results);
    return Wait();
  }

  // The two halves of Forward; what `results` points to stays until the second has ended.
  // Between them sequences and prefixes may be kept, saved, dropped and closed, and
  // nothing else is called but QueueNext.
  virtual void Queue(std::span<const Span> batch, std::span<SpanResult> results) = 0;
  virtual absl::Status Wait() = 0;

  // Behind the one step that is queued, queues the next: each of `sequences`, which are
  // some of those that sample in that step, in its order, goes on with the token that it
  // samples there, and samples again: results[i]. Two Waits follow, but after an error of
  // the first, which ends both. False, with nothing queued, where this engine or these
  // sequences cannot.
  virtual bool QueueNext(std::span<const SequenceId> sequences,
                         std::span<SpanResult> results) = 0;

  // Slots and pages in use; used + free = total always. Step thread.
  virtual EngineUsage usage() const = 0;
};

}  // namespace goldfinch
