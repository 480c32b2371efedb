// The CUDA backend on the emulated device.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/cuda_backend.h"

namespace goldfinch::cuda_emulated {

// Little room for partial results, so that attention goes in several passes, as does
// expansion by small pieces; and few rows for a library, so that trying its algorithms
// takes no time.
inline constexpr CudaBackendOptions kTightOptions = {
    .attention_bytes = 64 << 10, .piece_rows = 256, .lt_rows = 512, .lt_least_side = 64};

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const CudaBackendOptions& options);

}  // namespace goldfinch::cuda_emulated
