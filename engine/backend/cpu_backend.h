// The CPU backend: host memory is device memory, and every op is cut among a pool of
// threads by rows, columns or heads.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/kernels/cpu/kernels.h"

namespace goldfinch {

struct CpuBackendOptions {
  std::string isa = "auto";  // see SelectCpuKernels
  int num_threads = 0;       // 0: UsableCpus()
  bool pin_threads = false;  // see ThreadPool
};

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options);

// With these kernels, which outlive it.
std::unique_ptr<Backend> CpuBackendOf(const CpuKernels& kernels, int num_threads,
                                      bool pin_threads);

}  // namespace goldfinch
