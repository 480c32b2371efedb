#include "engine/model/model.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "engine/check.h"
#include "engine/model/gold_layer.h"
#include "engine/model/padding.h"

namespace goldfinch {
namespace {

// The widest inner dimension of a low-rank pair.
std::int64_t MaxMixWidth(const ModelWeights& weights) {
  std::int64_t width = 1;
  const auto take = [&width](const Linear& down) {
    if (down != nullptr) width = std::max(width, down->out());
  };
  for (const LayerWeights& layer : weights.layers) {
    if (layer.finch.has_value()) {
      take(layer.finch->mix_down);
      take(layer.finch->decay.down);
      take(layer.finch->value2.down);
    } else {
      take(layer.gold->mix_q.down);
      take(layer.gold->kv_down);
      take(layer.gold->key.down);
      take(layer.gold->value.down);
    }
  }
  return width;
}

constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

// Keys of Backend::Record: a half of a pass, and how many rows it has.
enum class Half { kRecurrent, kGold };
std::int64_t KeyOf(Half half, std::int64_t rows) {
  return 2 * rows + static_cast<std::int64_t>(half);
}

}  // namespace

Model::Model(Backend& backend, const Checkpoint& checkpoint, DType type,
             const ModelLimits& limits)
    : backend_(backend),
      memory_(backend),
      config_(checkpoint.config()),
      type_(type),
      limits_(limits),
      weights_(ModelWeights::Load(checkpoint, type, limits.weight_storage, backend)) {
  const std::int64_t padding = backend.records() ? kMaxPadding : 0;
  const std::int64_t rows = limits.max_rows + padding, d = config_.n_embd;
  const std::int64_t slots = limits.num_slots + limits.spare_slots + padding;
  const std::int64_t width = MaxMixWidth(weights_);
  TakeStates(slots);
  work_ = std::make_unique<Workspace>(memory_, config_, type, rows, width);
  x_ = memory_.Take(rows, d, DType::kF32);
  tokens_ = {inputs_, rows};  // the first of them: StepArray::filled_by_op
  span_begin_ = {inputs_, slots + 1};
  slot_ = {inputs_, slots};
  next_slot_ = {inputs_, slots};
  sampled_ = {inputs_, limits.spare_slots};
  lead_ = {inputs_, slots};
  first_row_.reserve(static_cast<std::size_t>(limits.num_slots));
  logit_row_ = {inputs_, limits.max_logit_rows};
  output_begin_.reserve(static_cast<std::size_t>(limits.num_slots));
  if (config_.num_gold() > 0) {
    const GoldCacheShape shape{
        .storage = limits.cache_storage,
        .page_tokens = limits.page_tokens,
        .num_tiles = limits.arena_frames + GoldAttention::ScratchTiles(
                                               backend.piece_rows(), limits.page_tokens),
        .max_targets = backend.piece_rows(),
        .vocab_table = limits.vocab_table,
        .spare_rows = 2 * padding};
    cache_row_ = {inputs_, rows};
    gold_row_ = {inputs_, rows};
    gold_span_begin_ = {inputs_, slots + 1};
    gold_slot_ = {inputs_, slots};
    gold_next_slot_ = {inputs_, slots};
    before_gold_row_ = {inputs_, limits.num_slots};
    before_gold_slot_ = {inputs_, limits.num_slots};
    arena_ = std::make_unique<ExpandedArena>(limits.arena_frames, 0);
    cache_ = std::make_unique<GoldCache>(memory_, inputs_, config_, weights_, type, shape,
                                         width);
    attention_ = std::make_unique<GoldAttention>(memory_, inputs_, *cache_, *arena_,
                                                 config_.num_heads(), config_.num_gold(),
                                                 rows, slots);
    gold_x_ = memory_.Take(rows, d, DType::kF32);
    attended_.reserve(static_cast<std::size_t>(limits.num_slots));
    gold_row_sequence_.reserve(static_cast<std::size_t>(rows));
    gold_row_position_.reserve(static_cast<std::size_t>(rows));
  }
  inputs_.Take();
  last_ = memory_.Take(limits.max_logit_rows, d, DType::kF32);
  last_normed_ = memory_.TakeInput(limits.max_logit_rows, d, type);
  logits_ = memory_.Take(limits.max_logit_rows, config_.vocab_size, DType::kF32);
  backend_.Prepare(rows, config_.vocab_size, limits.max_logit_rows);
  if (cache_ != nullptr) {
    if (limits_.cache_share > 0.0) limits_.num_pages = PagesOfShare();
    cache_->TakePages(memory_, limits_.num_pages);
    arena_->SetPages(limits_.num_pages);
  }
  if (backend.records()) RecordDecoding();
}

// A slot's states lie side by side, in the order of ReadState, so that each of its moves
// is one copy. Slots are an odd number of cache lines apart, as rows of inputs are.
void Model::TakeStates(std::int64_t slots) {
  const std::int64_t d = config_.n_embd, wkv = config_.num_heads() * kHeadState;
  slots_ = memory_.TakeInput(
      slots, 2 * config_.n_layer * d + config_.num_recurrent() * wkv, DType::kF32);
  std::int64_t next = 0;
  const auto take = [&](std::int64_t cols) {
    return slots_.Cols(std::exchange(next, next + cols), cols);
  };
  for (std::int32_t i = 0; i < config_.n_layer; ++i) {
    LayerState state{.att_shift = take(d), .ffn_shift = take(d)};
    if (i < config_.num_recurrent()) state.wkv = take(wkv);
    states_.push_back(state);
  }
}

std::int64_t Model::PagesOfShare() {
  const DeviceBytes taken = device_bytes();
  const std::int64_t left =
      backend_.FreeBytes().value_or(limits_.host_bytes - taken.weights - taken.expanded -
                                    taken.state - taken.work) -
      cache_->spare_bytes();
  const std::int64_t page_bytes = limits_.page_tokens * cache_->row_bytes();
  const auto pages =
      static_cast<std::int64_t>(limits_.cache_share * static_cast<double>(left)) /
      page_bytes;
  if (pages < 1) throw std::bad_alloc();
  return std::min<std::int64_t>(pages, kMaxPages);
}

LayerState Model::State(std::int64_t layer) const {
  return states_[static_cast<std::size_t>(layer)];
}

std::int64_t Model::state_bytes() const { return slots_.cols * kFloatBytes; }

DeviceBytes Model::device_bytes() const {
  DeviceBytes bytes{.weights = weights_.bytes,
                    .cache = cache_ == nullptr ? 0 : cache_->page_bytes(),
                    .expanded = cache_ == nullptr ? 0 : cache_->tile_bytes(),
                    .state = (limits_.num_slots + limits_.spare_slots) * state_bytes()};
  const std::int64_t table = cache_ == nullptr ? 0 : cache_->table_bytes();
  bytes.weights += table;
  bytes.work = memory_.bytes() - bytes.cache - bytes.expanded - bytes.state - table +
               backend_.own_bytes();
  return bytes;
}

ExpandedUsage Model::expanded_usage() const {
  if (arena_ == nullptr) return {};
  return {.used = arena_->used(),
          .hits = arena_->hits(),
          .misses = arena_->misses(),
          .evictions = arena_->evictions()};
}

void Model::ClearSlot(std::int32_t slot) {
  backend_.Zero(slots_.f32(slot), state_bytes());
}

void Model::CopySlot(std::int32_t from, std::int32_t to) {
  backend_.CopyOnDevice(slots_.f32(to), slots_.f32(from), state_bytes());
}

void Model::PoisonGoldShifts(std::int32_t slot) {
  const std::int64_t d = config_.n_embd;
  const std::vector<float> poison(static_cast<std::size_t>(d),
                                  std::numeric_limits<float>::quiet_NaN());
  const std::int64_t bytes = d * kFloatBytes;
  for (std::int64_t i = config_.num_recurrent(); i < config_.n_layer; ++i) {
    if (i > config_.num_recurrent())
      backend_.CopyToDevice(State(i).att_shift.f32(slot), poison.data(), bytes);
    backend_.CopyToDevice(State(i).ffn_shift.f32(slot), poison.data(), bytes);
  }
}

template <typename Visit>
void Model::ForEachRun(std::span<const std::int32_t> pages, std::int64_t begin,
                       std::int64_t count, const Visit& visit) const {
  const std::int64_t page_tokens = limits_.page_tokens;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t position = begin + done, offset = position % page_tokens;
    const auto at = static_cast<std::size_t>(position / page_tokens);
    // Pages that lie side by side are one run.
    std::size_t last = at;
    while (last + 1 < pages.size() && pages[last + 1] == pages[last] + 1) ++last;
    const auto rows = static_cast<std::int64_t>(last - at + 1) * page_tokens;
    const std::int64_t run = std::min(count - done, rows - offset);
    visit(pages[at] * page_tokens + offset, static_cast<std::size_t>(done),
          static_cast<std::size_t>(run));
    done += run;
  }
}

void Model::WriteCache(std::span<const std::int32_t> pages, std::int64_t position,
                       std::span<const TokenId> tokens, std::span<const std::byte> keys) {
  if (cache_ == nullptr) return;
  if (position == 0 && backend_.copies_wait()) {
    cache_->WritePages(pages, tokens, keys);
    return;
  }
  const auto key_bytes = static_cast<std::size_t>(cache_->stored_key_bytes());
  ForEachRun(pages, position, static_cast<std::int64_t>(tokens.size()),
             [&](std::int64_t row, std::size_t at, std::size_t run) {
               cache_->WriteRows(row, tokens.subspan(at, run),
                                 keys.subspan(at * key_bytes, run * key_bytes));
             });
}

void Model::ReadCache(std::span<const std::int32_t> pages, std::int64_t count,
                      std::vector<TokenId>& tokens, std::span<std::byte> keys) {
  tokens.clear();
  GOLDFINCH_CHECK(static_cast<std::int64_t>(keys.size()) == count * stored_key_bytes());
  if (cache_ == nullptr) return;
  const auto key_bytes = static_cast<std::size_t>(cache_->stored_key_bytes());
  tokens.resize(static_cast<std::size_t>(count));
  if (backend_.copies_wait()) {
    cache_->ReadPages(pages, tokens, keys);
    return;
  }
  ForEachRun(pages, 0, count, [&](std::int64_t row, std::size_t at, std::size_t run) {
    cache_->ReadRows(row, std::span(tokens).subspan(at, run),
                     keys.subspan(at * key_bytes, run * key_bytes));
  });
}

void Model::ReadState(std::int32_t slot, std::span<std::byte> state) const {
  GOLDFINCH_CHECK(static_cast<std::int64_t>(state.size()) == state_bytes());
  backend_.CopyToHost(state.data(), slots_.f32(slot), state_bytes());
}

void Model::WriteState(std::int32_t slot, std::span<const std::byte> state) {
  GOLDFINCH_CHECK(static_cast<std::int64_t>(state.size()) == state_bytes());
  backend_.CopyToDevice(slots_.f32(slot), state.data(), state_bytes());
}

std::optional<std::int64_t> Model::PaddingOf(std::span<const SpanInput> spans) const {
  const auto count = static_cast<std::int64_t>(spans.size());
  const bool decodes = std::all_of(spans.begin(), spans.end(), [](const SpanInput& span) {
    return span.tokens.size() == 1 && !span.prompt;
  });
  if (!decodes || PaddedSequences(count) > recorded_) return std::nullopt;
  return PaddedSequences(count) - count;
}

void Model::AddSpan(const SpanInput& span) {
  span_begin_.Push(static_cast<std::int32_t>(tokens_.size()));
  slot_.Push(span.slot);
  next_slot_.Push(span.next_slot);
  const std::int64_t page_tokens = limits_.page_tokens;
  std::int64_t position = span.position;
  for (const TokenId token : span.tokens) {
    tokens_.Push(token);
    if (cache_ == nullptr) continue;
    const auto page = static_cast<std::size_t>(position / page_tokens);
    cache_row_.Push(std::int64_t{span.pages[page]} * page_tokens +
                    position % page_tokens);
    ++position;
  }
}

// Prompts come last.
void Model::BuildBatch(std::span<const SpanInput> spans, std::int64_t padding) {
  tokens_.Clear();
  span_begin_.Clear();
  slot_.Clear();
  next_slot_.Clear();
  lead_.Clear();
  cache_row_.Clear();
  first_row_.assign(spans.size(), 0);
  prompt_rows_ = 0;
  for (const bool prompt : {false, true}) {
    for (std::size_t i = 0; i < spans.size(); ++i) {
      const SpanInput& span = spans[i];
      if (span.prompt != prompt) continue;
      const auto count = static_cast<std::int64_t>(span.tokens.size());
      first_row_[i] = tokens_.size();
      // As far as the next multiple of a block, or all of it.
      const std::int64_t to_block =
          (kPromptBlock - span.position % kPromptBlock) % kPromptBlock;
      lead_.Push(static_cast<std::int32_t>(prompt ? to_block : count));
      if (prompt) prompt_rows_ += count;
      AddSpan(span);
    }
  }
  if (prompt_rows_ == 0) lead_.Clear();
  output_begin_.assign(first_row_.begin(), first_row_.end());
  for (std::int64_t i = 0; i < padding; ++i) {
    span_begin_.Push(static_cast<std::int32_t>(tokens_.size()));
    slot_.Push(PaddingSlot(i));
    next_slot_.Push(PaddingSlot(i));
    tokens_.Push(0);
    if (cache_ != nullptr) cache_row_.Push(attention_->PaddingRow(i));
  }
  span_begin_.Push(static_cast<std::int32_t>(tokens_.size()));
  tokens_.Stage();
  span_begin_.Stage();
  slot_.Stage();
  next_slot_.Stage();
  lead_.Stage();
  if (cache_ != nullptr) cache_row_.Stage();
}

void Model::RunRecurrent() {
  const Matrix x = x_.Rows(tokens_.size());
  LayerContext context{
      .backend = backend_,
      .config = config_,
      .work = *work_,
      .spans = {.count = static_cast<std::int32_t>(slot_.size()),
                .begin = span_begin_.device(),
                .slot = slot_.device(),
                .next_slot = prompt_rows_ > 0 ? slot_.device() : next_slot_.device(),
                .lead = prompt_rows_ > 0 ? lead_.device() : nullptr},
      .prompt_rows = prompt_rows_};
  backend_.EmbedNorm(tokens_.device(), weights_.embedding, weights_.ln0, x);
  for (std::int64_t i = 0; i < config_.num_recurrent(); ++i) {
    const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(i)];
    FinchTimeMix(context, layer, State(i), x);
    ChannelMix(context, layer, State(i), x);
  }
  if (cache_ != nullptr)
    cache_->Append(x, tokens_.device(), cache_row_.device(),
                   work_->mixed[0].Rows(x.rows));
}

// Which rows GOLD runs on, and the row before them whose LN1 the first GOLD layer's
// shift state becomes (the last row of a span that has none).
void Model::BuildGold(std::span<const SpanInput> spans, std::int64_t padding) {
  gold_row_.Clear();
  gold_span_begin_.Clear();
  gold_slot_.Clear();
  gold_next_slot_.Clear();
  before_gold_row_.Clear();
  before_gold_slot_.Clear();
  attended_.clear();
  gold_row_sequence_.clear();
  gold_row_position_.clear();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const SpanInput& span = spans[i];
    const std::int64_t row = first_row_[i];
    const auto count = static_cast<std::int64_t>(span.tokens.size());
    const std::int64_t first =
        std::clamp<std::int64_t>(span.gold_begin - span.position, 0, count);
    if (first > 0) {
      before_gold_row_.Push(static_cast<std::int32_t>(row + first - 1));
      before_gold_slot_.Push(span.slot);
    }
    output_begin_[i] = gold_row_.size() - first;
    if (first < count) {
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
  if (gold_row_.size() > 0)
    attention_->Begin(attended_, gold_row_sequence_, gold_row_position_, padding);
}

void Model::RunGold() {
  const Matrix x = x_.Rows(tokens_.size());
  const std::int64_t first_layer = config_.num_recurrent();
  const LayerWeights& first = weights_.layers[static_cast<std::size_t>(first_layer)];
  backend_.NormToState(x, first.ln1, before_gold_row_.device(),
                       before_gold_slot_.device(), before_gold_row_.size(),
                       State(first_layer).att_shift);
  if (gold_row_.size() == 0) return;

  LayerContext context{.backend = backend_,
                       .config = config_,
                       .work = *work_,
                       .spans = {.count = static_cast<std::int32_t>(gold_slot_.size()),
                                 .begin = gold_span_begin_.device(),
                                 .slot = gold_slot_.device(),
                                 .next_slot = gold_next_slot_.device()}};
  const Matrix gold_x = gold_x_.Rows(gold_row_.size());
  backend_.GatherRows(x, gold_row_.device(), gold_x);
  attention_->ExpandStaged();
  for (std::int64_t i = first_layer; i < config_.n_layer; ++i) {
    const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(i)];
    GoldTimeMix(context, layer, State(i), *attention_, cache_->frequency(),
                i - first_layer, gold_x);
    ChannelMix(context, layer, State(i), gold_x);
  }
}

void Model::Run(std::span<const SpanInput> spans, const TokenStore& sampled) {
  const std::optional<std::int64_t> padding = PaddingOf(spans);
  BuildBatch(spans, padding.value_or(0));
  if (sampled.data != nullptr) {
    sampled_.Clear();
    for (const SpanInput& span : spans) sampled_.Push(span.sampled);
    sampled_.Stage();
  }
  inputs_.Upload();
  if (sampled.data != nullptr)
    backend_.GatherTokens(sampled, sampled_.device(), sampled_.size(),
                          tokens_.filled_by_op());
  const std::int64_t rows = tokens_.size();
  if (!padding.has_value() || !backend_.Replay(KeyOf(Half::kRecurrent, rows)))
    RunRecurrent();
  if (cache_ == nullptr) return;
  BuildGold(spans, padding.value_or(0));
  inputs_.Upload();
  const bool repeats = padding.has_value() && gold_row_.size() == rows &&
                       before_gold_row_.size() == 0 && attention_->repeats();
  if (!repeats || !backend_.Replay(KeyOf(Half::kGold, rows))) RunGold();
}

void Model::RecordDecoding() {
  const std::int64_t most =
      PaddedSequences(std::min(limits_.num_slots, kMaxRecordedSequences));
  for (std::int64_t rows = 1; rows <= most; rows = NextPadded(rows)) {
    BuildBatch({}, rows);
    inputs_.Upload();
    backend_.Record(KeyOf(Half::kRecurrent, rows), [this] { RunRecurrent(); });
    if (cache_ == nullptr) continue;
    BuildGold({}, rows);
    inputs_.Upload();
    backend_.Record(KeyOf(Half::kGold, rows), [this] { RunGold(); });
  }
  recorded_ = most;
}

std::int64_t Model::OutputRow(std::size_t span, std::int64_t index) const {
  return output_begin_[span] + index;
}

Matrix Model::Logits(std::span<const std::int64_t> rows) {
  logit_row_.Clear();
  for (const std::int64_t row : rows) logit_row_.Push(row);
  logit_row_.Stage();
  inputs_.Upload();
  const Matrix& source = cache_ != nullptr ? gold_x_ : x_;
  const Matrix last = last_.Rows(logit_row_.size());
  const Matrix normed = last_normed_.Rows(logit_row_.size());
  const Matrix logits = logits_.Rows(logit_row_.size());
  backend_.GatherRows(source, logit_row_.device(), last);
  backend_.AddNorm({.a = last, .norm = weights_.ln_out, .out = normed});
  backend_.Gemm({.x = normed, .w = weights_.head.get(), .y = logits});
  return logits;
}

}  // namespace goldfinch
