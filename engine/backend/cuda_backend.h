// The CUDA backend: one device, one stream. Ops are queued and return at once; what waits
// are Synchronize, copies to the host, Sample, FinishSample and Score.
//
// Errors: the first one of the device is kept (Backend::status), later ops do nothing.
// Allocate throws std::bad_alloc when the device has too little memory left.
//
// This header is plain C++, so that whoever makes a backend needs no CUDA. The sources
// are compiled twice where the tests want it: for the device, and for the emulated one
// (tests/emulation), in a namespace of its own.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

#ifndef GOLDFINCH_CUDA
#define GOLDFINCH_CUDA cuda
#endif

namespace goldfinch {

struct CudaBackendOptions {
  int device = 0;
  // Of partial results of attention: more of them at once, up to what a step has.
  std::int64_t attention_bytes = 64 << 20;
  std::int64_t piece_rows = 2048;  // Backend::piece_rows
  // Steps that come again are recorded as CUDA graphs.
  bool graphs = true;
  // A kernel may begin while the one before it in the stream runs, from sm_90 on.
  bool overlap = true;
  // Products of prompts are cuBLASLt's, where it can be opened.
  bool cublas = true;
  // A row has the same bits among any other rows. Else products of many rows may be
  // faster, where there is cuBLASLt.
  bool batch_invariant = true;
  // Most rows that cuBLASLt gets at once, and that its algorithms are chosen for: with
  // fewer, products of a model's width do not fill a large device.
  std::int64_t lt_rows = 4096;
  // Matrices with a shorter side stay with our own kernels: these run small products side
  // by side, and what makes a narrow one long is the finish of its sums.
  std::int64_t lt_least_side = 256;
  // That kernels are chosen for, some of which a device of another size never runs; 0:
  // those the device has.
  int multiprocessors = 0;
};

}  // namespace goldfinch

namespace goldfinch::GOLDFINCH_CUDA {

// UNAVAILABLE where there is no driver or no device, INVALID_ARGUMENT for a number no
// device has, FAILED_PRECONDITION for one below compute capability 8.0, INTERNAL for one
// that is there and fails, or has no room for a context, RESOURCE_EXHAUSTED for one
// without room for what the backend needs.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    const CudaBackendOptions& options);

}  // namespace goldfinch::GOLDFINCH_CUDA
