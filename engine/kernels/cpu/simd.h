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

// Whether plain code may use what every machine of an architecture has of fused products.
#ifndef GOLDFINCH_FUSED
#define GOLDFINCH_FUSED 1
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace goldfinch::GOLDFINCH_ISA {
namespace {

inline constexpr std::int64_t kLanes = 16;

#define GOLDFINCH_INLINE inline __attribute__((always_inline))
// A lambda that becomes part of who calls it, at any level of optimisation.
#define GOLDFINCH_EACH(i) [&](int i) __attribute__((always_inline))

// The machine's own vectors, and how many of them sixteen lanes are.
#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;  // SSE2, NEON
#endif
inline constexpr int kVectorLanes = kVectorBytes / 4;
inline constexpr int kMachineVectors = kLanes / kVectorLanes;

using F32 = float __attribute__((vector_size(kVectorBytes)));
using I32 = std::int32_t __attribute__((vector_size(kVectorBytes)));
using U32 = std::uint32_t __attribute__((vector_size(kVectorBytes)));

#if defined(__AVX512F__)
using F32x16 = F32;

template <typename Function>
GOLDFINCH_INLINE F32x16 Parts(const Function& f) {
  return f(0);
}
GOLDFINCH_INLINE F32 Part(F32x16 v, int) { return v; }
#else
// Several vectors by name: the compiler keeps one that is wider than the machine's in
// memory, and copies it lane by lane.
struct F32x16 {
  F32 part[kMachineVectors];
  GOLDFINCH_INLINE float operator[](int lane) const {
    return part[lane / kVectorLanes][lane % kVectorLanes];
  }
};

// f(i) is part i.
template <typename Function>
GOLDFINCH_INLINE F32x16 Parts(const Function& f) {
  if constexpr (kMachineVectors == 2) return {{f(0), f(1)}};
  if constexpr (kMachineVectors == 4) return {{f(0), f(1), f(2), f(3)}};
}
GOLDFINCH_INLINE F32 Part(const F32x16& v, int i) { return v.part[i]; }

GOLDFINCH_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] + b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] - b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] * b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] / b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator-(F32x16 a, float b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] - b; });
}
GOLDFINCH_INLINE F32x16 operator*(F32x16 a, float b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] * b; });
}
GOLDFINCH_INLINE F32x16 operator/(F32x16 a, float b) {
  return Parts(GOLDFINCH_EACH(i) { return a.part[i] / b; });
}
GOLDFINCH_INLINE F32x16 operator+(float a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a + b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator-(float a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a - b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator/(float a, F32x16 b) {
  return Parts(GOLDFINCH_EACH(i) { return a / b.part[i]; });
}
GOLDFINCH_INLINE F32x16 operator-(F32x16 a) {
  return Parts(GOLDFINCH_EACH(i) { return -a.part[i]; });
}
GOLDFINCH_INLINE F32x16& operator+=(F32x16& a, F32x16 b) { return a = a + b; }
GOLDFINCH_INLINE F32x16& operator*=(F32x16& a, F32x16 b) { return a = a * b; }
#endif

// x in every lane. A number that is added to a vector is widened, too, but costs the
// addition.
GOLDFINCH_INLINE F32 SplatVector(float x) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_set1_ps(x));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_set1_ps(x));
#elif defined(__SSE__)
  return reinterpret_cast<F32>(_mm_set1_ps(x));
#elif defined(__aarch64__)
  return F32{x, x, x, x};
#else
  return F32{} + x;
#endif
}
GOLDFINCH_INLINE F32x16 Splat(float x) {
  const F32 v = SplatVector(x);
  return Parts([v](int) { return v; });
}

// f of each of the machine's own vectors that make up `x`.
template <typename Function>
GOLDFINCH_INLINE F32x16 Each(F32x16 x, const Function& f) {
  return Parts(GOLDFINCH_EACH(i) { return f(Part(x, i)); });
}
// The larger of each lane; b where either is NaN.
GOLDFINCH_INLINE F32x16 Larger(F32x16 a, F32x16 b) {
  return Parts(
      GOLDFINCH_EACH(i) { return Part(a, i) > Part(b, i) ? Part(a, i) : Part(b, i); });
}

// A vector from memory, and back; aligned to nothing.
template <typename Vector>
GOLDFINCH_INLINE Vector LoadVector(const void* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
GOLDFINCH_INLINE F32x16 Load(const float* p) {
  return Parts(GOLDFINCH_EACH(i) { return LoadVector<F32>(p + i * kVectorLanes); });
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

// bf16 of each lane, in the lower half of it.
GOLDFINCH_INLINE U32 RoundToBf16(F32 v) {
  const U32 bits = reinterpret_cast<U32>(v);
  const U32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return v != v ? U32{} + 0x7fc0u : rounded;
}

// Conversions of lanes are spelled out where there is an instruction: the compiler takes
// one lane at a time for some of them.
GOLDFINCH_INLINE F32x16 Load(const std::uint16_t* p) {
  return Parts(GOLDFINCH_EACH(i) {
    const std::uint16_t* const at = p + i * kVectorLanes;
#if defined(__AVX2__) && !defined(__AVX512F__)
    const __m128i bf16 = LoadVector<__m128i>(at);
    return reinterpret_cast<F32>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
#elif defined(__SSE2__) && !defined(__AVX2__)
    const __m128i bf16 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
    return reinterpret_cast<F32>(_mm_unpacklo_epi16(_mm_setzero_si128(), bf16));
#else
    using U16 = std::uint16_t __attribute__((vector_size(kVectorBytes / 2)));
    return reinterpret_cast<F32>(__builtin_convertvector(LoadVector<U16>(at), U32) << 16);
#endif
  });
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
#elif defined(__AVX2__)
  // Packed within each half of 128 bits, then put in order.
  const __m256i packed =
      _mm256_packus_epi32(reinterpret_cast<__m256i>(RoundToBf16(v.part[0])),
                          reinterpret_cast<__m256i>(RoundToBf16(v.part[1])));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0)));
#else
  using U16 = std::uint16_t __attribute__((vector_size(kVectorBytes / 2)));
  for (int i = 0; i < kMachineVectors; ++i) {
    const U16 narrow = __builtin_convertvector(RoundToBf16(v.part[i]), U16);
    __builtin_memcpy(p + i * kVectorLanes, &narrow, sizeof narrow);
  }
#endif
}

// Signed bytes.
GOLDFINCH_INLINE I32 LoadBytes(const void* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<I32>(_mm512_cvtepi8_epi32(LoadVector<__m128i>(p)));
#elif defined(__AVX2__)
  return reinterpret_cast<I32>(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
#elif defined(__SSE2__)
  // Each byte into the uppermost place of its lane, and down again with its sign.
  const __m128i bytes = _mm_cvtsi32_si128(LoadVector<int>(p));
  const __m128i twice = _mm_unpacklo_epi8(bytes, bytes);
  return reinterpret_cast<I32>(_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24));
#else
  using I8 = std::int8_t __attribute__((vector_size(kVectorBytes / 4)));
  return __builtin_convertvector(LoadVector<I8>(p), I32);
#endif
}
GOLDFINCH_INLINE F32x16 Load(const std::int8_t* p) {
  return Parts(GOLDFINCH_EACH(i) {
    const I32 bytes = LoadBytes(p + i * kVectorLanes);
#if defined(__AVX512F__)
    return reinterpret_cast<F32>(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(bytes)));
#else
    return __builtin_convertvector(bytes, F32);
#endif
  });
}
// The seven bits of exponent and mantissa, put where a wider type has them, are the value
// times a power of two, subnormal ones too. float16 is converted as it is where
// arithmetic flushes what is subnormal.
GOLDFINCH_INLINE F32x16 Load(const Fp8* p) {
  return Parts(GOLDFINCH_EACH(i) {
#if defined(__AVX512F__)
    const __m256i codes = _mm256_cvtepi8_epi16(LoadVector<__m128i>(p + i * kVectorLanes));
    const __m256i half = _mm256_and_si256(_mm256_slli_epi16(codes, 7),
                                          _mm256_set1_epi16(static_cast<short>(0xbf80)));
    return reinterpret_cast<F32>(_mm512_cvtph_ps(half)) * 0x1p8f;
#elif defined(__AVX2__)
    const __m128i codes = _mm_cvtepi8_epi16(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + i * kVectorLanes)));
    const __m128i half = _mm_and_si128(_mm_slli_epi16(codes, 7),
                                       _mm_set1_epi16(static_cast<short>(0xbf80)));
    return reinterpret_cast<F32>(_mm256_cvtph_ps(half)) * 0x1p8f;
#else
    const I32 bytes = LoadBytes(p + i * kVectorLanes);
    const I32 bits = (bytes << 20) & static_cast<std::int32_t>(0x87f00000u);
    return reinterpret_cast<F32>(bits) * 0x1p120f;
#endif
  });
}

// a * b + c with one rounding where the machine has an instruction for it. Spelled out
// wherever it is wanted: kernels are compiled so that the compiler fuses nothing of its
// own accord (engine/CMakeLists.txt), or bits would be its choice.
GOLDFINCH_INLINE F32 MulAddOf(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a),
                                               reinterpret_cast<__m512>(b),
                                               reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<F32>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a),
                                               reinterpret_cast<__m256>(b),
                                               reinterpret_cast<__m256>(c)));
#elif defined(__aarch64__) && GOLDFINCH_FUSED
  return reinterpret_cast<F32>(vfmaq_f32(reinterpret_cast<float32x4_t>(c),
                                         reinterpret_cast<float32x4_t>(a),
                                         reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}
GOLDFINCH_INLINE F32 MulAddOf(F32 a, F32 b, float c) { return MulAddOf(a, b, F32{} + c); }
GOLDFINCH_INLINE F32x16 MulAdd(F32x16 a, F32x16 b, F32x16 c) {
  return Parts(
      GOLDFINCH_EACH(i) { return MulAddOf(Part(a, i), Part(b, i), Part(c, i)); });
}
GOLDFINCH_INLINE float MulAdd(float a, float b, float c) {
#if defined(__FMA__) || (defined(__aarch64__) && GOLDFINCH_FUSED)
  return __builtin_fmaf(a, b, c);
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
  const F32 n = MulAddOf(clamped, F32{} + 1.44269504088896341f, magic) - magic;
  F32 f = MulAddOf(n, F32{} - 0.693359375f, clamped);
  f = MulAddOf(n, F32{} + 2.12194440e-4f, f);
  // Taylor of e^f by Horner, remainder below half an ulp on this interval.
  F32 p = F32{} + 1.9875691500e-4f;
  p = MulAddOf(p, f, 1.3981999507e-3f);
  p = MulAddOf(p, f, 8.3334519073e-3f);
  p = MulAddOf(p, f, 4.1665795894e-2f);
  p = MulAddOf(p, f, 1.6666665459e-1f);
  p = MulAddOf(p, f, 5.0000001201e-1f);
  p = MulAddOf(p * f, f, f) + 1.0f;
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
  F32 p = MulAddOf(s, F32{} + 0.0218694885f, -0.0539682540f);
  p = MulAddOf(p, s, 0.1333333333f);
  p = MulAddOf(p, s, -0.3333333333f);
  const F32 near = MulAddOf(x * s, p, x);
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
