#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/probe.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kThreads = 256;

// The first element of a thread, and how far apart its elements are.
__device__ __forceinline__ std::int64_t First() {
  return std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
}
__device__ __forceinline__ std::int64_t Step() {
  return std::int64_t{gridDim.x} * kThreads;
}

__global__ void __launch_bounds__(kThreads)
    Fill(std::uint16_t* numbers, std::int64_t count, std::uint32_t seed) {
  AwaitLaunch();
  for (std::int64_t i = First(); i < count; i += Step()) {
    // Mixed as in murmur3, of which the upper half is the better one.
    std::uint32_t bits = static_cast<std::uint32_t>(i) + seed * 0x9e3779b9u;
    bits = (bits ^ bits >> 16) * 0x85ebca6bu;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
    const std::uint32_t exponent = 124 + (bits >> 16 & 3u);
    numbers[i] = static_cast<std::uint16_t>((bits >> 31) << 15 | exponent << 7 |
                                            (bits >> 18 & 0x7fu));
  }
}

__global__ void __launch_bounds__(kThreads)
    Compare(const float* a, const float* b, std::int64_t count, unsigned* different) {
  AwaitLaunch();
  for (std::int64_t i = First(); i < count; i += Step())
    if (__float_as_uint(a[i]) != __float_as_uint(b[i])) atomicAdd(different, 1u);
}

// Four blocks a multiprocessor, or as many as there is work for.
dim3 GridFor(const Stream& stream, std::int64_t count) {
  const unsigned most = 4 * static_cast<unsigned>(stream.multiprocessors);
  const unsigned blocks = BlocksFor(count, kThreads);
  return dim3(blocks < most ? blocks : most);
}

}  // namespace

bool KernelsWait(Stream& stream) {
  constexpr int kFirstThatWaits = 90;  // as AwaitLaunch is compiled
  cudaFuncAttributes attributes = {};
  return stream.Check(
             cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(Fill)),
             "cudaFuncGetAttributes") &&
         attributes.ptxVersion >= kFirstThatWaits;
}

void FillProbe(Stream& stream, std::uint16_t* numbers, std::int64_t count,
               std::uint32_t seed) {
  Launch(stream, "fill_probe", Fill, GridFor(stream, count), kThreads, 0, numbers, count,
         seed);
}

void CountDifferent(Stream& stream, const float* a, const float* b, std::int64_t count,
                    unsigned* different) {
  Launch(stream, "count_different", Compare, GridFor(stream, count), kThreads, 0, a, b,
         count, different);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
