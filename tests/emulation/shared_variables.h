// The __shared__ variables of all kernels: on the host each of them is one static
// variable, which blocks use one after another. A block of a real device finds whatever
// was there before; here it finds NaNs.
//
// Where they are is read from the program's own table of symbols. A program without one
// (stripped) runs as well, and finds less.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <vector>

namespace emulation {

// Fills all of them with bytes of ones: NaN in every float type, -1 in integers.
void PoisonSharedVariables();

// Whether [p, p + bytes) is inside one.
bool InSharedVariables(const void* p, std::size_t bytes);

// What they hold, or nothing where that is what PoisonSharedVariables leaves.
std::vector<unsigned char> SaveSharedVariables();
void RestoreSharedVariables(const std::vector<unsigned char>& saved);

}  // namespace emulation
