// Weights and inputs of a product on their way into the registers of a tensor core.
// Device code.
#pragma once

#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/gemm_layout.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Both fragments of a lane's part of a strip.
struct Strip {
  uint4 fragment[2];
};
// Bytes `first` and `first` + 1 of four stored weights, as a pair.
template <typename Stored>
__device__ __forceinline__ unsigned PairOf(unsigned bytes, int first);
template <>
__device__ __forceinline__ unsigned PairOf<std::int8_t>(unsigned bytes, int first) {
  const auto value = [bytes](int i) {
    return static_cast<float>(static_cast<std::int8_t>(bytes >> (8 * i) & 0xffu));
  };
  return PairBf16(value(first), value(first + 1));
}
// Exponent and mantissa put where bf16 has them are the value times 2^(7 - 127),
// subnormal ones too.
template <>
__device__ __forceinline__ unsigned PairOf<Fp8>(unsigned bytes, int first) {
  const unsigned tops = __byte_perm(bytes, 0, first == 0 ? 0x1404 : 0x3424);
  return RaisePair((tops & 0x80008000u) | (tops >> 4 & 0x07f007f0u));
}

// How weights of a storage type lie, and how they become fragments.
struct Bf16Weights {
  static constexpr int kStripBytes = kStripElements * 2;
  __device__ __forceinline__ static Strip FromShared(const unsigned char* strip,
                                                     unsigned lane) {
    const unsigned char* const p = strip + lane * 16;
    return {{LoadVector<uint4>(p), LoadVector<uint4>(p + 512)}};
  }
};
template <typename Stored>
struct ByteWeights {
  static constexpr int kStripBytes = kStripElements;
  __device__ __forceinline__ static uint4 Widen(unsigned low, unsigned high) {
    return {PairOf<Stored>(low, 0), PairOf<Stored>(low, 2), PairOf<Stored>(high, 0),
            PairOf<Stored>(high, 2)};
  }
  __device__ __forceinline__ static Strip FromShared(const unsigned char* strip,
                                                     unsigned lane) {
    const auto part = LoadVector<uint4>(strip + lane * 16);
    return {{Widen(part.x, part.y), Widen(part.z, part.w)}};
  }
};

// Calls visit(row, output, b, g, i) for each sum[b][g][i] of a lane, in the order of the
// tensor core (device.h): blocks of 16 outputs by groups of 8 rows.
template <int kBlocks, int kGroups, typename Visit>
__device__ __forceinline__ void ForLaneSums(int lane, const Visit& visit) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b)
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        visit(g * 8 + lane % 4 * 2 + i % 2, b * 16 + lane / 4 + i / 2 * 8, b, g, i);
}

// Inputs [k, k + 8) of a row of x; zeros behind its end. kAligned: rows start at
// multiples of 16 bytes and `in` is a multiple of 8.
template <bool kAligned>
__device__ __forceinline__ uint4 LoadInputs(const std::uint16_t* x, std::int64_t k,
                                            std::int64_t in) {
  if constexpr (kAligned) {
    return k < in ? LoadVector<uint4>(x + k) : uint4{0, 0, 0, 0};
  } else {
    unsigned pair[4];
    for (int i = 0; i < 4; ++i) {
      const std::int64_t at = k + 2 * i;
      const unsigned low = at < in ? x[at] : 0u, high = at + 1 < in ? x[at + 1] : 0u;
      pair[i] = low | high << 16;
    }
    return {pair[0], pair[1], pair[2], pair[3]};
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
