// What the machine can do right now: the limits that figures are quoted against.
#pragma once

#include <cstdint>

namespace goldfinch {

// Medians of `passes`, as the figures beside them are medians: both then see the same
// neighbours on a shared machine.

// Bytes per second that `threads` threads together read from memory, a buffer far larger
// than any cache.
double ReadBandwidth(int threads, int passes);

// Floating-point operations per second of `threads` threads in products of bf16 pairs
// (AVX512-BF16) where the machine has them and bf16 is asked for, else in float32 fused
// multiply-adds of the widest vectors; operands in registers.
double PeakFlops(int threads, bool bf16, int passes);

}  // namespace goldfinch
