// bfloat16 on the host: the upper half of a float32.
#pragma once

#include <bit>
#include <cstdint>

namespace goldfinch {

// Round to nearest even. `value` is not a NaN: weights are checked when they are read.
inline std::uint16_t RoundToBf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float Bf16ToFloat(std::uint16_t bf16) {
  return std::bit_cast<float>(std::uint32_t{bf16} << 16);
}

}  // namespace goldfinch
