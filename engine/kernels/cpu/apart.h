// bf16 widened as a load has it: even elements in one vector, odd ones in another.
#pragma once

#include "engine/kernels/cpu/simd.h"

#if defined(__AVX2__)
namespace goldfinch::GOLDFINCH_ISA {
namespace {

// Neighbouring bf16, as many as a load has, as even ones and odd ones: to widen them in
// order takes twice the instructions.
struct EvenAndOdd {
  F32 even, odd;
};
inline constexpr std::int64_t kLoadLanes = 2 * kVectorLanes;
GOLDFINCH_INLINE EvenAndOdd LoadApart(const std::uint16_t* p) {
#if defined(__AVX512F__)
  const __m512i pairs = _mm512_loadu_si512(p);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return {reinterpret_cast<F32>(_mm512_slli_epi32(pairs, 16)),
          reinterpret_cast<F32>(_mm512_and_si512(pairs, upper))};
#else
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {reinterpret_cast<F32>(_mm256_slli_epi32(pairs, 16)),
          reinterpret_cast<F32>(_mm256_and_si256(pairs, upper))};
#endif
}

// 32 neighbouring numbers from in order to apart, as loads of bf16 have them, and back.
#if defined(__AVX512F__)
GOLDFINCH_INLINE void PickLanes(F32x16 (&v)[2], __m512i first, __m512i second) {
  const auto a = reinterpret_cast<__m512>(v[0]), b = reinterpret_cast<__m512>(v[1]);
  v[0] = reinterpret_cast<F32>(_mm512_permutex2var_ps(a, first, b));
  v[1] = reinterpret_cast<F32>(_mm512_permutex2var_ps(a, second, b));
}
GOLDFINCH_INLINE void PutApart(F32x16 (&v)[2]) {
  const __m512i even =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  PickLanes(v, even, _mm512_add_epi32(even, _mm512_set1_epi32(1)));
}
GOLDFINCH_INLINE void PutInOrder(F32x16 (&v)[2]) {
  const __m512i low =
      _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  PickLanes(v, low, _mm512_add_epi32(low, _mm512_set1_epi32(8)));
}
#else
GOLDFINCH_INLINE void PutApart(F32x16 (&v)[2]) {
  const auto in_order = [](__m256 lanes) {
    return reinterpret_cast<F32>(
        _mm256_permute4x64_pd(_mm256_castps_pd(lanes), _MM_SHUFFLE(3, 1, 2, 0)));
  };
  for (F32x16& half : v) {
    const auto a = reinterpret_cast<__m256>(half.part[0]);
    const auto b = reinterpret_cast<__m256>(half.part[1]);
    half = {{in_order(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0))),
             in_order(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)))}};
  }
}
GOLDFINCH_INLINE void PutInOrder(F32x16 (&v)[2]) {
  for (F32x16& half : v) {
    const auto even = reinterpret_cast<__m256>(half.part[0]);
    const auto odd = reinterpret_cast<__m256>(half.part[1]);
    const __m256 low = _mm256_unpacklo_ps(even, odd),
                 high = _mm256_unpackhi_ps(even, odd);
    half = {{reinterpret_cast<F32>(_mm256_permute2f128_ps(low, high, 0x20)),
             reinterpret_cast<F32>(_mm256_permute2f128_ps(low, high, 0x31))}};
  }
}
#endif

}  // namespace
}  // namespace goldfinch::GOLDFINCH_ISA
#endif
