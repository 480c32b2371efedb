// How a library queues work on an emulated stream.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace emulation {

// A kernel that is not ours, and so no part of a graph: what it does at its turn.
cudaError_t EnqueueLibrary(cudaStream_t stream, std::function<void()> run);
// Of the calling thread.
int CurrentDevice();

}  // namespace emulation
