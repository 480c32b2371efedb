#include "tests/emulation/watched_kernels.h"

#include <cstdint>

#include "engine/kernels/cuda/device.h"

namespace goldfinch::cuda_emulated {

__global__ void ReadAfterWrite(float* out, bool barrier) {
  __shared__ float memory[kBlock];
  memory[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (barrier) __syncthreads();
  out[blockIdx.x * kBlock + threadIdx.x] = memory[threadIdx.x ^ 1u];
}

__global__ void WriteAfterRead(float* out, bool barrier) {
  auto* const memory = static_cast<float*>(DynamicShared());
  memory[threadIdx.x] = 1.0f;
  __syncthreads();
  const float x = memory[threadIdx.x ^ 1u];
  if (barrier) __syncthreads();
  memory[threadIdx.x] = x;
  out[blockIdx.x * kBlock + threadIdx.x] = memory[threadIdx.x];
}

__global__ void WriteAfterWrite(float* out, int writers) {
  __shared__ float memory;
  const float x = WarpSum(1.0f);
  if (static_cast<int>(threadIdx.x) < writers) memory = x;
  __syncthreads();
  out[threadIdx.x] = memory;
}

__global__ void ReadAfterShuffle(float* out, bool barrier) {
  __shared__ float memory[kBlock];
  memory[threadIdx.x] = 1.0f;
  const float x = WarpSum(1.0f);
  if (barrier) __syncthreads();
  out[threadIdx.x] = memory[threadIdx.x ^ 1u] + x;
}

__global__ void WriteHalves(float* out, int step) {
  auto* const halves = reinterpret_cast<std::uint8_t*>(out);
  halves[threadIdx.x * static_cast<unsigned>(step) / 2] = 1;
}

__global__ void Count(unsigned* count, bool atomic, bool read) {
  if (atomic)
    atomicAdd(count, 1);
  else
    *count = *count + 1;
  if (read) count[threadIdx.x + 1] = *count;
}

__global__ void ReadOtherBlock(float* out, unsigned other) {
  if (threadIdx.x == 0) out[blockIdx.x] = 1.0f;
  __syncthreads();
  const unsigned from = (blockIdx.x + other) % gridDim.x;
  out[gridDim.x + blockIdx.x * kBlock + threadIdx.x] = out[from];
}

__global__ void WriteWhatAllRead(float* out, bool write) {
  const float x = out[0];
  out[1 + blockIdx.x * kBlock + threadIdx.x] = x;
  __syncthreads();
  if (write && blockIdx.x + 1 == gridDim.x && threadIdx.x == 0) out[0] = x;
}

__global__ void Pipeline(const float* in, float* out, Mistake mistake) {
  auto* const memory = static_cast<float*>(DynamicShared());
  const int i = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int piece = 0; piece < 2; ++piece) {
    if (piece > 0 && mistake != Mistake::kFillEarly) __syncthreads();
    AsyncCopy4(memory + i, in + piece * kBlock + i);
    AsyncCommit();
    if (mistake == Mistake::kReadEarly) __syncthreads();
    if (mistake == Mistake::kReadEarly) sum += memory[i ^ 1];
    AsyncWait<0>();
    if (mistake != Mistake::kReadUnshared) __syncthreads();
    sum += memory[i ^ 1];
  }
  out[i] = sum;
}

__global__ void Fill(float* out, float value) {
  AwaitLaunch();
  out[blockIdx.x * kBlock + threadIdx.x] = value;
}

__global__ void StartEarly(const float* in, float* out, float* other, Early early) {
  float x = in[threadIdx.x];
  const unsigned i = blockIdx.x * kBlock + threadIdx.x;
  if (early == Early::kReads && blockIdx.x == 1) x += out[i];
  if (early == Early::kWrites) other[i] = x;
  AwaitLaunch();
  other[i] = x + out[i];
}

__global__ void Strided(const float* in, int step) {
  const int at = static_cast<int>(threadIdx.x) * step;
  static_cast<float*>(DynamicShared())[at] = in[at];
}

__global__ void StridedVectors(const float* in, int step) {
  const int at = static_cast<int>(threadIdx.x) * step;
  StoreVector(LoadVector<float4>(in + at), static_cast<float*>(DynamicShared()) + at);
}

__global__ void StridedCopies(const float* in, int step) {
  const int at = static_cast<int>(threadIdx.x) * step;
  AsyncCopy4(static_cast<float*>(DynamicShared()) + at, in + at);
  AsyncCommit();
  AsyncWait<0>();
}

}  // namespace goldfinch::cuda_emulated
