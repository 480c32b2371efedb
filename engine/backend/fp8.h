// Eight-bit floating point, e4m3 of the Open Compute Project's OFP8 (E4M3FN), on the
// host: a sign, four bits of exponent with bias 7, three of mantissa. Up to 448, steps of
// 2^-9 below 2^-6, no infinities; what would be the largest magnitude is NaN.
//
// Threads: pure functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace goldfinch {

inline constexpr float kLargestFp8 = 448.0f;

// To nearest, halfway to the even one; beyond the largest, the largest. `value` is not a
// NaN: weights are checked when they are read.
inline std::uint8_t RoundToFp8(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 31 << 7;
  const float magnitude = std::min(std::abs(value), kLargestFp8);
  // Multiples of 2^-9, the eighth being the first normal number.
  if (magnitude < 0x1p-6f)
    return static_cast<std::uint8_t>(
        sign | static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p9f)));
  const auto wide = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t rounded = (wide + 0x7ffffu + ((wide >> 20) & 1u)) >> 20;
  return static_cast<std::uint8_t>(sign | (rounded - (127u - 7u) * 8u));
}

}  // namespace goldfinch
