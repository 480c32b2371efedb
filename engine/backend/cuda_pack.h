// Weights as the CUDA kernels want them (engine/kernels/cuda/gemm.h), laid out in host
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/sync/thread_pool.h"

namespace goldfinch {

struct CudaPacked {
  std::vector<std::byte> weights;  // padding included
  std::vector<float> scales;       // one an output; kI8 and kFp8 only
};

// As Backend::Pack says.
CudaPacked PackForCuda(const HostMatrix& weights, DType type, DType storage,
                       ThreadPool& pool);

// [out, in] in bf16, without gaps.
std::vector<std::uint16_t> RowMajorBf16(const HostMatrix& weights, ThreadPool& pool);

}  // namespace goldfinch
