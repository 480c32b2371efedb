// Sixteen floats at a time, for whichever instruction set this file is compiled for.
//
// Every kernel file is compiled once per instruction set (see engine/CMakeLists.txt)
// with GOLDFINCH_ISA naming its namespace, so that one binary carries all of them. To
// keep code of one instruction set out of another's reach, kernel files use nothing
// that the linker could merge: no standard containers or algorithms, and everything
// here is in an unnamed namespace.
//
// Reductions add sixteen lanes in a fixed tree, so a sum is a function of its terms and
// the row length alone.
#pragma once

#ifndef GOLDFINCH_ISA
#error "GOLDFINCH_ISA names the namespace of the instruction set"
#endif

#include <cstdint>

#include "engine/backend/matrix.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace goldfinch::GOLDFINCH_ISA {
namespace {

inline constexpr std::int64_t kLanes = 16;

#define GOLDFINCH_INLINE inline __attribute__((always_inline))

#if defined(__AVX2__) && !defined(__AVX512F__)
#define GOLDFINCH_HALVES 1
#else
#define GOLDFINCH_HALVES 0
#endif

#if GOLDFINCH_HALVES
// Two vectors of eight lanes, since the machine's have no more: the compiler keeps a
// wider one in memory, and copies it lane by lane.
using F32 = float __attribute__((vector_size(32)));
using I32 = std::int32_t __attribute__((vector_size(32)));
using U32 = std::uint32_t __attribute__((vector_size(32)));

struct F32x16 {
  F32 half[2];
  GOLDFINCH_INLINE float operator[](int lane) const { return half[lane / 8][lane % 8]; }
};
struct I32x16 {
  I32 half[2];
};

GOLDFINCH_INLINE F32x16 Splat(float x) { return {{F32{} + x, F32{} + x}}; }

GOLDFINCH_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  return {{a.half[0] + b.half[0], a.half[1] + b.half[1]}};
}
GOLDFINCH_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  return {{a.half[0] - b.half[0], a.half[1] - b.half[1]}};
}
GOLDFINCH_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  return {{a.half[0] * b.half[0], a.half[1] * b.half[1]}};
}
GOLDFINCH_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  return {{a.half[0] / b.half[0], a.half[1] / b.half[1]}};
}
GOLDFINCH_INLINE F32x16 operator-(F32x16 a, float b) { return a - Splat(b); }
GOLDFINCH_INLINE F32x16 operator*(F32x16 a, float b) { return a * Splat(b); }
GOLDFINCH_INLINE F32x16 operator/(F32x16 a, float b) { return a / Splat(b); }
GOLDFINCH_INLINE F32x16 operator+(float a, F32x16 b) { return Splat(a) + b; }
GOLDFINCH_INLINE F32x16 operator-(float a, F32x16 b) { return Splat(a) - b; }
GOLDFINCH_INLINE F32x16 operator/(float a, F32x16 b) { return Splat(a) / b; }
GOLDFINCH_INLINE F32x16 operator-(F32x16 a) { return {{-a.half[0], -a.half[1]}}; }
GOLDFINCH_INLINE F32x16& operator+=(F32x16& a, F32x16 b) { return a = a + b; }
GOLDFINCH_INLINE F32x16& operator*=(F32x16& a, F32x16 b) { return a = a * b; }

// f of each of the machine's own vectors that make up `x`.
template <typename Function>
GOLDFINCH_INLINE F32x16 Each(F32x16 x, const Function& f) {
  return {{f(x.half[0]), f(x.half[1])}};
}
// The larger of each lane; b where either is NaN.
GOLDFINCH_INLINE F32x16 Larger(F32x16 a, F32x16 b) {
  return {{a.half[0] > b.half[0] ? a.half[0] : b.half[0],
           a.half[1] > b.half[1] ? a.half[1] : b.half[1]}};
}

GOLDFINCH_INLINE F32x16 Load(const float* p) {
  F32x16 v;
  __builtin_memcpy(&v.half[0], p, sizeof(F32));
  __builtin_memcpy(&v.half[1], p + 8, sizeof(F32));
  return v;
}
GOLDFINCH_INLINE void Store(F32x16 v, float* p) {
  __builtin_memcpy(p, &v.half[0], sizeof(F32));
  __builtin_memcpy(p + 8, &v.half[1], sizeof(F32));
}
#else
using F32 = float __attribute__((vector_size(64)));
using I32 = std::int32_t __attribute__((vector_size(64)));
using U32 = std::uint32_t __attribute__((vector_size(64)));
using U16x16 = std::uint16_t __attribute__((vector_size(32)));
using I8x16 = std::int8_t __attribute__((vector_size(16)));
using F32x16 = F32;
using I32x16 = I32;

GOLDFINCH_INLINE F32x16 Splat(float x) { return F32x16{} + x; }

template <typename Function>
GOLDFINCH_INLINE F32x16 Each(F32x16 x, const Function& f) {
  return f(x);
}
GOLDFINCH_INLINE F32x16 Larger(F32x16 a, F32x16 b) { return a > b ? a : b; }

GOLDFINCH_INLINE F32x16 Load(const float* p) {
  F32x16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GOLDFINCH_INLINE void Store(F32x16 v, float* p) { __builtin_memcpy(p, &v, sizeof v); }
#endif

GOLDFINCH_INLINE float ToFloat(std::uint16_t bf16) {
  const std::uint32_t bits = static_cast<std::uint32_t>(bf16) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}

// Round to nearest even; a NaN stays one.
GOLDFINCH_INLINE std::uint16_t ToBf16(float f) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &f, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>(f != f ? 0x7fc0u : rounded);
}

// bf16 of each lane, in the lower half of it.
GOLDFINCH_INLINE U32 RoundToBf16(F32 v) {
  const U32 bits = reinterpret_cast<U32>(v);
  const U32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return v != v ? U32{} + 0x7fc0u : rounded;
}

// Conversions of lanes are spelled out where there is an instruction: the compiler takes
// one lane at a time for some of them.
GOLDFINCH_INLINE F32x16 Load(const std::uint16_t* p) {
#if GOLDFINCH_HALVES
  const auto half = [p](int at) {
    const __m128i bf16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + at));
    return reinterpret_cast<F32>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
  };
  return {{half(0), half(8)}};
#else
  U16x16 half;
  __builtin_memcpy(&half, p, sizeof half);
  const U32 bits = __builtin_convertvector(half, U32) << 16;
  return reinterpret_cast<F32x16>(bits);
#endif
}
GOLDFINCH_INLINE void Store(F32x16 v, std::uint16_t* p) {
#if GOLDFINCH_HALVES
  // Packed within each half of 128 bits, then put in order.
  const __m256i packed =
      _mm256_packus_epi32(reinterpret_cast<__m256i>(RoundToBf16(v.half[0])),
                          reinterpret_cast<__m256i>(RoundToBf16(v.half[1])));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
#elif defined(__AVX512F__)
  // The compiler narrows lanes by permutations. vcvtneps2bf16 would flush subnormals.
  const __m512 f = reinterpret_cast<__m512>(v);
  const __m512i bits = reinterpret_cast<__m512i>(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
  const __m512i chosen = _mm512_mask_mov_epi32(
      rounded, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(chosen));
#else
  const U16x16 half = __builtin_convertvector(RoundToBf16(v), U16x16);
  __builtin_memcpy(p, &half, sizeof half);
#endif
}

// Sixteen signed bytes.
GOLDFINCH_INLINE I32x16 LoadBytes(const void* p) {
#if GOLDFINCH_HALVES
  const auto half = [p](int at) {
    return reinterpret_cast<I32>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(
        reinterpret_cast<const __m128i*>(static_cast<const char*>(p) + at))));
  };
  return {{half(0), half(8)}};
#elif defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return reinterpret_cast<I32x16>(_mm512_cvtepi8_epi32(bytes));
#else
  I8x16 quarter;
  __builtin_memcpy(&quarter, p, sizeof quarter);
  return __builtin_convertvector(quarter, I32x16);
#endif
}
GOLDFINCH_INLINE F32x16 Load(const std::int8_t* p) {
  const I32x16 bytes = LoadBytes(p);
#if GOLDFINCH_HALVES
  const auto half = [&bytes](int i) {
    return reinterpret_cast<F32>(
        _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(bytes.half[i])));
  };
  return {{half(0), half(1)}};
#elif defined(__AVX512F__)
  return reinterpret_cast<F32x16>(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(bytes)));
#else
  return __builtin_convertvector(bytes, F32x16);
#endif
}
// The seven bits of exponent and mantissa, put where float32 has them, are the value
// times 2^(7 - 127), subnormal ones too.
GOLDFINCH_INLINE F32x16 Load(const Fp8* p) {
  const auto raise = [](I32 bytes) {
    const I32 bits = (bytes << 20) & static_cast<std::int32_t>(0x87f00000u);
    return reinterpret_cast<F32>(bits) * 0x1p120f;
  };
  const I32x16 bytes = LoadBytes(p);
#if GOLDFINCH_HALVES
  return {{raise(bytes.half[0]), raise(bytes.half[1])}};
#else
  return raise(bytes);
#endif
}

// a * b + c with one rounding where the machine has an instruction for it. Spelled out
// where two pieces of code must agree: what the compiler fuses is its own choice.
GOLDFINCH_INLINE F32x16 MulAdd(F32x16 a, F32x16 b, F32x16 c) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32x16>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a),
                                                  reinterpret_cast<__m512>(b),
                                                  reinterpret_cast<__m512>(c)));
#elif GOLDFINCH_HALVES
  const auto half = [&](int i) {
    return reinterpret_cast<F32>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a.half[i]),
                                                 reinterpret_cast<__m256>(b.half[i]),
                                                 reinterpret_cast<__m256>(c.half[i])));
  };
  return {{half(0), half(1)}};
#else
  return a * b + c;
#endif
}

// The first `count` lanes, or all where there are as many; the others are zero and are
// not stored. A row's tail is computed as a padded vector, so an element's bits do not
// depend on where it stands.
template <typename T>
GOLDFINCH_INLINE F32x16 LoadPart(const T* p, std::int64_t count) {
  if (count >= kLanes) return Load(p);
  T lane[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) lane[i] = p[i];
  return Load(lane);
}
template <typename T>
GOLDFINCH_INLINE void StorePart(F32x16 v, T* p, std::int64_t count) {
  if (count >= kLanes) return Store(v, p);
  T lane[kLanes];
  Store(v, lane);
  for (std::int64_t i = 0; i < count; ++i) p[i] = lane[i];
}

// The same of a matrix: up to a vector from column `at` on.
GOLDFINCH_INLINE F32x16 Read(const Matrix& m, std::int64_t row, std::int64_t at) {
  return m.type == DType::kF32 ? LoadPart(m.f32(row) + at, m.cols - at)
                               : LoadPart(m.bf16(row) + at, m.cols - at);
}
GOLDFINCH_INLINE void Write(F32x16 v, const Matrix& m, std::int64_t row,
                            std::int64_t at) {
  if (m.type == DType::kF32)
    StorePart(v, m.f32(row) + at, m.cols - at);
  else
    StorePart(v, m.bf16(row) + at, m.cols - at);
}

GOLDFINCH_INLINE float SumLanes(F32x16 v) {
  float lane[16];
  Store(v, lane);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// e^x to about 1 ulp; 0 below -87.3, infinity above 88.7, NaN for NaN.
GOLDFINCH_INLINE F32 ExpOf(F32 x) {
  const F32 low = F32{} - 87.33654f, high = F32{} + 88.72283f;
  F32 clamped = x < low ? low : x;
  clamped = clamped > high ? high : clamped;
  // x = n ln 2 + f with |f| <= ln(2)/2; ln 2 in two parts so n * part is exact.
  const F32 magic = F32{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to integer
  const F32 n = (clamped * 1.44269504088896341f + magic) - magic;
  F32 f = clamped - n * 0.693359375f;
  f = f + n * 2.12194440e-4f;
  // Taylor of e^f by Horner, remainder below half an ulp on this interval.
  F32 p = F32{} + 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  // 2^n in two factors: n reaches 128, where one factor would overflow its exponent.
  const I32 whole = __builtin_convertvector(n, I32);
  const I32 half = whole >> 1;
  const F32 scale1 = reinterpret_cast<F32>((half + 127) << 23);
  const F32 scale2 = reinterpret_cast<F32>((whole - half + 127) << 23);
  F32 result = p * scale1 * scale2;
  result = x < low ? F32{} : result;
  result = x > high ? F32{} + __builtin_inff() : result;
  return x != x ? x : result;
}
GOLDFINCH_INLINE F32x16 Exp(F32x16 x) {
  return Each(x, [](F32 v) { return ExpOf(v); });
}

GOLDFINCH_INLINE F32x16 Sigmoid(F32x16 x) { return 1.0f / (1.0f + Exp(-x)); }

// Exact to about 2 ulp near zero too, where 1 - 2 / (e^2x + 1) cancels: there by the
// odd series x - x^3/3 + 2x^5/15 - 17x^7/315 + 62x^9/2835.
GOLDFINCH_INLINE F32 TanhOf(F32 x) {
  const F32 magnitude = x < 0.0f ? -x : x;
  const F32 e = ExpOf(-2.0f * magnitude);
  const F32 far = (1.0f - e) / (1.0f + e);
  const F32 s = x * x;
  F32 p = s * 0.0218694885f - 0.0539682540f;
  p = p * s + 0.1333333333f;
  p = p * s - 0.3333333333f;
  const F32 near = x + x * s * p;
  const F32 result = x < 0.0f ? -far : far;
  return magnitude < 0.25f ? near : result;
}
GOLDFINCH_INLINE F32x16 Tanh(F32x16 x) {
  return Each(x, [](F32 v) { return TanhOf(v); });
}

// Zero for negative lanes; a NaN stays one.
GOLDFINCH_INLINE F32x16 Relu(F32x16 x) {
  return Each(x, [](F32 v) { return v < 0.0f ? F32{} : v; });
}

}  // namespace
}  // namespace goldfinch::GOLDFINCH_ISA
