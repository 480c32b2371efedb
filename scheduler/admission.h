// Which waiting requests get memory now: policy as integers.
//
// The order is strict: the highest priority first, equals first come first served, and
// admission stops at the first request that does not fit. A smaller request behind it
// may not overtake. The price is memory left idle while the large one waits; what it
// buys is that no request starves: what runs ends, its memory comes back, and nothing
// younger of the same priority can take it away. (With overtaking, a steady flow of
// small requests would keep a large one out for ever.) Only higher priorities go ahead,
// which is what a priority is for.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace goldfinch {

// One waiting request, as what it needs and what orders it.
struct WaitingRequest {
  std::int32_t priority = 0;
  std::uint64_t arrival = 0;  // no two are equal; the lower came first
  std::int64_t slots = 0;
  std::int64_t pages = 0;
};

struct FreeMemory {
  std::int64_t slots = 0;
  std::int64_t pages = 0;
};

// Indices into `waiting`, which is in any order, of those to admit, in the order of
// admission.
std::vector<std::size_t> Admit(std::span<const WaitingRequest> waiting, FreeMemory free);

}  // namespace goldfinch
