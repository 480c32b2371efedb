// Which kernel the products of a launch have. All have the same bits (gemm.cu); which one
// is fast depends on how many tiles there are for the multiprocessors of a device. Plain
// arithmetic, which needs no device.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/gemm_layout.h"

namespace goldfinch {

// Up to so many tiles of 64 rows are split: a product of 2048 outputs and 128 rows, or of
// 256 if its sums are long. Beyond it, writing and reading partial sums costs more than
// the blocks that are missing.
inline constexpr std::int64_t kMaxSplitTiles = 64;
inline constexpr std::int64_t kMaxShortSplitTiles = 32;
inline constexpr std::int64_t kLongStrips = 128;

enum class GemmShape : std::uint8_t {
  kRows8,       // 16 outputs by so many rows, a warp a slice
  kRows8Deep,   // the same with more under way
  kRows16,      //
  kRows32,      //
  kRows32Wide,  // 32 outputs
  kSplit64,     // 128 outputs by 64 rows, a block a slice
  kRows64,      // 128 outputs by so many rows, a block all slices
  kRows128,
};

// What the products of a launch have in common.
struct GemmSizes {
  std::int64_t rows = 0;  // most
  std::int64_t fewest_strips = 0, most_strips = 0;
  std::int64_t outputs = 0;   // of all
  std::int64_t tiles64 = 0;   // of 128 outputs by 64 rows
  std::int64_t tiles128 = 0;  // of 128 outputs by 128 rows
};

// Sums whose ends take as long: for eight strips a tile of 64 rows reads 96 KB, and for
// a lerp of what comes of them 64 KB, which nothing has asked for before.
constexpr bool AreShort(const GemmSizes& sizes) { return sizes.most_strips <= kSlices; }

// A multiprocessor takes 175 ns of its tensor cores for a strip of a tile of 128 rows,
// and for one of 64 rows the 110 ns in which it gets 12 KB from the second level cache.
// Two of the smaller ones that share it take twice as long, so what counts is how many
// tiles the busiest one has.
constexpr GemmShape ShapeOf(const GemmSizes& sizes, std::int64_t multiprocessors) {
  constexpr std::int64_t kCost64 = 5, kCost128 = 8;
  // A slice has two strips at least.
  constexpr std::int64_t kMinSplitStrips = 2 * kSlices;
  // Of tiles that have a multiprocessor to themselves each needs more on its way.
  if (sizes.rows <= 8)
    return sizes.outputs <= 16 * multiprocessors ? GemmShape::kRows8Deep
                                                 : GemmShape::kRows8;
  if (sizes.rows <= 16) return GemmShape::kRows16;
  if (sizes.rows <= 32)
    return sizes.outputs < 32 * multiprocessors ? GemmShape::kRows32
                                                : GemmShape::kRows32Wide;
  // Few outputs, as of a low rank: a second kernel that adds slices would take as long as
  // the product.
  if (sizes.rows <= 64 && 4 * sizes.outputs <= 16 * multiprocessors)
    return GemmShape::kRows32;
  const std::int64_t most_split =
      sizes.fewest_strips >= kLongStrips ? kMaxSplitTiles : kMaxShortSplitTiles;
  if (sizes.tiles64 <= most_split && sizes.fewest_strips >= kMinSplitStrips)
    return GemmShape::kSplit64;
  // Half of a tile of 128 rows would be zeros; and where ends take the time, one block of
  // two should be at its sums.
  if (sizes.rows <= 64 || AreShort(sizes)) return GemmShape::kRows64;
  const auto most = [multiprocessors](std::int64_t tiles) {
    return (tiles + multiprocessors - 1) / multiprocessors;
  };
  return most(sizes.tiles64) * kCost64 < most(sizes.tiles128) * kCost128
             ? GemmShape::kRows64
             : GemmShape::kRows128;
}

}  // namespace goldfinch
