// The engine as the scheduler sees it: sequences that own a state slot and pages, and
// Forward over a batch of spans of their tokens.
//
// Invariants: a sequence's memory is taken whole by Open or OpenBranch and given back
// by Close, so Forward never runs out of it and never allocates. A sequence's outputs
// depend on its own tokens and sampling parameters only, bit for bit: not on what
// shares a batch, nor on how its tokens were cut into spans.
//
// Threads: one thread at a time calls the non-const methods (the step thread); info()
// may be called from any thread.
#pragma once

#include <cstdint>
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

// Constant for the life of an engine.
struct EngineInfo {
  std::int32_t vocab_size = 0;
  std::int32_t page_tokens = 0;      // tokens in one page of the cache
  std::int64_t num_pages = 0;        // 0: this model has no cache (no GOLD layers)
  std::int32_t num_slots = 0;        // sequences that can be open at once
  std::int32_t max_step_tokens = 0;  // rows in one Forward
  std::string compute_dtype;         // "f32" or "bf16"
  // Backend, instruction-set path, kernel version, dtypes and page size: equal ids
  // promise equal bits.
  std::string numerics_id;
  std::string model_fingerprint;  // 16 hexadecimal digits over config and weights

  // Pages that `tokens` tokens occupy.
  std::int64_t PagesFor(std::int64_t tokens) const {
    return num_pages == 0 ? 0 : (tokens + page_tokens - 1) / page_tokens;
  }
};

struct EngineUsage {
  std::int64_t pages_used = 0;
  std::int32_t slots_used = 0;
};

// What a sequence will need, told when it is opened.
struct SequenceSpec {
  // Tokens the sequence may ever hold; its pages are reserved by this number.
  std::int64_t max_tokens = 0;
  // First position whose logits will be asked for. GOLD layers (G of them) run on the 2G
  // positions up to it and on all later ones, which is all that outputs depend on.
  std::int64_t first_logits = 0;
  // Tokens up to and including this position are the prompt to the penalties; tokens
  // the engine samples are the output.
  SamplingParams sampling;
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

// Results of one Forward, parallel to its batch; the storage is reused by the next one.
struct SpanResult {
  SampledToken sample;              // kSample
  std::vector<ScoredToken> scores;  // kScore, one a target
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

  // Gives back the slot and the pages no other sequence shares.
  virtual void Close(SequenceId sequence) = 0;

  // Runs every span; results[i] belongs to batch[i]. `results` has batch.size()
  // entries. The total of tokens is at most info().max_step_tokens and no sequence
  // grows past its max_tokens (our bug otherwise: CHECK). An error is a device fault:
  // the open sequences' contents are then undefined and they can only be closed.
  virtual absl::Status Forward(std::span<const Span> batch,
                               std::span<SpanResult> results) = 0;

  // Slots and pages in use; used + free = total always. Step thread.
  virtual EngineUsage usage() const = 0;
};

}  // namespace goldfinch
