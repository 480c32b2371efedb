// Decode steps as a device records them (Backend::Record): a record fits one number of
// sequences, so a step with fewer is padded with sequences that nobody asks about. Each
// has a slot and a place in the cache that no other sequence has.
#pragma once

#include <algorithm>
#include <cstdint>

namespace goldfinch {

// Larger steps are not recorded: launching takes a small part of their time.
inline constexpr std::int64_t kMaxRecordedSequences = 256;

// Sequences a step of `count` of them is padded to: 1, 2, 4, or a multiple of 8.
constexpr std::int64_t PaddedSequences(std::int64_t count) {
  if (count <= 2) return count;
  if (count <= 4) return 4;
  return (count + 7) / 8 * 8;
}

// Most that are added.
inline constexpr std::int64_t kMaxPadding = 7;

// Rows of the cache for each: that of its token, and one before it.
inline constexpr std::int64_t kPaddingCacheRows = 2;

// The row of the token of padding sequence `index`, where rows for padding begin at
// `spare_row`.
constexpr std::int64_t PaddingRow(std::int64_t spare_row, std::int64_t index) {
  return spare_row + kPaddingCacheRows * index + 1;
}

// The next larger number that steps are padded to.
constexpr std::int64_t NextPadded(std::int64_t padded) {
  return PaddedSequences(padded + 1);
}

}  // namespace goldfinch
