// Launching kernels, and what becomes of errors: the first one of a stream is kept and
// everything after it is left out, so ops need no results of their own. A fault of a
// kernel shows at a later call; which one failed first is all that can be said.
//
// Threads: one at a time, as for a Backend.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#ifndef GOLDFINCH_CUDA
#define GOLDFINCH_CUDA cuda
#endif

namespace goldfinch::GOLDFINCH_CUDA {

// A stream with its first error.
struct Stream {
  cudaStream_t handle = nullptr;
  bool overlap = false;  // programmatic dependent launch: sm_90 and later
  int multiprocessors = 1;
  cudaError_t error = cudaSuccess;
  std::string failed;  // what returned it

  bool ok() const { return error == cudaSuccess; }
  // Keeps the first error; true if there is none yet.
  bool Check(cudaError_t result, std::string_view what) {
    if (ok() && result != cudaSuccess) {
      error = result;
      failed = what;
    }
    return ok();
  }
};

// kernel<<<grid, block, shared>>>(args) on the stream; `name` is for errors. An empty
// grid runs nothing.
template <typename... P, typename... A>
void Launch(Stream& stream, const char* name, void (*kernel)(P...), dim3 grid, int block,
            std::size_t shared, A&&... args) {
  if (!stream.ok() || grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const dim3 threads(static_cast<unsigned>(block));
#if defined(GOLDFINCH_CUDA_EMULATION)
  stream.Check(emulation::Launch(stream.handle,
                                 {.name = name,
                                  .grid = grid,
                                  .block = threads,
                                  .shared_bytes = shared,
                                  .dependent = stream.overlap},
                                 kernel, std::forward<A>(args)...),
               name);
#else
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared;
  config.stream = stream.handle;
  config.attrs = &overlap;
  config.numAttrs = stream.overlap ? 1 : 0;
  stream.Check(cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...), name);
#endif
}

// Has the driver load these kernels now: else their first launch would, which takes time,
// and memory of the device, in the midst of a step. All want as much shared memory of a
// multiprocessor as it can have, also those that use none: to change what its first level
// cache has of it, it may have to be idle, and no kernel could begin beside the one
// before. What is left for that cache is enough for them.
template <typename... K>
void LoadKernels(Stream& stream, K*... kernels) {
  const auto load = [&stream](const void* kernel) {
    cudaFuncAttributes attributes = {};
    stream.Check(cudaFuncGetAttributes(&attributes, kernel), "loading kernels");
    stream.Check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "cudaFuncSetAttribute");
  };
  (load(reinterpret_cast<const void*>(kernels)), ...);
}

// Blocks of `size` that cover `count`.
inline unsigned BlocksFor(std::int64_t count, std::int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
