// Makes the backend an engine runs on. create_backend.cc is the one file that knows
// which backends this build has.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace goldfinch {

struct BackendOptions {
  // "cpu"; "cuda"; or "auto": CUDA where the build and the machine have it, else the CPU.
  // A device that is there and cannot be used is an error of "auto" too.
  std::string kind = "cpu";
  std::int32_t device = 0;   // number of the CUDA device
  bool cuda_graphs = true;   // decode steps are launched as graphs; no bit depends on it
  bool cuda_overlap = true;  // kernels begin before others have ended; likewise
  bool cublas = true;        // products of prompts on CUDA, where the library is there
  // A row has the same bits among any other rows. Off, products of many rows on a CUDA
  // device may be faster; the CPU's bits are the same either way.
  bool batch_invariant = true;
  std::string cpu_isa = "auto";  // or one of CpuIsas()
  std::int32_t num_threads = 0;  // 0: one a CPU it may use
  bool pin_threads = false;      // each to a processor, where there are as many of them
};

// Whether a backend's creation failed because there is no device that it could run on.
// Not: a device that is busy, or a number that none has.
bool MeansNoDevice(const absl::Status& status);

// INVALID_ARGUMENT for what no machine has, UNAVAILABLE or FAILED_PRECONDITION for what
// this build or machine lacks.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace goldfinch
