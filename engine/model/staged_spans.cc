#include "engine/model/staged_spans.h"

#include <algorithm>

#include "engine/model/padding.h"

namespace goldfinch {

StagedSpans::StagedSpans(StepInputs& inputs, const Limits& limits)
    : limits_(limits),
      tokens_(inputs, limits.rows),
      span_begin_(inputs, limits.slots + 1),
      slot_(inputs, limits.slots),
      next_slot_(inputs, limits.slots),
      sampled_(inputs, limits.sampled),
      lead_(inputs, limits.slots) {
  first_row_.reserve(static_cast<std::size_t>(limits.spans));
  output_begin_.reserve(static_cast<std::size_t>(limits.spans));
  if (!limits.gold) return;
  cache_row_ = {inputs, limits.rows};
  gold_row_ = {inputs, limits.rows};
  gold_span_begin_ = {inputs, limits.slots + 1};
  gold_slot_ = {inputs, limits.slots};
  gold_next_slot_ = {inputs, limits.slots};
  before_gold_row_ = {inputs, limits.spans};
  before_gold_slot_ = {inputs, limits.spans};
  attended_.reserve(static_cast<std::size_t>(limits.spans));
  gold_row_sequence_.reserve(static_cast<std::size_t>(limits.rows));
  gold_row_position_.reserve(static_cast<std::size_t>(limits.rows));
}

void StagedSpans::Clear() {
  tokens_.Clear();
  span_begin_.Clear();
  slot_.Clear();
  next_slot_.Clear();
  lead_.Clear();
  cache_row_.Clear();
  prompt_rows_ = 0;
}

void StagedSpans::AddSpan(const SpanInput& span) {
  span_begin_.Push(static_cast<std::int32_t>(tokens_.size()));
  slot_.Push(span.slot);
  next_slot_.Push(span.next_slot);
  const auto count = static_cast<std::int64_t>(span.tokens.size());
  // As far as the next multiple of a block, or all of it.
  const std::int64_t to_block =
      (kPromptBlock - span.position % kPromptBlock) % kPromptBlock;
  lead_.Push(static_cast<std::int32_t>(span.prompt ? to_block : count));
  if (span.prompt) prompt_rows_ += count;
  std::int64_t position = span.position;
  for (const TokenId token : span.tokens) {
    tokens_.Push(token);
    if (!limits_.gold) continue;
    const auto page = static_cast<std::size_t>(position / limits_.page_tokens);
    cache_row_.Push(std::int64_t{span.pages[page]} * limits_.page_tokens +
                    position % limits_.page_tokens);
    ++position;
  }
}

void StagedSpans::StageRecurrent(std::span<const SpanInput> spans, std::int64_t padding,
                                 std::int64_t spare_row) {
  Clear();
  first_row_.assign(spans.size(), 0);
  for (const bool prompt : {false, true}) {
    for (std::size_t i = 0; i < spans.size(); ++i) {
      if (spans[i].prompt != prompt) continue;
      first_row_[i] = tokens_.size();
      AddSpan(spans[i]);
    }
  }
  if (prompt_rows_ == 0) lead_.Clear();
  output_begin_.assign(first_row_.begin(), first_row_.end());
  for (std::int64_t i = 0; i < padding; ++i) {
    span_begin_.Push(static_cast<std::int32_t>(tokens_.size()));
    slot_.Push(PaddingSlot(i));
    next_slot_.Push(PaddingSlot(i));
    tokens_.Push(0);
    if (limits_.gold) cache_row_.Push(PaddingRow(spare_row, i));
  }
  span_begin_.Push(static_cast<std::int32_t>(tokens_.size()));
  tokens_.Stage();
  span_begin_.Stage();
  slot_.Stage();
  next_slot_.Stage();
  lead_.Stage();
  if (limits_.gold) cache_row_.Stage();
}

void StagedSpans::StageSampled(std::span<const SpanInput> spans) {
  sampled_.Clear();
  for (const SpanInput& span : spans) sampled_.Push(span.sampled);
  sampled_.Stage();
}

RowSpans StagedSpans::recurrent() const {
  return {.count = static_cast<std::int32_t>(slot_.size()),
          .begin = span_begin_.device(),
          .slot = slot_.device(),
          .next_slot = prompt_rows_ > 0 ? slot_.device() : next_slot_.device(),
          .lead = prompt_rows_ > 0 ? lead_.device() : nullptr};
}

void StagedSpans::ClearGold() {
  gold_row_.Clear();
  gold_span_begin_.Clear();
  gold_slot_.Clear();
  gold_next_slot_.Clear();
  before_gold_row_.Clear();
  before_gold_slot_.Clear();
  attended_.clear();
  gold_row_sequence_.clear();
  gold_row_position_.clear();
}

// Rows of the span from its token `first` on; `row` is that of its token 0.
void StagedSpans::AddGoldRows(const SpanInput& span, std::int64_t row,
                              std::int64_t first) {
  const auto count = static_cast<std::int64_t>(span.tokens.size());
  gold_span_begin_.Push(static_cast<std::int32_t>(gold_row_.size()));
  gold_slot_.Push(span.slot);
  gold_next_slot_.Push(span.next_slot);
  const auto sequence = static_cast<std::int32_t>(attended_.size());
  attended_.push_back({.pages = span.pages, .length = span.position + count});
  for (std::int64_t j = first; j < count; ++j) {
    gold_row_.Push(row + j);
    gold_row_sequence_.push_back(sequence);
    gold_row_position_.push_back(span.position + j);
  }
}

void StagedSpans::StageGold(std::span<const SpanInput> spans, std::int64_t padding) {
  ClearGold();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const SpanInput& span = spans[i];
    const auto count = static_cast<std::int64_t>(span.tokens.size());
    const std::int64_t first =
        std::clamp<std::int64_t>(span.gold_begin - span.position, 0, count);
    if (first > 0) {
      before_gold_row_.Push(static_cast<std::int32_t>(first_row_[i] + first - 1));
      before_gold_slot_.Push(span.slot);
    }
    output_begin_[i] = gold_row_.size() - first;
    if (first < count) AddGoldRows(span, first_row_[i], first);
  }
  const std::int64_t behind = tokens_.size() - padding;
  for (std::int64_t i = 0; i < padding; ++i) {
    gold_span_begin_.Push(static_cast<std::int32_t>(gold_row_.size()));
    gold_slot_.Push(PaddingSlot(i));
    gold_next_slot_.Push(PaddingSlot(i));
    gold_row_.Push(behind + i);
  }
  gold_span_begin_.Push(static_cast<std::int32_t>(gold_row_.size()));
  gold_row_.Stage();
  gold_span_begin_.Stage();
  gold_slot_.Stage();
  gold_next_slot_.Stage();
  before_gold_row_.Stage();
  before_gold_slot_.Stage();
}

RowSpans StagedSpans::gold() const {
  return {.count = static_cast<std::int32_t>(gold_slot_.size()),
          .begin = gold_span_begin_.device(),
          .slot = gold_slot_.device(),
          .next_slot = gold_next_slot_.device()};
}

}  // namespace goldfinch
