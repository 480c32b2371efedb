// The spans of a pass as the arrays that its ops read: of each row its token and its
// place in the cache, of each span its rows and its slots; and which of the rows GOLD
// layers run on. Each half of a pass has its own, staged among the step's inputs
// (workspace.h).
//
// Rows are those of spans that are no prompts, in the order of the spans, then those of
// prompts, then one for each sequence that a decode step is padded with (padding.h).
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/op_args.h"
#include "engine/model/gold_attention.h"
#include "engine/model/workspace.h"
#include "engine/token.h"

namespace goldfinch {

// Consecutive tokens of one sequence, from `position` on.
struct SpanInput {
  std::int32_t slot = 0;
  std::int32_t next_slot = 0;  // gets the state behind it; of a prompt the same slot
  std::int64_t position = 0;
  std::span<const TokenId> tokens;
  std::span<const std::int32_t> pages;  // of the whole sequence; empty without GOLD
  std::int64_t gold_begin = 0;
  // Its rows are rows of a prompt, where the device knows of a difference
  // (Backend::prompt_grid): recurrent layers compute them in blocks.
  bool prompt = false;
  std::int64_t sampled = 0;  // see Model::Run
};

class StagedSpans {
 public:
  struct Limits {
    std::int64_t rows = 0;     // of a pass
    std::int64_t spans = 0;    // of a pass, without padding
    std::int64_t sampled = 0;  // spans whose tokens are on the device
    std::int64_t slots = 0;    // states
    std::int64_t padding = 0;  // the last ones of these slots are padding's
    std::int64_t page_tokens = 0;
    bool gold = false;  // there are GOLD layers, and a cache
  };
  // Reserves its places. Tokens come first: an op may fill them
  // (StepArray::filled_by_op).
  StagedSpans(StepInputs& inputs, const Limits& limits);

  // Stages what the recurrent layers and the cache read. `spare_row`: from where on the
  // cache has rows for padding.
  void StageRecurrent(std::span<const SpanInput> spans, std::int64_t padding,
                      std::int64_t spare_row);
  // Stages where each span's token is among those that were sampled.
  void StageSampled(std::span<const SpanInput> spans);
  // Stages what the GOLD layers read, of the spans that StageRecurrent had.
  void StageGold(std::span<const SpanInput> spans, std::int64_t padding);

  // Of StageRecurrent.
  std::int64_t num_rows() const { return tokens_.size(); }
  std::int64_t prompt_rows() const { return prompt_rows_; }  // the last ones
  RowSpans recurrent() const;
  const StepArray<std::int32_t>& tokens() const { return tokens_; }
  const StepArray<std::int64_t>& cache_row() const { return cache_row_; }
  // Of StageSampled.
  const StepArray<std::int64_t>& sampled() const { return sampled_; }

  // Of StageGold: the rows that GOLD layers run on, in spans of their own.
  std::int64_t num_gold_rows() const { return gold_row_.size(); }
  const StepArray<std::int64_t>& gold_row() const { return gold_row_; }
  RowSpans gold() const;
  // Rows just before the first GOLD row of a span, whose LN1 is the first GOLD layer's
  // shift state, and their slots. Of a span without a GOLD row it is its last row.
  const StepArray<std::int32_t>& before_gold_row() const { return before_gold_row_; }
  const StepArray<std::int32_t>& before_gold_slot() const { return before_gold_slot_; }
  // The pasts of spans with a GOLD row, and of each GOLD row but padding's which of them
  // it has, and its position.
  std::span<const AttendedSequence> attended() const { return attended_; }
  std::span<const std::int32_t> gold_row_sequence() const { return gold_row_sequence_; }
  std::span<const std::int64_t> gold_row_position() const { return gold_row_position_; }

  // Where the logits of the span's token `index` come from: a GOLD row, or without GOLD
  // layers a row.
  std::int64_t OutputRow(std::size_t span, std::int64_t index) const {
    return output_begin_[span] + index;
  }

 private:
  void Clear();
  void ClearGold();
  void AddSpan(const SpanInput& span);
  void AddGoldRows(const SpanInput& span, std::int64_t row, std::int64_t first);
  std::int32_t PaddingSlot(std::int64_t index) const {
    return static_cast<std::int32_t>(limits_.slots - limits_.padding + index);
  }

  const Limits limits_;
  StepArray<std::int32_t> tokens_, span_begin_, slot_, next_slot_;
  StepArray<std::int64_t> sampled_;
  StepArray<std::int32_t> lead_;  // RowSpans::lead; nothing in steps without prompts
  std::int64_t prompt_rows_ = 0;
  StepArray<std::int64_t> cache_row_;
  std::vector<std::int64_t> first_row_;     // a span
  std::vector<std::int64_t> output_begin_;  // a span: output row of its token 0

  StepArray<std::int64_t> gold_row_;
  StepArray<std::int32_t> gold_span_begin_, gold_slot_, gold_next_slot_;
  StepArray<std::int32_t> before_gold_row_, before_gold_slot_;
  std::vector<AttendedSequence> attended_;
  std::vector<std::int32_t> gold_row_sequence_;
  std::vector<std::int64_t> gold_row_position_;
};

}  // namespace goldfinch
