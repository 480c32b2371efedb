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

using F32x16 = float __attribute__((vector_size(64)));
using I32x16 = std::int32_t __attribute__((vector_size(64)));
using U32x16 = std::uint32_t __attribute__((vector_size(64)));
using U16x16 = std::uint16_t __attribute__((vector_size(32)));
using I8x16 = std::int8_t __attribute__((vector_size(16)));

#define GOLDFINCH_INLINE inline __attribute__((always_inline))

GOLDFINCH_INLINE F32x16 Splat(float x) { return F32x16{} + x; }

GOLDFINCH_INLINE F32x16 Load(const float* p) {
  F32x16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GOLDFINCH_INLINE void Store(F32x16 v, float* p) { __builtin_memcpy(p, &v, sizeof v); }

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

GOLDFINCH_INLINE F32x16 Load(const std::uint16_t* p) {
  U16x16 half;
  __builtin_memcpy(&half, p, sizeof half);
  const U32x16 bits = __builtin_convertvector(half, U32x16) << 16;
  return reinterpret_cast<F32x16>(bits);
}
GOLDFINCH_INLINE void Store(F32x16 v, std::uint16_t* p) {
#if defined(__AVX512F__)
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
  const U32x16 bits = reinterpret_cast<U32x16>(v);
  const U32x16 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U32x16 chosen = v != v ? U32x16{} + 0x7fc0u : rounded;
  const U16x16 half = __builtin_convertvector(chosen, U16x16);
  __builtin_memcpy(p, &half, sizeof half);
#endif
}

// Sixteen signed bytes. The compiler takes a lane at a time for these conversions, so
// they are spelled out where there is an instruction.
GOLDFINCH_INLINE I32x16 LoadBytes(const void* p) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return reinterpret_cast<I32x16>(_mm512_cvtepi8_epi32(bytes));
#elif defined(__AVX2__)
  const auto half = [p](int at) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(
        reinterpret_cast<const __m128i*>(static_cast<const char*>(p) + at)));
  };
  const __m256i parts[2] = {half(0), half(8)};
  I32x16 v;
  __builtin_memcpy(&v, parts, sizeof v);
  return v;
#else
  I8x16 quarter;
  __builtin_memcpy(&quarter, p, sizeof quarter);
  return __builtin_convertvector(quarter, I32x16);
#endif
}
GOLDFINCH_INLINE F32x16 Load(const std::int8_t* p) {
  const I32x16 bytes = LoadBytes(p);
#if defined(__AVX512F__)
  return reinterpret_cast<F32x16>(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(bytes)));
#elif defined(__AVX2__)
  __m256i parts[2];
  __builtin_memcpy(parts, &bytes, sizeof bytes);
  const __m256 floats[2] = {_mm256_cvtepi32_ps(parts[0]), _mm256_cvtepi32_ps(parts[1])};
  F32x16 v;
  __builtin_memcpy(&v, floats, sizeof v);
  return v;
#else
  return __builtin_convertvector(bytes, F32x16);
#endif
}
// The seven bits of exponent and mantissa, put where float32 has them, are the value
// times 2^(7 - 127), subnormal ones too.
GOLDFINCH_INLINE F32x16 Load(const Fp8* p) {
  const I32x16 bits = (LoadBytes(p) << 20) & static_cast<std::int32_t>(0x87f00000u);
  return reinterpret_cast<F32x16>(bits) * 0x1p120f;
}

// a * b + c with one rounding where the machine has an instruction for it. Spelled out
// where two pieces of code must agree: what the compiler fuses is its own choice.
GOLDFINCH_INLINE F32x16 MulAdd(F32x16 a, F32x16 b, F32x16 c) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32x16>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a),
                                                  reinterpret_cast<__m512>(b),
                                                  reinterpret_cast<__m512>(c)));
#elif defined(__FMA__)
  __m256 x[2], y[2], z[2];
  __builtin_memcpy(x, &a, sizeof a);
  __builtin_memcpy(y, &b, sizeof b);
  __builtin_memcpy(z, &c, sizeof c);
  for (int i = 0; i < 2; ++i) z[i] = _mm256_fmadd_ps(x[i], y[i], z[i]);
  __builtin_memcpy(&c, z, sizeof c);
  return c;
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
GOLDFINCH_INLINE F32x16 Exp(F32x16 x) {
  const F32x16 low = Splat(-87.33654f), high = Splat(88.72283f);
  F32x16 clamped = x < low ? low : x;
  clamped = clamped > high ? high : clamped;
  // x = n ln 2 + f with |f| <= ln(2)/2; ln 2 in two parts so n * part is exact.
  const F32x16 magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to integer
  const F32x16 n = (clamped * 1.44269504088896341f + magic) - magic;
  F32x16 f = clamped - n * 0.693359375f;
  f = f + n * 2.12194440e-4f;
  // Taylor of e^f by Horner, remainder below half an ulp on this interval.
  F32x16 p = Splat(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  // 2^n in two factors: n reaches 128, where one factor would overflow its exponent.
  const I32x16 whole = __builtin_convertvector(n, I32x16);
  const I32x16 half = whole >> 1;
  const F32x16 scale1 = reinterpret_cast<F32x16>((half + 127) << 23);
  const F32x16 scale2 = reinterpret_cast<F32x16>((whole - half + 127) << 23);
  F32x16 result = p * scale1 * scale2;
  result = x < low ? F32x16{} : result;
  result = x > high ? Splat(__builtin_inff()) : result;
  return x != x ? x : result;
}

GOLDFINCH_INLINE F32x16 Sigmoid(F32x16 x) { return 1.0f / (1.0f + Exp(-x)); }

// Exact to about 2 ulp near zero too, where 1 - 2 / (e^2x + 1) cancels: there by the
// odd series x - x^3/3 + 2x^5/15 - 17x^7/315 + 62x^9/2835.
GOLDFINCH_INLINE F32x16 Tanh(F32x16 x) {
  const F32x16 magnitude = x < 0.0f ? -x : x;
  const F32x16 e = Exp(-2.0f * magnitude);
  const F32x16 far = (1.0f - e) / (1.0f + e);
  const F32x16 s = x * x;
  F32x16 p = s * 0.0218694885f - 0.0539682540f;
  p = p * s + 0.1333333333f;
  p = p * s - 0.3333333333f;
  const F32x16 near = x + x * s * p;
  const F32x16 result = x < 0.0f ? -far : far;
  return magnitude < 0.25f ? near : result;
}

}  // namespace
}  // namespace goldfinch::GOLDFINCH_ISA
