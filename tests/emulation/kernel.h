// Running kernels: blocks of fibers, one block after another.
//
// Threads: one at a time.
#pragma once

#include <cuda_runtime.h>

namespace emulation {

// All blocks of `kernel`, in the order that SetOrder says. Of `next`, which follows it in
// its stream and need not wait for its end, one block is run first, up to where it waits:
// a real device may start it so early that it sees nothing of what `kernel` writes, and
// that `kernel` sees what it writes. Then the next call must be for *next.
void RunKernel(const Kernel& kernel, const Kernel* next);

// What follows begins when all kernels so far have ended.
void EndOverlap();

// Whether it is a local variable of a thread, or memory of the block that runs.
bool OnStack(const void* p);
bool OnShared(const void* p);

}  // namespace emulation
