// What tests ask of the emulated device besides CUDA.
#pragma once

#include <cstdint>

namespace emulation {

// The order in which the threads of a block take their turns, and the blocks of a kernel
// theirs. Kernels whose bits depend on it lack a barrier, or one block reads what another
// one writes.
enum class Order { kForward, kBackward, kShuffled };
void SetOrder(Order order);

// The call of the runtime API that is `calls` calls away fails with an illegal address,
// as does every later one until this is called again; negative: none does. What is queued
// then is lost.
void FailCall(std::int64_t calls);
// Calls so far.
std::int64_t NumCalls();

// What the driver can make a graph of: any kernels, those alone that do not overlap, or
// none.
enum class Graphs { kAny, kInOrder, kNone };
void SetGraphs(Graphs value);

// Graphs launched so far.
std::int64_t NumGraphLaunches();
// Kernels that have run so far, those of graphs among them.
std::int64_t NumKernels();

// Of the machine: two devices and a driver for them, or less.
enum class Driver { kTwoDevices, kNoDevice, kTooOld };
void SetDriver(Driver driver);

// What the machine has of cuBLASLt: the library, with an algorithm that adds parts of a
// sum from a workspace, one that adds them where they are, one whose bits depend on the
// number of rows, and, liked least, one that is good for everything; only the first
// three; a library that wants none of the devices; or none.
enum class Lt { kWhole, kNothingGood, kNoHandle, kNone };
void SetLt(Lt value);
// Products it has computed so far, by the number of the algorithm in this list.
enum class LtAlgorithm { kSplit, kInPlace, kByRows, kGood };
std::int64_t NumLtProducts(LtAlgorithm algorithm);
// The product that is `calls` calls away is refused, as is every later one until this is
// called again; negative: none is.
void FailLtProduct(std::int64_t calls);

// Copies from the host to the device so far.
std::int64_t NumCopiesToDevice();

// Bytes of device and host memory that are allocated now, and calls of cudaMalloc and
// cudaHostAlloc so far.
std::int64_t AllocatedBytes();
std::int64_t DeviceBytes();  // of the former, device memory
std::int64_t NumAllocations();

// Kernels that a driver would have loaded by now, since they were last forgotten: those
// that were launched or asked about.
std::int64_t NumLoadedKernels();
void ForgetKernels();

// All that a device has; negative: as much as it had.
void SetDeviceMemory(std::int64_t bytes);

}  // namespace emulation
