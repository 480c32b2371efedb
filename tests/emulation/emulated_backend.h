// The CUDA backend on the emulated device.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/cuda_backend.h"

namespace goldfinch::cuda_emulated {

absl::StatusOr<CudaDevice> FindCudaDevice(int device);
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const CudaBackendOptions& options);

}  // namespace goldfinch::cuda_emulated
