#include "sessions/checksum.h"

#define XXH_STATIC_LINKING_ONLY  // the state on the stack
#include <xxhash.h>
// The library's choice of instruction set by the processor at hand; half the time.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

namespace goldfinch {

std::uint64_t Checksum(std::string_view first, std::string_view second,
                       std::uint64_t seed) {
  if (second.empty()) return XXH3_64bits_withSeed(first.data(), first.size(), seed);
  XXH3_state_t state;
  XXH3_64bits_reset_withSeed(&state, seed);
  XXH3_64bits_update(&state, first.data(), first.size());
  XXH3_64bits_update(&state, second.data(), second.size());
  return XXH3_64bits_digest(&state);
}

}  // namespace goldfinch
