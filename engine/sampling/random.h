// The random draws of sampling: a pure function of (seed, candidate, index), where index
// is the number of tokens generated so far. There is no state to keep, save or restore:
// whoever continues a sequence, on any machine, draws the very same numbers.
//
// The function is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", 2011): ten rounds of integer multiply and xor over a 128-bit counter under a
// 64-bit key. Integer arithmetic only, so the same bits everywhere.
//
// Threads: pure functions, any thread.
#pragma once

#include <array>
#include <cstdint>

namespace goldfinch {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

// The bijection of the counters that `key` names.
constexpr PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr int kRounds = 10;
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kKeyStep0 = 0x9E3779B9;  // golden ratio
  constexpr std::uint32_t kKeyStep1 = 0xBB67AE85;  // sqrt(3) - 1
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += kKeyStep0;
    key[1] += kKeyStep1;
  }
  return counter;
}

// Uniform in [0, 1), a multiple of 2^-53. Key: the seed, low word first. Counter: index
// (low word first), candidate, 0. The top 53 bits of (word 1, word 0) of the result.
constexpr double UniformDraw(std::uint64_t seed, std::uint32_t candidate,
                             std::uint64_t index) {
  const PhiloxCounter words = Philox4x32(
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
       candidate, 0},
      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const std::uint64_t bits = (std::uint64_t{words[1]} << 32) | words[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace goldfinch
