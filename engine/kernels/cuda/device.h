// What every CUDA kernel is made of: rounding, sums over a warp and a block in one fixed
// order, copies that overlap, the tensor cores' product. Device code; the emulated
// device of the tests (tests/emulation) has its own way for the few things that are
// assembly.
//
// Kernels are compiled with -fmad=false: what is fused is spelled Fma, so two kernels
// that share an expression share its bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/backend/op_args.h"

#ifndef GOLDFINCH_CUDA
#define GOLDFINCH_CUDA cuda
#endif

namespace goldfinch::GOLDFINCH_CUDA {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// bf16, rounded to nearest even.
__device__ __forceinline__ float FromBf16(std::uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}
__device__ __forceinline__ std::uint16_t ToBf16(float value) {
  const unsigned bits = __float_as_uint(value);
  // A NaN stays one: rounding could carry it into infinity.
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ float LowBf16(unsigned pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float HighBf16(unsigned pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ unsigned PairBf16(float low, float high) {
#if defined(__CUDA_ARCH__)
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return static_cast<unsigned>(ToBf16(low)) | static_cast<unsigned>(ToBf16(high)) << 16;
#endif
}

// Both of a pair times 2^120, exact from 2^-133 on: subnormal factors keep their value.
__device__ __forceinline__ unsigned RaisePair(unsigned pair) {
#if defined(__CUDA_ARCH__)
  // The sum with -0 is the product: sm_80 has no product by itself.
  unsigned raised;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(raised)
      : "r"(pair), "r"(0x7b807b80u), "r"(0x80008000u));
  return raised;
#else
  return PairBf16(LowBf16(pair) * 0x1p120f, HighBf16(pair) * 0x1p120f);
#endif
}

__device__ __forceinline__ float Read(const float* p) { return *p; }
__device__ __forceinline__ float Read(const std::uint16_t* p) { return FromBf16(*p); }
__device__ __forceinline__ void Write(float value, float* p) { *p = value; }
__device__ __forceinline__ void Write(float value, std::uint16_t* p) {
  *p = ToBf16(value);
}

template <typename T>
__device__ __forceinline__ T* Row(const Matrix& m, std::int64_t row) {
  return static_cast<T*>(m.data) + row * m.stride;
}
// Element (row, col), of either type.
__device__ __forceinline__ float At(const Matrix& m, std::int64_t row, std::int64_t col) {
  return m.type == DType::kF32 ? Row<float>(m, row)[col]
                               : FromBf16(Row<std::uint16_t>(m, row)[col]);
}
__device__ __forceinline__ void Put(float value, const Matrix& m, std::int64_t row,
                                    std::int64_t col) {
  if (m.type == DType::kF32)
    Row<float>(m, row)[col] = value;
  else
    Row<std::uint16_t>(m, row)[col] = ToBf16(value);
}

__device__ __forceinline__ float Fma(float a, float b, float c) { return fmaf(a, b, c); }
// 0 where the result would be below the normal numbers, as on the CPU.
__device__ __forceinline__ float ExpOrZero(float x) {
  return x < -87.33654f ? 0.0f : expf(x);
}
__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Sums of what all lanes have; every lane gets the same bits.
template <typename T>
__device__ __forceinline__ T WarpSum(T value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

// Of all threads of a block of kThreads, in the order of its warps. `scratch` has room
// for one value a warp; it may be used again at once.
template <int kThreads, typename T>
__device__ __forceinline__ T BlockSum(T value, T* scratch) {
  value = WarpSum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  T sum = scratch[0];
  for (int i = 1; i < kThreads / kWarp; ++i) sum += scratch[i];
  return sum;
}

// The largest; a NaN is passed over unless it is the caller's own.
__device__ __forceinline__ float WarpMax(float value) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, value, lanes);
    value = other > value ? other : value;
  }
  return value;
}
// Of all threads of a block, with room as for BlockSum. A barrier must have passed since
// `scratch` was used.
template <int kThreads>
__device__ __forceinline__ float BlockMax(float value, float* scratch) {
  value = WarpMax(value);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  float max = scratch[0];
  for (int i = 1; i < kThreads / kWarp; ++i) max = scratch[i] > max ? scratch[i] : max;
  return max;
}

// *p in one access of memory, which wants p to be a multiple of sizeof(T).
template <typename T>
__device__ __forceinline__ T LoadVector(const void* p) {
#if defined(GOLDFINCH_CUDA_EMULATION)
  T value;
  emulation::Load(&value, p, sizeof value);
  return value;
#else
  return *static_cast<const T*>(p);
#endif
}
template <typename T>
__device__ __forceinline__ void StoreVector(const T& value, void* p) {
#if defined(GOLDFINCH_CUDA_EMULATION)
  emulation::Store(p, &value, sizeof value);
#else
  *static_cast<T*>(p) = value;
#endif
}

// Neighbours, in few instructions where they are aligned, as the rows of a model are.
template <int kCount>
__device__ __forceinline__ void LoadFloats(const float* from, float (&to)[kCount]) {
  static_assert(kCount % 4 == 0);
  if (reinterpret_cast<std::uintptr_t>(from) % sizeof(float4) == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const auto four = LoadVector<float4>(from + i);
      to[i] = four.x;
      to[i + 1] = four.y;
      to[i + 2] = four.z;
      to[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
  }
}

// The block's dynamic shared memory, aligned to 16.
__device__ __forceinline__ void* DynamicShared() {
#if defined(GOLDFINCH_CUDA_EMULATION)
  return emulation::DynamicShared();
#else
  extern __shared__ __align__(16) unsigned char goldfinch_shared[];
  return goldfinch_shared;
#endif
}

// Sixteen bytes from global to shared memory, both aligned to 16, of which the last
// `zeros` are zero instead and not read. Seen after its group was waited for and, by
// other threads, after a barrier.
__device__ __forceinline__ void AsyncCopy16(void* to, const void* from, int zeros) {
#if defined(GOLDFINCH_CUDA_EMULATION)
  emulation::AsyncCopy(to, from, static_cast<std::size_t>(16 - zeros),
                       static_cast<std::size_t>(zeros));
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(16 - zeros)
               : "memory");
#endif
}
// The same of four bytes, for rows that start anywhere.
__device__ __forceinline__ void AsyncCopy4(void* to, const void* from) {
#if defined(GOLDFINCH_CUDA_EMULATION)
  emulation::AsyncCopy(to, from, 4, 0);
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from)
               : "memory");
#endif
}
__device__ __forceinline__ void AsyncCommit() {
#if defined(GOLDFINCH_CUDA_EMULATION)
  emulation::AsyncCommit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroupsLeft>
__device__ __forceinline__ void AsyncWait() {
#if defined(GOLDFINCH_CUDA_EMULATION)
  emulation::AsyncWait(kGroupsLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// Programmatic dependent launch (sm_90): a kernel may start while the one before it in
// the stream still runs. Before AwaitLaunch it may touch only what no kernel writes:
// weights. Every kernel of ours calls it, also those that have nothing to do before: a
// kernel that did not wait could end before its predecessor has, and then the next one,
// which waits for it alone, would be too early.
//
// The wait is for the end of the kernel before and for all that it has written, wherever
// that one allowed the next to start. So a kernel allows it as soon as it has waited
// itself. All its blocks run by then: those of the next take what is left, and are at
// their own wait, with weights on their way, when it ends. The one after that starts no
// sooner than this has ended, so of a stream no more than two run at once.
__device__ __forceinline__ void AwaitLaunch() {
#if defined(GOLDFINCH_CUDA_EMULATION)
  emulation::AwaitLaunch();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "griddepcontrol.wait;\n\t"
      "griddepcontrol.launch_dependents;" ::
          : "memory");
#endif
}

// Has the second level cache fetch `bytes` from p on, by the threads of a block, who ask
// for lines of it and wait for none. Before AwaitLaunch only what no kernel writes.
// Between two steps of few rows more weights pass through that cache than it holds, so
// that each small one, asked for behind the wait and the barriers of a norm, would take
// as long as the memory to answer. p may be null.
__device__ __forceinline__ void FetchEarly(const void* p, std::int64_t bytes) {
#if defined(__CUDA_ARCH__)
  constexpr int kLine = 128;
  if (p == nullptr) return;
  for (std::int64_t at = std::int64_t{threadIdx.x} * kLine; at < bytes;
       at += std::int64_t{blockDim.x} * kLine)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(
        __cvta_generic_to_global(static_cast<const char*>(p) + at)));
#else
  (void)p;
  (void)bytes;
#endif
}
// By the first block of a launch for all the others, of which there may be thousands.
__device__ __forceinline__ void FetchForAll(const float* p, std::int64_t count) {
  if (blockIdx.x == 0) FetchEarly(p, count * static_cast<std::int64_t>(sizeof(float)));
}
__device__ __forceinline__ void FetchForAll(const NormWeights& norm, std::int64_t cols) {
  FetchForAll(norm.weight, cols);
  FetchForAll(norm.bias, cols);
}

// d += a b of one warp, m16n8k16 in bf16 with float32 sums. Lane l holds, with g = l / 4
// and q = l % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   a[0]: row g, k 2q and 2q+1     a[1]: row g+8     a[2], a[3]: the same at k + 8
//   b[0]: k 2q and 2q+1 of column g                  b[1]: at k + 8
//   d[0], d[1]: row g, columns 2q and 2q+1           d[2], d[3]: row g+8
#if defined(GOLDFINCH_CUDA_EMULATION)
// What a lane holds of the operands, and what it gets of the product, number by number,
// in the order of k. A register holds `kPer` neighbours along k, which Register::At tells
// apart: the shapes of mma.sync with four registers of a and two of b differ in nothing
// else.
template <typename Register, unsigned kPer>
struct MmaOperands {
  Register a[4], b[2];

  static void Lane(const unsigned char (*all)[emulation::kSlotBytes], unsigned lane,
                   void* out) {
    auto* d = static_cast<float*>(out);
    const auto of = [all](unsigned from) {
      MmaOperands operands;
      std::memcpy(&operands, all[from], sizeof operands);
      return operands;
    };
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (unsigned k = 0; k < 8 * kPer; ++k) {
        const unsigned holder = k / kPer % 4, half = k / (4 * kPer);
        const Register x = of(row % 8 * 4 + holder).a[row / 8 + half * 2];
        const Register y = of(column * 4 + holder).b[half];
        d[i] = Fma(x.At(k % kPer), y.At(k % kPer), d[i]);
      }
    }
  }
};
struct Bf16Pair {
  unsigned bits;
  float At(unsigned i) const { return i == 0 ? LowBf16(bits) : HighBf16(bits); }
};
using Bf16Operands = MmaOperands<Bf16Pair, 2>;
#endif
__device__ __forceinline__ void Mma(float (&d)[4], const uint4& a, unsigned b0,
                                    unsigned b1) {
#if defined(GOLDFINCH_CUDA_EMULATION)
  const Bf16Operands mine = {{{a.x}, {a.y}, {a.z}, {a.w}}, {{b0}, {b1}}};
  emulation::Gather(kAllLanes, &mine, sizeof mine, Bf16Operands::Lane, d);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#endif
}

// A float32 as a tf32 number (eleven bits), to nearest, and the rest, of which the tensor
// cores see eleven bits too: all but 2^-21 of it. A NaN stays one, in `small` at least;
// of an infinity `small` is NaN.
struct Split {
  float big, small;
};
inline constexpr unsigned kTf32Bits = 0xffffe000u;
__device__ __forceinline__ Split SplitOf(float value) {
  const float big = __uint_as_float((__float_as_uint(value) + 0x1000u) & kTf32Bits);
  return {big, value - big};
}

// d += a b of one warp, m16n8k8 in tf32 with float32 sums. Of the operands all but
// the upper 19 bits are ignored. Lane l holds, with g = l / 4 and q = l % 4 (PTX ISA,
// "Matrix fragments for mma.m16n8k8"):
//   a[0]: row g, k q     a[1]: row g+8     a[2], a[3]: the same at k + 4
//   b0: k q of column g                    b1: at k + 4
//   d[0], d[1]: row g, columns 2q and 2q+1           d[2], d[3]: row g+8
#if defined(GOLDFINCH_CUDA_EMULATION)
struct Tf32 {
  float value;
  float At(unsigned) const { return __uint_as_float(__float_as_uint(value) & kTf32Bits); }
};
using Tf32Operands = MmaOperands<Tf32, 1>;
#endif
__device__ __forceinline__ void MmaTf32(float (&d)[4], const float (&a)[4], float b0,
                                        float b1) {
#if defined(GOLDFINCH_CUDA_EMULATION)
  const Tf32Operands mine = {{{a[0]}, {a[1]}, {a[2]}, {a[3]}}, {{b0}, {b1}}};
  emulation::Gather(kAllLanes, &mine, sizeof mine, Tf32Operands::Lane, d);
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])),
        "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)),
        "r"(__float_as_uint(b1)));
#endif
}

}  // namespace goldfinch::GOLDFINCH_CUDA
