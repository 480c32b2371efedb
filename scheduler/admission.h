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
#include <functional>
#include <span>

namespace goldfinch {

// One waiting request, as what orders it.
struct WaitingRequest {
  std::int32_t priority = 0;
  std::uint64_t arrival = 0;  // no two are equal; the lower came first
};

// Calls `take` with the index of one request after another, in the order of admission,
// until it returns false: that one does not fit, and waits.
void Admit(std::span<const WaitingRequest> waiting,
           const std::function<bool(std::size_t)>& take);

}  // namespace goldfinch
