// A GoldFinch model on a backend: weights, the state of its sequences, and one forward
// pass over any mix of spans (docs/model.md; arXiv 2407.12077).
//
// Recurrent layers run on every token of a batch. GOLD layers run on the rows of each
// span from position `gold_begin` on: outputs at a position depend on GOLD activations of
// at most 2G - 1 positions before it (G GOLD layers, two shifts each), and on the
// recurrent layers' output one position earlier still, which every pass leaves in the
// first GOLD layer's shift state.
//
// A pass has two halves, the recurrent layers and the GOLD layers. What a half queues
// for a decode step depends on the number of sequences alone, so a device may have it
// recorded (padding.h). While it runs the first half, the host plans the second.
//
// Everything is taken when the model is made; Run allocates nothing that lasts.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/cache/expanded_arena.h"
#include "engine/engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model/gold_attention.h"
#include "engine/model/gold_cache.h"
#include "engine/model/layers.h"
#include "engine/model/staged_spans.h"
#include "engine/model/weights.h"
#include "engine/model/workspace.h"

namespace goldfinch {

inline constexpr std::int64_t kMaxPages = 1 << 30;

struct ModelLimits {
  std::int64_t max_rows = 0;   // tokens in one pass
  std::int64_t num_slots = 0;  // sequences
  // More state slots, which steps that run ahead write (Engine::QueueNext); 0: no step
  // runs ahead.
  std::int64_t spare_slots = 0;
  std::int64_t page_tokens = 0;
  std::int64_t num_pages = 0;
  // Instead of num_pages, where above 0: the pages take this share of the memory that is
  // left when the model has taken everything else: on a backend without memory of its
  // own, of host_bytes.
  double cache_share = 0.0;
  std::int64_t host_bytes = 0;
  std::int64_t arena_frames = 0;        // pages expanded at once
  std::int64_t max_logit_rows = 0;      // rows of one Logits
  DType weight_storage = DType::kBf16;  // the compute type, kI8 or kFp8
  DType cache_storage = DType::kBf16;   // the compute type or kI8
  bool vocab_table = false;             // see GoldCacheShape
};

class Model {
 public:
  Model(Backend& backend, const Checkpoint& checkpoint, DType type,
        const ModelLimits& limits);

  const ModelConfig& config() const { return config_; }

  // Makes `slot` the state before the first token.
  void ClearSlot(std::int32_t slot);
  void CopySlot(std::int32_t from, std::int32_t to);
  void CopyPage(std::int32_t from, std::int32_t to) { cache_->CopyPage(from, to); }
  // Bytes of the cache for one token; 0 without GOLD layers.
  std::int64_t cache_row_bytes() const {
    return cache_ == nullptr ? 0 : cache_->row_bytes();
  }

  // Bytes of one key in WriteCache and ReadCache; 0 without GOLD layers.
  std::int64_t stored_key_bytes() const {
    return cache_ == nullptr ? 0 : cache_->stored_key_bytes();
  }
  // Stores the first tokens of a sequence, and their compressed keys, as they are.
  void WriteCache(std::span<const std::int32_t> pages, std::span<const TokenId> tokens,
                  std::span<const std::byte> keys);
  // The first `count` tokens and their keys, as WriteCache takes them; nothing without
  // GOLD layers.
  void ReadCache(std::span<const std::int32_t> pages, std::int64_t count,
                 std::vector<TokenId>& tokens, std::span<std::byte> keys);
  // The state of a slot: layer after layer the two shift vectors and, where there is
  // one, the recurrent state [heads, 64 key, 64 value]; float32.
  void ReadState(std::int32_t slot, std::span<std::byte> state) const;
  void WriteState(std::int32_t slot, std::span<const std::byte> state);
  // The page's content is about to change hands.
  void DropExpanded(std::int32_t page) { arena_->Drop(page); }

  // Fills the shift states that GOLD layers start from with NaN, but for the first GOLD
  // layer's time mix: tests show with it that nothing reads them (docs/model.md, "What
  // follows from it", 2).
  void PoisonGoldShifts(std::int32_t slot);

  // ExpandedArena::BeginStep and Reserve.
  void StartReserving() { arena_->BeginStep(); }
  bool ReserveExpanded(std::span<const std::int32_t> pages) {
    return arena_->Reserve(pages);
  }
  // Expands up to `max_tokens` of the first `length` tokens on `pages`, which the next
  // span attends to; see Engine::Prepare. Needs GOLD layers.
  Preparation Prepare(std::span<const std::int32_t> pages, std::int64_t length,
                      std::int64_t max_tokens) {
    return attention_->Prepare({.pages = pages, .length = length}, max_tokens);
  }

  // Runs every span. The logits of their rows can then be asked for until the next Run.
  // With `sampled` (Backend::SampledTokens) the tokens are there, not in the spans: of
  // each, which is of one token, the one at SpanInput::sampled.
  void Run(std::span<const SpanInput> spans, const TokenStore& sampled = {});

  // Row to give to Logits for the span's token `index`, which is at gold_begin or later.
  std::int64_t OutputRow(std::size_t span, std::int64_t index) const {
    return spans_.OutputRow(span, index);
  }

  // [rows.size(), V] in device memory, until the next call; at most max_logit_rows.
  Matrix Logits(std::span<const std::int64_t> rows);

  // Bytes of recurrent state and shift states of one sequence.
  std::int64_t state_bytes() const;
  DeviceBytes device_bytes() const;

  std::int64_t num_pages() const { return limits_.num_pages; }
  std::int64_t expanded_pages() const { return limits_.arena_frames; }
  ExpandedUsage expanded_usage() const;

 private:
  // Parts of the constructor. Pages come last: they may be a share of what is left.
  void TakeStates(std::int64_t slots);
  void TakeGold(std::int64_t rows, std::int64_t slots, std::int64_t width);
  void TakeLogits();
  void TakePages();
  // Of cache_share; everything else has been taken. Throws std::bad_alloc when it is less
  // than one.
  std::int64_t PagesOfShare();
  // Each stages what its half of the pass reads: the spans, and `padding` sequences of
  // one token behind them.
  void StageRecurrent(std::span<const SpanInput> spans, std::int64_t padding);
  void StageGold(std::span<const SpanInput> spans, std::int64_t padding);
  // The rows of every span's last token, whose logits most steps ask for: in the order of
  // the spans, from the first one on, they need no copy of their own.
  void StageLastRows(std::span<const SpanInput> spans);
  // Each queues its half. What they queue for a decode step depends on the number of its
  // rows alone; of GOLD layers, where attention_->repeats().
  void RunRecurrent();
  void RunGold();
  // Two records for each number of sequences that decode steps are padded to.
  void RecordDecoding();
  // Sequences to pad a decode step with; none for any other step.
  std::optional<std::int64_t> PaddingOf(std::span<const SpanInput> spans) const;
  LayerState State(std::int64_t layer) const;
  // visit(cache row, position, count) of the runs of rows that positions [0, count) are:
  // pages that lie side by side are one.
  template <typename Visit>
  void ForEachRun(std::span<const std::int32_t> pages, std::int64_t count,
                  const Visit& visit) const;

  Backend& backend_;
  DeviceArena memory_;
  StepInputs inputs_{memory_};
  const ModelConfig config_;
  const DType type_;
  ModelLimits limits_;
  const ModelWeights weights_;
  std::int64_t recorded_ = 0;  // most sequences of a step that is recorded

  std::vector<LayerState> states_;
  Matrix slots_;  // [slots, all of a slot's states], float32: states_ are columns of it
  std::unique_ptr<Workspace> work_;
  std::unique_ptr<ExpandedArena> arena_;      // null without GOLD layers
  std::unique_ptr<GoldCache> cache_;          // the same
  std::unique_ptr<GoldAttention> attention_;  // the same

  // One pass.
  StagedSpans spans_;
  Matrix x_;       // [rows, D] residual stream of all rows
  Matrix gold_x_;  // [GOLD rows, D]

  StepArray<std::int64_t> logit_row_;
  Matrix last_, last_normed_, logits_;
};

}  // namespace goldfinch
