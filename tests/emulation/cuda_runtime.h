// CUDA on the host, as far as our kernels use it, so that they run where there is no GPU:
// the same .cu files, compiled as C++ with this folder first among the includes.
//
// A block's threads are fibers of one processor thread, switched at barriers and warp
// intrinsics, so a run is deterministic, and a barrier that not all threads reach is
// found and named instead of hanging. Blocks run one after another. Copies by cp.async
// happen as late as the kernel lets them: at its wait. Global memory is malloc's, so that
// the address sanitizer sees what memcheck would; running threads in another order
// (emulation.h) changes the bits of a kernel that lacks a barrier.
//
// What this cannot show: speed, alignment faults, what the tensor cores do with the last
// bit, and races between blocks.
//
// Threads: one at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define GOLDFINCH_CUDA_EMULATION 1

// NOLINTBEGIN: the names are CUDA's.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulation {

// One running thread of a kernel.
struct Thread {
  uint3 thread{}, block{};
  dim3 block_dim, grid_dim;
  unsigned lane = 0, warp = 0;
};
extern Thread* current;

// Everything of the current thread's warp that a collective needs.
inline constexpr unsigned kWarp = 32;
inline constexpr std::size_t kSlotBytes = 64;

void BlockBarrier();
// Leaves `bytes` of `in` for the other lanes, waits for all of `mask`, and then copies
// what lane `from` left to `out`.
void Exchange(unsigned mask, const void* in, void* out, std::size_t bytes, unsigned from);
// The same with what every lane of the mask left: all[lane].
void Gather(unsigned mask, const void* in, std::size_t bytes,
            void (*combine)(const unsigned char (*all)[kSlotBytes], unsigned lane,
                            void* out),
            void* out);
void AsyncCopy(void* to, const void* from, std::size_t bytes, std::size_t zeros);
void AsyncCommit();
void AsyncWait(int groups_left);
void* DynamicShared();
void Run(dim3 grid, dim3 block, std::size_t shared_bytes,
         const std::function<void()>& body);

}  // namespace emulation

#define threadIdx (::emulation::current->thread)
#define blockIdx (::emulation::current->block)
#define blockDim (::emulation::current->block_dim)
#define gridDim (::emulation::current->grid_dim)

inline void __syncthreads() { emulation::BlockBarrier(); }
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  T out;
  emulation::Exchange(mask, &value, &out, sizeof value,
                      emulation::current->lane ^ static_cast<unsigned>(lanes));
  return out;
}
// A lane that has none below it by so many gets its own.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  const unsigned lane = emulation::current->lane;
  T out;
  emulation::Exchange(mask, &value, &out, sizeof value,
                      lane < lanes ? lane : lane - lanes);
  return out;
}
unsigned __ballot_sync(unsigned mask, bool value);
inline unsigned atomicAdd(unsigned* p, unsigned value) {
  return std::exchange(*p, *p + value);
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
// Byte i is number `selector >> 4 i & 7` of the eight of y and x, x's being the low ones;
// without the mode that spreads a sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
  unsigned out = 0;
  for (unsigned i = 0; i < 4; ++i)
    out |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xffu) << 8 * i;
  return out;
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
// The runtime API.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorIllegalAddress = 700,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaStreamRecord {};
using cudaStream_t = cudaStreamRecord*;
struct cudaEventRecord_;
using cudaEvent_t = cudaEventRecord_*;
struct cudaDeviceProp {
  char name[256];
  int major, minor;
  int multiProcessorCount;
};
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline constexpr unsigned cudaHostAllocDefault = 0;

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace emulation {

// A call of the runtime API as far as FailCall (emulation.h) goes.
cudaError_t Call();

template <typename... P, typename... A>
cudaError_t Launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared,
                   A&&... args) {
  if (const cudaError_t error = Call(); error != cudaSuccess) return error;
  const std::tuple<std::remove_const_t<P>...> values(std::forward<A>(args)...);
  Run(grid, block, shared, [&] { std::apply(kernel, values); });
  return cudaSuccess;
}

}  // namespace emulation
// NOLINTEND
