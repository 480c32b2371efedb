// Kernels of the tests of what is watched, built to tell of their accesses. A block has
// kBlock threads and a float of dynamic memory for each.
#pragma once

#include <cuda_runtime.h>

namespace goldfinch::cuda_emulated {

inline constexpr int kBlock = 64;

// With a race or without one, as the arguments say (race_check_test.cc):

enum class Mistake { kNone, kFillEarly, kReadEarly, kReadUnshared };

enum class Early { kNothing, kReads, kWrites };

// Each thread reads what its neighbour wrote.
__global__ void ReadAfterWrite(float* out, bool barrier);
// Each thread writes what its neighbour has read, in dynamic memory.
__global__ void WriteAfterRead(float* out, bool barrier);
// So many threads write one number, the same.
__global__ void WriteAfterWrite(float* out, int writers);
// Shuffles order values, not memory.
__global__ void ReadAfterShuffle(float* out, bool barrier);
// Each thread its own byte, or two of them one.
__global__ void WriteHalves(float* out, int step);
// Counts: with atomic additions, and with others.
__global__ void Count(unsigned* count, bool atomic, bool read);
// What a block leaves for the next one, or for itself.
__global__ void ReadOtherBlock(float* out, unsigned other);
// All blocks read one number, which the last one writes.
__global__ void WriteWhatAllRead(float* out, bool write);
// Two pieces through room for one, by asynchronous copies.
__global__ void Pipeline(const float* in, float* out, Mistake mistake);
__global__ void Fill(float* out, float value);
// `out` is what the kernel before it writes, `in` what nobody does.
__global__ void StartEarly(const float* in, float* out, float* other, Early early);

// Whose accesses are counted (access_count_test.cc), of one warp:

// Lane i reads number `step` i of `in` and puts it there in dynamic memory.
__global__ void Strided(const float* in, int step);
// The same of four neighbours at once.
__global__ void StridedVectors(const float* in, int step);
// By an asynchronous copy.
__global__ void StridedCopies(const float* in, int step);

}  // namespace goldfinch::cuda_emulated
