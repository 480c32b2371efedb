// XXH3-64 of bytes in two pieces: what snapshots and files are checked with.
//
// Threads: a pure function.
#pragma once

#include <cstdint>
#include <string_view>

namespace goldfinch {

// Of `first` and then `second`; `seed` is 0 or the checksum of what comes before.
std::uint64_t Checksum(std::string_view first, std::string_view second,
                       std::uint64_t seed);

}  // namespace goldfinch
