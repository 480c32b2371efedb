// Two ways to the products of inputs in bf16, tried on the machine at hand.
#pragma once

#include "engine/kernels/cpu/kernels.h"

namespace goldfinch {

struct GemmTrial {
  bool same_bits;  // of some thousand sums: far from the limits of float32, and at them
  double ratio;    // the time that `a` takes, in times of `b`
};

// Runs some products of many rows both ways on the calling thread, in about a
// millisecond. Both run on this machine, and have products of bf16 weights.
GemmTrial TryGemm(const CpuKernels& a, const CpuKernels& b);

}  // namespace goldfinch
