// Rope: pairs (2i, 2i+1) of each head are turned by position * frequency[i], the angle in
// float64 so that the error does not grow with the position.
#pragma once

#include <cstdint>

#include "engine/kernels/cuda/device.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Of one position.
struct RopeTurn {
  float cosine[kRopePairs], sine[kRopePairs];
};

// By the first threads of a block, in shared memory: to be seen after a barrier.
__device__ __forceinline__ void MakeRopeTurn(std::int64_t position, const double* frequency,
                                         RopeTurn& turn) {
  if (threadIdx.x >= kRopePairs) return;
  const double angle = static_cast<double>(position) * frequency[threadIdx.x];
  turn.cosine[threadIdx.x] = static_cast<float>(cos(angle));
  turn.sine[threadIdx.x] = static_cast<float>(sin(angle));
}

}  // namespace goldfinch::GOLDFINCH_CUDA
