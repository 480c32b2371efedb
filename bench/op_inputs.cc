#include "bench/op_inputs.h"

#include <cstddef>
#include <numeric>

#include "engine/check.h"
#include "engine/model/attend_runs.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kPage = 64;

}  // namespace

Matrix OpInputs::Floats(std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  for (float& value : values) value = normal(random);
  return {.data = Array(values),
          .type = DType::kF32,
          .rows = rows,
          .cols = cols,
          .stride = cols};
}

Matrix OpInputs::Floats(std::int64_t rows, std::int64_t cols, float value) {
  const std::vector<float> values(static_cast<std::size_t>(rows * cols), value);
  return {.data = Array(values),
          .type = DType::kF32,
          .rows = rows,
          .cols = cols,
          .stride = cols};
}

RowSpans OpInputs::Spans(std::int64_t rows, bool single) {
  const std::int64_t count = single ? 1 : rows;
  std::vector<std::int32_t> begin(static_cast<std::size_t>(count) + 1);
  std::vector<std::int32_t> slot(static_cast<std::size_t>(count));
  std::iota(begin.begin(), begin.end(), 0);
  std::iota(slot.begin(), slot.end(), 0);
  begin.back() = static_cast<std::int32_t>(rows);
  RowSpans spans = {.count = static_cast<std::int32_t>(count),
                    .begin = Array(begin),
                    .slot = Array(slot)};
  spans.next_slot = spans.slot;
  if (single && backend_.prompt_grid() > 1) spans.lead = Array<std::int32_t>({0});
  return spans;
}

WkvArgs OpInputs::Wkv(std::int64_t rows, std::int64_t d, bool single) {
  const std::int64_t heads = d / kHeadSize;
  return {.r = Floats(rows, d),
          .k = Floats(rows, d),
          .v = Floats(rows, d),
          .w = Floats(rows, d, 0.97f),
          .state = Floats(single ? 1 : rows, heads * kHeadState, 0.01f),
          .spans = Spans(rows, single),
          .heads = heads,
          .y = Floats(rows, d, 0.0f)};
}

AttendArgs OpInputs::Attend(const std::vector<std::int64_t>& contexts, std::int64_t d,
                            Pasts pasts) {
  std::vector<std::int64_t> position, tile_position;
  std::vector<std::int32_t> list, tile_begin = {0}, chunk_begin = {0};
  for (const std::int64_t context : contexts) {
    GOLDFINCH_CHECK(context % kPage == 0);
    position.push_back(context - 1);
    list.push_back(static_cast<std::int32_t>(list.size()));
    for (std::int64_t at = 0; at < context; at += kPage) tile_position.push_back(at);
    tile_begin.push_back(static_cast<std::int32_t>(tile_position.size()));
    const std::int64_t chunks =
        (context / kPage + KvTiles::kCutTiles - 1) / KvTiles::kCutTiles;
    chunk_begin.push_back(chunk_begin.back() + static_cast<std::int32_t>(chunks));
  }
  std::vector<std::int32_t> tile(tile_position.size());
  std::iota(tile.begin(), tile.end(), 0);
  std::int32_t num_tiles = tile_begin.back();
  if (pasts == Pasts::kShared) {
    num_tiles = tile_begin[1];
    for (const std::int64_t context : contexts)
      GOLDFINCH_CHECK(context == contexts.front());
    for (std::int32_t& index : tile) index %= num_tiles;
  }
  AttendRuns runs;
  runs.Build(tile_begin, tile, list);

  KvTiles kv = {.type = DType::kBf16, .heads = d / kHeadSize, .page_tokens = kPage};
  // A small number throughout, as the bytes that both halves of it are.
  const std::vector<std::byte> one(static_cast<std::size_t>(kv.tile_bytes()),
                                   std::byte{0x3c});
  kv.data = Bytes(num_tiles * kv.tile_bytes());
  auto* place = static_cast<std::byte*>(kv.data);
  for (std::int32_t i = 0; i < num_tiles; ++i, place += kv.tile_bytes())
    backend_.CopyToDevice(place, one.data(), kv.tile_bytes());

  const auto batch = static_cast<std::int64_t>(contexts.size());
  return {
      .q = Floats(batch, d),
      .tiles = kv,
      .heads = kv.heads,
      .position = Array(position),
      .order = Array(std::vector(runs.order().begin(), runs.order().end())),
      .runs = Array(std::vector(runs.runs().begin(), runs.runs().end())),
      .num_runs = Array<std::int32_t>({static_cast<std::int32_t>(runs.runs().size())}),
      .tile = Array(tile),
      .tile_position = Array(tile_position),
      .chunk_begin = Array(chunk_begin),
      .num_chunks = chunk_begin.back(),
      .carry = Floats(batch, kv.heads * kCarrySize, 0.0f)};
}

}  // namespace goldfinch
