// Which instruction sets this binary carries kernels for, and which the machine runs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/kernels/cpu/kernels.h"

namespace goldfinch {

// Names of the sets of this architecture, plainest first: "plain", then "neon", or
// "avx2", "avx512" and "avx512_bf16".
std::vector<std::string> CpuIsas();

// "auto" is the fastest that the machine runs; whether that is "avx512" or "avx512_bf16",
// of the same bits, a trial says the first time. A name pins one. INVALID_ARGUMENT for
// another name, FAILED_PRECONDITION for one this machine does not run.
absl::StatusOr<const CpuKernels*> SelectCpuKernels(const std::string& isa);

}  // namespace goldfinch
