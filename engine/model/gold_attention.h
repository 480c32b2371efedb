// Attention of a step's GOLD rows over the caches of their sequences.
//
// Which pages are expanded where: every page of the step's sequences gets a tile of the
// arena if there is room; the rest of a sequence that does not fit is rebuilt into a few
// scratch tiles, group after group, each time it is attended to. Rows fold tiles in
// ascending positions either way, so both give the same bits.
//
// Threads: one at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/cache/expanded_arena.h"
#include "engine/engine.h"
#include "engine/model/attend_runs.h"
#include "engine/model/gold_cache.h"

namespace goldfinch {

// One sequence of the step, with at least one GOLD row.
struct AttendedSequence {
  std::span<const std::int32_t> pages;
  std::int64_t length = 0;  // tokens in the cache, those of this step included
};

class GoldAttention {
 public:
  // Tiles beyond the arena's, shared by all that does not fit it: as much as is expanded
  // at once, and no less than a list of tiles is cut by.
  static std::int64_t ScratchTiles(std::int64_t max_targets, std::int64_t page_tokens) {
    return std::max(KvTiles::kCutTiles, max_targets / page_tokens);
  }

  // `arena` decides on tiles [0, arena.num_frames()) of `cache`; scratch tiles follow.
  GoldAttention(DeviceArena& memory, StepInputs& inputs, GoldCache& cache,
                ExpandedArena& arena, std::int32_t num_heads, std::int64_t num_gold,
                std::int64_t max_rows, std::int64_t max_sequences);

  // Plans a step, and expands what its sequences lack in the arena, for all layers, but
  // for the last of it: that, and all that Attend reads, is staged among the step's
  // inputs. `row_sequence[i]` and `row_position[i]` describe GOLD row i. Behind them come
  // `padding` rows, each of a sequence of its own that has nothing to attend to, and
  // whose token is expanded (padding.h).
  void Begin(std::span<const AttendedSequence> sequences,
             std::span<const std::int32_t> row_sequence,
             std::span<const std::int64_t> row_position, std::int64_t padding);

  // Whether the step queues the same as any other with as many rows does: every sequence
  // has one row, whose token alone is not expanded yet.
  bool repeats() const { return repeats_; }

  // Queues the rest of what Begin was to expand: after an upload of the step's inputs,
  // before the first Attend.
  void ExpandStaged() { cache_.Expand(0, num_gold_); }

  // Expands up to `max_tokens` tokens of what the sequence lacks in the arena, as far as
  // there is room without what the last step used.
  Preparation Prepare(const AttendedSequence& sequence, std::int64_t max_tokens);

  // out = LN(attention of q) of one GOLD layer, rounded to out's type. q, float32, and
  // out are [rows, A].
  void Attend(std::int64_t gold_layer, const Matrix& q, const NormWeights& norm,
              const Matrix& out);

  // Positions of the rows, in device memory, for rope.
  const std::int64_t* positions() const { return position_.device(); }

 private:
  struct Tile {
    std::int32_t sequence;
    std::int32_t page_index;
    std::int32_t frame;  // -1: rebuilt into scratch
  };

  void PlanSequence(std::int32_t index, const AttendedSequence& sequence);
  // Expands rows [arena_.filled(frame), end) of a page into its frame, for all layers.
  void Fill(const AttendedSequence& sequence, std::int64_t page_index, std::int32_t frame,
            std::int64_t end);
  // Tokens of the sequence on its page.
  std::int64_t TokensOn(const AttendedSequence& sequence, std::int64_t page_index) const {
    const std::int64_t page_tokens = cache_.shape().page_tokens;
    return std::min(page_tokens, sequence.length - page_index * page_tokens);
  }
  void AddTargets(const AttendedSequence& sequence, std::int64_t page_index,
                  std::int64_t begin, std::int64_t end, std::int64_t tile);
  // One row of a sequence without a past.
  void AddPadding(std::int64_t index);
  // Expands targets_, for these layers.
  void FlushTargets(std::int64_t first_layer, std::int64_t last_layer);
  // Whether the tiles from `begin` to the next place where their list may be cut go into
  // the group that is being built, which has `scratch` scratch tiles so far.
  bool ChunkFits(std::size_t begin, std::int64_t scratch) const;
  // Stages which rows read what together.
  void PlanRuns();
  // Stages the tile arrays, filled from tiles_[begin, ...); returns the end of the group.
  std::size_t BuildGroup(std::size_t begin, std::int64_t gold_layer);
  // Stages where each row's chunks begin.
  void CountChunks();

  Backend& b_;
  StepInputs& inputs_;
  GoldCache& cache_;
  ExpandedArena& arena_;
  const std::int64_t num_heads_, num_gold_, scratch_tiles_;

  std::vector<AttendedSequence> sequences_;
  std::vector<Tile> tiles_;  // by sequence, then by position
  std::vector<ExpandTarget> targets_;
  bool one_group_ = false;  // its arrays are staged by Begin
  bool flushed_ = false;    // some of the step's targets have been expanded
  bool repeats_ = false;

  std::vector<std::int32_t> row_sequence_;  // [rows]
  std::vector<std::int32_t> tile_begin_;    // [sequences + 1] of the group's tile arrays
  AttendRuns runs_;

  StepArray<std::int64_t> position_;     // [rows]
  StepArray<std::int32_t> order_;        // [rows] see AttendArgs
  StepArray<AttendRun> run_;             // [num_runs_]
  StepArray<std::int32_t> num_runs_;     // [1]
  StepArray<std::int32_t> chunk_begin_;  // [rows + 1]
  // Last of all, since they are large.
  StepArray<std::int32_t> tile_;
  StepArray<std::int64_t> tile_position_;
  Matrix carry_;
};

}  // namespace goldfinch
