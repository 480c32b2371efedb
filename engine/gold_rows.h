// Which positions of a sequence GOLD layers have run on, and what may go on from there.
//
// Logits at position f depend on GOLD activations of the 2G positions up to f (G GOLD
// layers, two token shifts each), so a sequence may go on to first logits f from any
// position if GOLD layers ran on all of [f + 1 - 2G, that position).
//
// Threads: thread-compatible.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace goldfinch {

class GoldRows {
 public:
  // The first position on which a span from `position` on has to run GOLD layers; they run
  // on all later ones too. `rows` is 2G, the others are those of SequenceSpec.
  static std::int64_t Begin(std::int64_t rows, std::int64_t position,
                            std::span<const std::int64_t> keep_at,
                            std::int64_t first_logits) {
    const auto next = std::upper_bound(keep_at.begin(), keep_at.end(), position);
    const std::int64_t end = next == keep_at.end() ? first_logits + 1 : *next;
    return std::max<std::int64_t>(0, end - rows);
  }

  // The span [position, end) ran, with GOLD layers from `begin` on.
  void Advance(std::int64_t position, std::int64_t end, std::int64_t begin) {
    if (begin > position) from_ = std::min(begin, end);
  }

  // Whether what ran so far, up to `position`, is enough for these first logits.
  bool CanGoOn(std::int64_t rows, std::int64_t position,
               std::int64_t first_logits) const {
    const std::int64_t needed = std::max<std::int64_t>(0, first_logits + 1 - rows);
    return needed >= std::min(from_, position);
  }

 private:
  std::int64_t from_ = 0;  // they ran on all positions from here on
};

}  // namespace goldfinch
