// CUDA on the host, as far as our kernels use it, so that they run where there is no GPU:
// the same .cu files, compiled as C++ with this folder first among the includes.
//
// A block's threads are fibers of one processor thread, switched at barriers and warp
// intrinsics, so a run is deterministic, and a barrier that not all threads reach is
// found and named instead of hanging. Blocks run one after another. What is queued on a
// stream happens as late as the host can bear: when it waits for it. So a buffer that is
// filled anew before it was copied from, or read before it was copied to, is found.
// Besides, this ends a test, or gives it wrong numbers, where a kernel
//   reads shared memory that its block has not written, or what another block writes;
//   lacks a barrier (running in another order, emulation.h, changes its bits);
//   loads a vector, or copies asynchronously, from an address that is not aligned;
//   relies on asynchronous copies before it waited for them;
//   writes around the memory it has, or is launched beyond what a device allows;
//   reads or writes what the kernel before it works on, before it waited for that;
//   is part of a graph with anything but kernels in it, or one that was not uploaded.
// With the address sanitizer a read around the memory is found too.
//
// Kernels that are built to tell of their accesses are checked for races, too, between
// threads, blocks and kernels that overlap (race_check.h).
//
// What this cannot show: speed, and what the tensor cores do with the last bit.
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
#define __grid_constant__
// Kept, and known to be written by others (shared_variables.h).
#define __shared__ [[gnu::used]] static
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
// One access to memory of so many bytes, which dies where `p` is no multiple of them.
void Load(void* to, const void* p, std::size_t bytes);
void Store(void* p, const void* from, std::size_t bytes);
// Waits for the kernel before this one.
void AwaitLaunch();

struct Configuration {
  const char* name = "";
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  bool dependent = false;  // may start before the kernel before it has ended
};
// A launch.
struct Kernel {
  Configuration launch;
  std::function<void()> body;  // of one thread
};

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
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  T out;
  emulation::Exchange(mask, &value, &out, sizeof value, static_cast<unsigned>(lane));
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
unsigned atomicAdd(unsigned* p, unsigned value);
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
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
// The runtime API.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalAddress = 700,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorUnknown = 999,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout
};
enum cudaSharedCarveout { cudaSharedmemCarveoutMaxShared = 100 };
struct cudaStreamRecord;
using cudaStream_t = cudaStreamRecord*;
struct cudaEventRecord_;
using cudaEvent_t = cudaEventRecord_*;
struct cudaGraphRecord;
using cudaGraph_t = cudaGraphRecord*;
struct cudaGraphExecRecord;
using cudaGraphExec_t = cudaGraphExecRecord*;
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
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);

namespace emulation {

cudaError_t AllowShared(const void* kernel, int bytes);
cudaError_t Enqueue(cudaStream_t stream, const void* function, Kernel kernel);

template <typename... P, typename... A>
cudaError_t Launch(cudaStream_t stream, const Configuration& launch, void (*kernel)(P...),
                   A&&... args) {
  static_assert((sizeof(P) + ... + 0) <= 4096, "some drivers take no more arguments");
  const std::tuple<std::remove_const_t<P>...> values(std::forward<A>(args)...);
  return Enqueue(stream, reinterpret_cast<const void*>(kernel),
                 {launch, [kernel, values] { std::apply(kernel, values); }});
}

}  // namespace emulation

struct cudaFuncAttributes {
  int ptxVersion;
};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute,
                                 int value);
template <typename... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute,
                                 int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
// NOLINTEND
