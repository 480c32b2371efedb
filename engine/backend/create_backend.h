// Makes the backend an engine runs on. create_backend.cc is the one file that knows
// which backends this build has.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace goldfinch {

struct BackendOptions {
  // "cpu"; "cuda"; or "auto": CUDA where the build and the machine have it, else the CPU.
  // A device that is there and cannot be used is an error of "auto" too.
  std::string backend = "cpu";
  int device = 0;  // number of the CUDA device
  bool cuda_graphs = true;
  bool cuda_overlap = true;
  bool cublas = true;
  bool batch_invariant = true;  // CUDA; on the CPU it always is
  std::string cpu_isa = "auto";
  int num_threads = 0;       // 0: one a hardware thread
  bool pin_threads = false;  // each to a processor, where there are as many of them
};

// Whether a backend's creation failed because there is no device that it could run on.
// Not: a device that is busy, or a number that none has.
bool MeansNoDevice(const absl::Status& status);

// INVALID_ARGUMENT for what no machine has, UNAVAILABLE or FAILED_PRECONDITION for what
// this build or machine lacks.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace goldfinch
