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
#include <vector>

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
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
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
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  unsigned nothing = 0;
  emulation::Exchange(mask, &nothing, &nothing, sizeof nothing, emulation::current->lane);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  T out;
  emulation::Exchange(mask, &value, &out, sizeof value, static_cast<unsigned>(lane) % 32);
  return out;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  T out;
  emulation::Exchange(mask, &value, &out, sizeof value,
                      emulation::current->lane ^ static_cast<unsigned>(lanes));
  return out;
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  T out;
  const unsigned lane = emulation::current->lane;
  emulation::Exchange(mask, &value, &out, sizeof value,
                      lane >= delta ? lane - delta : lane);
  return out;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>((static_cast<Wide>(a) * b) >> 64);
}
inline int __float2int_rn(float f) { return static_cast<int>(std::nearbyint(f)); }
template <typename T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <typename T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = old > value ? old : value;
  return old;
}
template <typename T>
T atomicMin(T* p, T value) {
  const T old = *p;
  *p = old < value ? old : value;
  return old;
}

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
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaGraphRecord {
  std::vector<std::function<void()>> work;
};
using cudaGraph_t = cudaGraphRecord*;
using cudaGraphExec_t = cudaGraphRecord*;
struct cudaStreamRecord {
  cudaGraphRecord* capture = nullptr;
};
using cudaStream_t = cudaStreamRecord*;
struct cudaEventRecord_;
using cudaEvent_t = cudaEventRecord_*;
struct cudaLaunchConfig_t {
  dim3 gridDim_, blockDim_;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor;
  int multiProcessorCount;
  std::size_t totalGlobalMem;
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
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
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
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace emulation {

// What a launch would do, now or, while the stream is captured, when the graph runs.
// Counts as one call for FailCall (emulation.h).
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);

template <typename... P, typename... A>
cudaError_t Launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared,
                   cudaStream_t stream, A&&... args) {
  std::tuple<std::remove_const_t<P>...> values(std::forward<A>(args)...);
  return Enqueue(stream, [=] {
    Run(grid, block, shared, [&] { std::apply(kernel, values); });
  });
}

}  // namespace emulation
// NOLINTEND
