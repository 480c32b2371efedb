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

// Sequences that decode steps are padded with, at most.
std::int64_t PaddingSequences(const Backend& backend) {
  return backend.records() ? kMaxPadding : 0;
}

// Padding's are the last of them.
std::int64_t NumSlots(const Backend& backend, const ModelLimits& limits) {
  return limits.num_slots + limits.spare_slots + PaddingSequences(backend);
}

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
      weights_(ModelWeights::Load(checkpoint, type, limits.weight_storage, backend)),
      spans_(inputs_, {.rows = limits.max_rows + PaddingSequences(backend),
                       .spans = limits.num_slots,
                       .sampled = limits.spare_slots,
                       .slots = NumSlots(backend, limits),
                       .padding = PaddingSequences(backend),
                       .page_tokens = limits.page_tokens,
                       .gold = config_.num_gold() > 0}) {
  const std::int64_t rows = limits.max_rows + PaddingSequences(backend);
  const std::int64_t slots = NumSlots(backend, limits), width = MaxMixWidth(weights_);
  TakeStates(slots);
  work_ = std::make_unique<Workspace>(memory_, config_, type, rows, width);
  x_ = memory_.Take(rows, config_.n_embd, DType::kF32);
  logit_row_ = {inputs_, limits.max_logit_rows};
  if (config_.num_gold() > 0) TakeGold(rows, slots, width);
  inputs_.Take();
  TakeLogits();
  backend_.Prepare(rows, config_.vocab_size, limits.max_logit_rows);
  if (cache_ != nullptr) TakePages();
  if (backend.records()) RecordDecoding();
}

void Model::TakeGold(std::int64_t rows, std::int64_t slots, std::int64_t width) {
  const GoldCacheShape shape{
      .storage = limits_.cache_storage,
      .page_tokens = limits_.page_tokens,
      .num_tiles = limits_.arena_frames + GoldAttention::ScratchTiles(
                                              backend_.piece_rows(), limits_.page_tokens),
      .max_targets = backend_.piece_rows(),
      .vocab_table = limits_.vocab_table,
      .spare_rows = kPaddingCacheRows * PaddingSequences(backend_)};
  arena_ = std::make_unique<ExpandedArena>(limits_.arena_frames, 0);
  cache_ = std::make_unique<GoldCache>(memory_, inputs_, config_, weights_, type_, shape,
                                       width);
  attention_ = std::make_unique<GoldAttention>(memory_, inputs_, *cache_, *arena_,
                                               config_.num_heads(), config_.num_gold(),
                                               rows, slots);
  gold_x_ = memory_.Take(rows, config_.n_embd, DType::kF32);
}

void Model::TakeLogits() {
  const std::int64_t rows = limits_.max_logit_rows;
  last_ = memory_.Take(rows, config_.n_embd, DType::kF32);
  last_normed_ = memory_.TakeInput(rows, config_.n_embd, type_);
  logits_ = memory_.Take(rows, config_.vocab_size, DType::kF32);
}

void Model::TakePages() {
  if (limits_.cache_share > 0.0) limits_.num_pages = PagesOfShare();
  cache_->TakePages(memory_, limits_.num_pages);
  arena_->SetPages(limits_.num_pages);
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
          .evictions = arena_->evictions(),
          .rebuilt = arena_->rebuilt()};
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
void Model::ForEachRun(std::span<const std::int32_t> pages, std::int64_t count,
                       const Visit& visit) const {
  const std::int64_t page_tokens = limits_.page_tokens;
  for (std::int64_t done = 0; done < count;) {
    const auto first = static_cast<std::size_t>(done / page_tokens);
    std::size_t last = first;
    while (last + 1 < pages.size() && pages[last + 1] == pages[last] + 1) ++last;
    const auto rows = static_cast<std::int64_t>(last - first + 1) * page_tokens;
    const std::int64_t run = std::min(count - done, rows);
    visit(pages[first] * page_tokens, static_cast<std::size_t>(done),
          static_cast<std::size_t>(run));
    done += run;
  }
}

void Model::WriteCache(std::span<const std::int32_t> pages,
                       std::span<const TokenId> tokens, std::span<const std::byte> keys) {
  if (cache_ == nullptr) return;
  if (backend_.copies_wait()) {
    cache_->WritePages(pages, tokens, keys);
    return;
  }
  const auto key_bytes = static_cast<std::size_t>(cache_->stored_key_bytes());
  ForEachRun(pages, static_cast<std::int64_t>(tokens.size()),
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
  ForEachRun(pages, count, [&](std::int64_t row, std::size_t at, std::size_t run) {
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

void Model::StageRecurrent(std::span<const SpanInput> spans, std::int64_t padding) {
  spans_.StageRecurrent(spans, padding, cache_ == nullptr ? 0 : cache_->spare_row());
}

void Model::RunRecurrent() {
  const Matrix x = x_.Rows(spans_.num_rows());
  LayerContext context{.backend = backend_,
                       .config = config_,
                       .work = *work_,
                       .spans = spans_.recurrent(),
                       .prompt_rows = spans_.prompt_rows()};
  backend_.EmbedNorm(spans_.tokens().device(), weights_.embedding, weights_.ln0, x, {});
  for (std::int64_t i = 0; i < config_.num_recurrent(); ++i) {
    const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(i)];
    FinchTimeMix(context, layer, State(i), x);
    ChannelMix(context, layer, State(i), x);
  }
  if (cache_ != nullptr)
    cache_->Append(x, spans_.tokens().device(), spans_.cache_row().device(),
                   work_->mixed[0].Rows(x.rows));
}

void Model::StageGold(std::span<const SpanInput> spans, std::int64_t padding) {
  spans_.StageGold(spans, padding);
  if (spans_.num_gold_rows() > 0)
    attention_->Begin(spans_.attended(), spans_.gold_row_sequence(),
                      spans_.gold_row_position(), padding);
}

void Model::RunGold() {
  const Matrix x = x_.Rows(spans_.num_rows());
  const std::int64_t first_layer = config_.num_recurrent();
  const LayerWeights& first = weights_.layers[static_cast<std::size_t>(first_layer)];
  backend_.NormToState(x, first.ln1, spans_.before_gold_row().device(),
                       spans_.before_gold_slot().device(),
                       spans_.before_gold_row().size(), State(first_layer).att_shift);
  if (spans_.num_gold_rows() == 0) return;

  LayerContext context{
      .backend = backend_, .config = config_, .work = *work_, .spans = spans_.gold()};
  const Matrix gold_x = gold_x_.Rows(spans_.num_gold_rows());
  backend_.GatherRows(x, spans_.gold_row().device(), gold_x);
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
  StageRecurrent(spans, padding.value_or(0));
  if (sampled.data != nullptr) spans_.StageSampled(spans);
  if (cache_ == nullptr) StageLastRows(spans);
  inputs_.Upload();
  if (sampled.data != nullptr)
    backend_.GatherTokens(sampled, spans_.sampled().device(), spans_.sampled().size(),
                          spans_.tokens().filled_by_op());
  const std::int64_t rows = spans_.num_rows();
  if (!padding.has_value() || !backend_.Replay(KeyOf(Half::kRecurrent, rows)))
    RunRecurrent();
  if (cache_ == nullptr) return;
  StageGold(spans, padding.value_or(0));
  StageLastRows(spans);
  inputs_.Upload();
  const bool repeats = padding.has_value() && spans_.num_gold_rows() == rows &&
                       spans_.before_gold_row().size() == 0 && attention_->repeats();
  if (!repeats || !backend_.Replay(KeyOf(Half::kGold, rows))) RunGold();
}

void Model::RecordDecoding() {
  const std::int64_t most =
      PaddedSequences(std::min(limits_.num_slots, kMaxRecordedSequences));
  for (std::int64_t rows = 1; rows <= most; rows = NextPadded(rows)) {
    StageRecurrent({}, rows);
    inputs_.Upload();
    if (!backend_.Record(KeyOf(Half::kRecurrent, rows), [this] { RunRecurrent(); }))
      return;
    if (cache_ == nullptr) continue;
    StageGold({}, rows);
    inputs_.Upload();
    if (!backend_.Record(KeyOf(Half::kGold, rows), [this] { RunGold(); })) return;
  }
  recorded_ = most;
}

void Model::StageLastRows(std::span<const SpanInput> spans) {
  logit_row_.Clear();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    if (logit_row_.size() == limits_.max_logit_rows) break;
    logit_row_.Push(
        spans_.OutputRow(i, static_cast<std::int64_t>(spans[i].tokens.size()) - 1));
  }
  logit_row_.Stage();
}

Matrix Model::Logits(std::span<const std::int64_t> rows) {
  const std::span<const std::int64_t> there = logit_row_.host();
  if (rows.size() > there.size() || !std::ranges::equal(rows, there.first(rows.size()))) {
    logit_row_.Clear();
    for (const std::int64_t row : rows) logit_row_.Push(row);
    logit_row_.Stage();
    inputs_.Upload();
  }
  const auto count = static_cast<std::int64_t>(rows.size());
  const Matrix& source = cache_ != nullptr ? gold_x_ : x_;
  const Matrix last = last_.Rows(count), normed = last_normed_.Rows(count);
  const Matrix logits = logits_.Rows(count);
  backend_.GatherRows(source, logit_row_.device(), last);
  backend_.AddNorm({.a = last, .norm = weights_.ln_out, .out = normed});
  backend_.Gemm({.x = normed, .w = weights_.head.get(), .y = logits});
  return logits;
}

}  // namespace goldfinch
