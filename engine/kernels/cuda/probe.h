// Trying out a product that is not ours: inputs for it, and whether two results are the
// same bit for bit. Pointers are device memory.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/launch.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Whether the kernels were compiled to wait, where they say so, for the kernel before
// them: for sm_90 or later, and not for another device and then translated for this one.
bool KernelsWait(Stream& stream);

// `count` numbers in bf16, of both signs and magnitudes from 1/8 to 2, the same ones for
// the same seed. Sums of their products are rounded at every step, so that two orders of
// adding differ.
void FillProbe(Stream& stream, std::uint16_t* numbers, std::int64_t count,
               std::uint32_t seed);

// *different += how many of `count` elements are not the same in `a` and `b`.
void CountDifferent(Stream& stream, const float* a, const float* b, std::int64_t count,
                    unsigned* different);

}  // namespace goldfinch::GOLDFINCH_CUDA
