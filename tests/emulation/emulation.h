// What tests ask of the emulated device besides CUDA.
#pragma once

#include <cstdint>

namespace emulation {

// The order in which the threads of a block take their turns. Kernels whose bits depend
// on it lack a barrier.
enum class Order { kForward, kBackward, kShuffled };
void SetOrder(Order order);

// The call of the runtime API that is `calls` calls away fails with an illegal address,
// as does every later one until this is called again; negative: none does.
void FailCall(std::int64_t calls);
// Calls so far.
std::int64_t NumCalls();

// Bytes of device and host memory that are allocated now, and calls of cudaMalloc and
// cudaHostAlloc so far.
std::int64_t AllocatedBytes();
std::int64_t DeviceBytes();  // of the former, device memory
std::int64_t NumAllocations();

}  // namespace emulation
