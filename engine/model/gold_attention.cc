#include "engine/model/gold_attention.h"

#include <algorithm>

#include "engine/check.h"
#include "engine/model/padding.h"

namespace goldfinch {
namespace {

// Tiles of one Attend; longer lists go in several.
constexpr std::int64_t kMaxGroupTiles = 65536;

}  // namespace

GoldAttention::GoldAttention(DeviceArena& memory, StepInputs& inputs, GoldCache& cache,
                             ExpandedArena& arena, std::int32_t num_heads,
                             std::int64_t num_gold, std::int64_t max_rows,
                             std::int64_t max_sequences)
    : b_(memory.backend()),
      inputs_(inputs),
      cache_(cache),
      arena_(arena),
      num_heads_(num_heads),
      num_gold_(num_gold),
      scratch_tiles_(cache.shape().num_tiles - arena.num_frames()),
      position_(inputs, max_rows),
      order_(inputs, max_rows),
      run_(inputs, 2 * max_sequences),
      num_runs_(inputs, 1),
      chunk_begin_(inputs, max_rows + 1),
      tile_(inputs, kMaxGroupTiles),
      tile_position_(inputs, kMaxGroupTiles),
      carry_(memory.Take(max_rows, num_heads * kCarrySize, DType::kF32)) {
  GOLDFINCH_CHECK(scratch_tiles_ >= KvTiles::kCutTiles);
  sequences_.reserve(static_cast<std::size_t>(max_sequences));
  row_sequence_.reserve(static_cast<std::size_t>(max_rows));
  tile_begin_.reserve(static_cast<std::size_t>(max_sequences + 1));
  runs_.Reserve(max_sequences, max_rows);
  // Steps of more pages, those that sequences share counted for each, want more.
  tiles_.reserve(static_cast<std::size_t>(kMaxGroupTiles + max_sequences));
  targets_.reserve(static_cast<std::size_t>(cache.shape().max_targets));
}

void GoldAttention::Begin(std::span<const AttendedSequence> sequences,
                          std::span<const std::int32_t> row_sequence,
                          std::span<const std::int64_t> row_position,
                          std::int64_t padding) {
  position_.Clear();
  for (const std::int64_t position : row_position) position_.Push(position);
  row_sequence_.assign(row_sequence.begin(), row_sequence.end());

  sequences_.assign(sequences.begin(), sequences.end());
  tiles_.clear();
  flushed_ = false;
  arena_.BeginStep();
  for (std::size_t i = 0; i < sequences_.size(); ++i)
    PlanSequence(static_cast<std::int32_t>(i), sequences_[i]);
  for (std::int64_t i = 0; i < padding; ++i) AddPadding(i);
  position_.Stage();
  cache_.StageTargets(targets_);
  targets_.clear();

  const bool all_expanded = std::none_of(tiles_.begin(), tiles_.end(),
                                         [](const Tile& tile) { return tile.frame < 0; });
  one_group_ = all_expanded && static_cast<std::int64_t>(tiles_.size()) <= kMaxGroupTiles;
  repeats_ = false;
  if (!one_group_) return;
  BuildGroup(0, 0);
  const std::int64_t rows = position_.size();
  repeats_ = !flushed_ && rows == static_cast<std::int64_t>(sequences_.size()) &&
             cache_.num_targets() == rows && cache_.num_sources() == 2 * rows &&
             b_.AttendsAtOnce(chunk_begin_.host().back(), num_heads_);
}

void GoldAttention::AddPadding(std::int64_t index) {
  position_.Push(0);
  row_sequence_.push_back(static_cast<std::int32_t>(sequences_.size()));
  sequences_.push_back({});  // without tiles
  // A row of its own, after one of its own; and no sequence reads what is in a scratch
  // tile from before.
  const std::int64_t row = PaddingRow(cache_.spare_row(), index);
  const std::int64_t page_tokens = cache_.shape().page_tokens;
  if (static_cast<std::int64_t>(targets_.size()) == cache_.shape().max_targets)
    FlushTargets(0, num_gold_);
  targets_.push_back({.row = row,
                      .previous_row = row - 1,
                      .position = 0,
                      .tile_row = arena_.num_frames() * page_tokens + index});
}

void GoldAttention::PlanSequence(std::int32_t index, const AttendedSequence& sequence) {
  const std::int64_t page_tokens = cache_.shape().page_tokens;
  const std::int64_t pages = (sequence.length + page_tokens - 1) / page_tokens;
  bool fits = true;
  for (std::int64_t i = 0; i < pages; ++i) {
    // Once a page does not fit, neither does the rest: a later page that happens to be
    // expanded is not worth a second rule.
    std::int32_t frame = -1;
    if (fits)
      frame = arena_.Acquire(sequence.pages[static_cast<std::size_t>(i)]);
    else
      arena_.CountMiss();
    fits = frame >= 0;
    tiles_.push_back({index, static_cast<std::int32_t>(i), frame});
    if (fits)
      Fill(sequence, i, frame, TokensOn(sequence, i));
    else
      arena_.CountRebuilt();
  }
}

void GoldAttention::Fill(const AttendedSequence& sequence, std::int64_t page_index,
                         std::int32_t frame, std::int64_t end) {
  const std::int64_t filled = arena_.filled(frame);
  if (filled >= end) return;
  const std::int64_t added = end - filled;
  GOLDFINCH_CHECK(added <= cache_.shape().max_targets);
  if (static_cast<std::int64_t>(targets_.size()) + added > cache_.shape().max_targets)
    FlushTargets(0, num_gold_);
  AddTargets(sequence, page_index, filled, end, frame);
  arena_.set_filled(frame, end);
}

Preparation GoldAttention::Prepare(const AttendedSequence& sequence,
                                   std::int64_t max_tokens) {
  const std::int64_t page_tokens = cache_.shape().page_tokens;
  const std::int64_t pages = (sequence.length + page_tokens - 1) / page_tokens;
  Preparation done;
  for (std::int64_t i = 0; i < pages; ++i) {
    const std::int32_t page = sequence.pages[static_cast<std::size_t>(i)];
    const std::int64_t wanted = TokensOn(sequence, i);
    std::int32_t frame = arena_.Find(page);
    const std::int64_t filled = frame < 0 ? 0 : arena_.filled(frame);
    if (frame >= 0) arena_.Keep(frame);
    if (filled >= wanted) continue;
    const std::int64_t added = std::min(wanted - filled, max_tokens - done.expanded);
    done.ready = added == wanted - filled;
    if (added == 0) break;
    // The rest has to do without anyway, as in PlanSequence.
    if (frame < 0) frame = arena_.Acquire(page);
    if (frame < 0) {
      done.ready = true;
      break;
    }
    Fill(sequence, i, frame, filled + added);
    done.expanded += added;
    if (!done.ready) break;
  }
  FlushTargets(0, num_gold_);
  return done;
}

void GoldAttention::AddTargets(const AttendedSequence& sequence, std::int64_t page_index,
                               std::int64_t begin, std::int64_t end, std::int64_t tile) {
  const std::int64_t page_tokens = cache_.shape().page_tokens;
  const auto page = [&](std::int64_t i) {
    return std::int64_t{sequence.pages[static_cast<std::size_t>(i)]} * page_tokens;
  };
  for (std::int64_t offset = begin; offset < end; ++offset) {
    const std::int64_t row = page(page_index) + offset;
    std::int64_t previous = row - 1;
    if (offset == 0)
      previous = page_index == 0 ? -1 : page(page_index - 1) + page_tokens - 1;
    targets_.push_back({.row = row,
                        .previous_row = previous,
                        .position = page_index * page_tokens + offset,
                        .tile_row = tile * page_tokens + offset});
  }
}

void GoldAttention::FlushTargets(std::int64_t first_layer, std::int64_t last_layer) {
  if (targets_.empty()) return;
  cache_.StageTargets(targets_);
  inputs_.Upload();
  cache_.Expand(first_layer, last_layer);
  targets_.clear();
  flushed_ = true;
}

bool GoldAttention::ChunkFits(std::size_t begin, std::int64_t scratch) const {
  const std::int32_t sequence = tiles_[begin].sequence;
  std::int64_t count = 0;
  for (std::size_t i = begin;
       i < tiles_.size() && tiles_[i].sequence == sequence && count < KvTiles::kCutTiles;
       ++i, ++count)
    scratch += tiles_[i].frame < 0 ? 1 : 0;
  return scratch <= scratch_tiles_ && tile_.size() + count <= kMaxGroupTiles;
}

std::size_t GoldAttention::BuildGroup(std::size_t begin, std::int64_t gold_layer) {
  const std::int64_t page_tokens = cache_.shape().page_tokens;
  tile_begin_.clear();
  tile_.Clear();
  tile_position_.Clear();
  std::int64_t scratch = 0;
  std::size_t i = begin;
  for (std::size_t s = 0; s < sequences_.size(); ++s) {
    tile_begin_.push_back(static_cast<std::int32_t>(tile_.size()));
    for (; i < tiles_.size() && tiles_[i].sequence == static_cast<std::int32_t>(s); ++i) {
      const Tile& tile = tiles_[i];
      if (tile.page_index % KvTiles::kCutTiles == 0 && !ChunkFits(i, scratch)) break;
      std::int64_t place = tile.frame;
      if (tile.frame < 0) {
        place = arena_.num_frames() + scratch++;
        const std::int64_t count = TokensOn(sequences_[s], tile.page_index);
        if (static_cast<std::int64_t>(targets_.size()) + count >
            cache_.shape().max_targets)
          FlushTargets(gold_layer, gold_layer + 1);
        AddTargets(sequences_[s], tile.page_index, 0, count, place);
      }
      tile_.Push(static_cast<std::int32_t>(place));
      tile_position_.Push(tile.page_index * page_tokens);
    }
  }
  tile_begin_.push_back(static_cast<std::int32_t>(tile_.size()));
  FlushTargets(gold_layer, gold_layer + 1);
  tile_.Stage();
  tile_position_.Stage();
  PlanRuns();
  CountChunks();
  return i;
}

void GoldAttention::PlanRuns() {
  runs_.Build(tile_begin_, tile_.host(), row_sequence_);
  order_.Clear();
  run_.Clear();
  num_runs_.Clear();
  for (const std::int32_t row : runs_.order()) order_.Push(row);
  for (const AttendRun& run : runs_.runs()) run_.Push(run);
  num_runs_.Push(static_cast<std::int32_t>(run_.size()));
  order_.Stage();
  run_.Stage();
  num_runs_.Stage();
}

void GoldAttention::CountChunks() {
  const std::int64_t page_tokens = cache_.shape().page_tokens;
  const std::int64_t chunk_tokens = KvTiles::kCutTiles * page_tokens;
  chunk_begin_.Clear();
  std::int32_t chunks = 0;
  for (std::int64_t row = 0; row < position_.size(); ++row) {
    chunk_begin_.Push(chunks);
    const auto i = static_cast<std::size_t>(row);
    const auto list = static_cast<std::size_t>(row_sequence_[i]);
    const std::int32_t first = tile_begin_[list];
    const std::int32_t tiles = tile_begin_[list + 1] - first;
    if (tiles == 0) continue;
    const std::int64_t before = tile_position_.host()[static_cast<std::size_t>(first)];
    const std::int64_t seen =
        std::min(position_.host()[i] + 1 - before, tiles * page_tokens);
    // All tiles of a row are there at once, or it sees those of this group later.
    GOLDFINCH_CHECK(seen > 0 || !one_group_);
    if (seen > 0)
      chunks += static_cast<std::int32_t>((seen + chunk_tokens - 1) / chunk_tokens);
  }
  chunk_begin_.Push(chunks);
  chunk_begin_.Stage();
}

void GoldAttention::Attend(std::int64_t gold_layer, const Matrix& q,
                           const NormWeights& norm, const Matrix& out) {
  AttendArgs args{.q = q,
                  .tiles = cache_.tiles(gold_layer),
                  .heads = num_heads_,
                  .position = position_.device(),
                  .order = order_.device(),
                  .runs = run_.device(),
                  .num_runs = num_runs_.device(),
                  .tile = tile_.device(),
                  .tile_position = tile_position_.device(),
                  .chunk_begin = chunk_begin_.device(),
                  .carry = carry_.Rows(q.rows),
                  .first = true};
  if (one_group_) {
    args.num_chunks = chunk_begin_.host().back();
    b_.Attend(args);
  } else {
    for (std::size_t begin = 0; begin < tiles_.size(); args.first = false) {
      const std::size_t end = BuildGroup(begin, gold_layer);
      GOLDFINCH_CHECK(end > begin);
      inputs_.Upload();
      args.num_chunks = chunk_begin_.host().back();
      b_.Attend(args);
      begin = end;
    }
  }
  b_.AttendFinish(args.carry, norm, out);
}

}  // namespace goldfinch
