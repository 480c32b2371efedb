// Sums of a few rows over a few panels of weights: the inner loops of gemm.cc, for each
// instruction set.
//
// Inputs of float32 come one after the other, k = 0, 1, 2, ...; inputs of bf16 in pairs,
// the second of each first: 1, 0, 3, 2, ..., an odd last one behind a zero. That is what
// the instruction for pairs of bf16 does (AVX512-BF16), each product fused with its
// addition and what is below the normal numbers taken as zero; so do all sets from AVX2
// on, which therefore have the same bits. (The others, which have bits of their own, take
// bf16 one after the other.)
#pragma once

#include "engine/kernels/cpu/apart.h"
#include "engine/kernels/cpu/kernels.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

// Rows that keep their accumulators (two vectors each) in registers, also of weights in
// bf16, and panels taken side by side when rows are so few that the latency of a sum
// would show.
#if defined(__AVX512F__)
inline constexpr int kRows = 12, kBf16Rows = 12;
constexpr int PanelsFor(int rows) { return rows == 1 ? 4 : rows <= 4 ? 2 : 1; }
#elif defined(__AVX2__)
// More than two rows have half a panel's at a time. Weights in bf16, which are widened by
// one instruction, gain nothing by it (docs/performance.md).
inline constexpr int kRows = 6, kBf16Rows = 2;
constexpr int PanelsFor(int rows) { return rows == 1 ? 2 : 1; }
#elif defined(__aarch64__)
inline constexpr int kRows = 2, kBf16Rows = 2;
constexpr int PanelsFor(int rows) { return rows == 1 ? 2 : 1; }
#else
inline constexpr int kRows = 1, kBf16Rows = 1;
constexpr int PanelsFor(int) { return 1; }
#endif

// Bytes ahead of the weights in use that are asked for, of all panels side by side.
inline constexpr std::int64_t kAheadBytes = 4096;

GOLDFINCH_INLINE float Value(const float* x) { return *x; }
GOLDFINCH_INLINE float Value(const std::uint16_t* x) { return ToFloat(*x); }

template <int kCount, int kPanels = 1>
struct Accumulators {
  F32x16 sum[kPanels][kCount][2];
};

// Lines to ask for, one after the other.
struct Lines {
  const char* next;
  std::int64_t step;
};

// What to ask memory for while weights are used. One of two: every panel ahead of
// itself,
template <int kPanels>
struct AskAhead {
  std::int64_t panel_bytes;

  // `bytes` are used of each panel, `offset` bytes into it; `w` is the first one's.
  GOLDFINCH_INLINE void Ask(const void* w, std::int64_t offset, std::int64_t bytes) {
    constexpr std::int64_t kAhead = kAheadBytes / kPanels;
    const char* ahead = static_cast<const char*>(w) + kAhead;
    // Beyond a panel's end comes that of the next turn.
    if (offset + kAhead >= panel_bytes) ahead += (kPanels - 1) * panel_bytes;
    for (int p = 0; p < kPanels; ++p, ahead += panel_bytes)
      for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + i);
  }

  // What one of two passes over `count` rows of `bytes` each asks for.
  GOLDFINCH_INLINE Lines OfPass(int pass, const void* w, std::int64_t count,
                                std::int64_t bytes) {
    static_assert(kPanels == 1);
    const char* next = static_cast<const char*>(w) + count * bytes;
    return {next + pass * count * bytes / 2, bytes / 2};
  }
};

// or a line a step of something that comes next.
struct AskNext {
  const char* next;
  std::int64_t step;  // 64, or 0: nothing new

  GOLDFINCH_INLINE void Ask(const void*, std::int64_t, std::int64_t) {
    __builtin_prefetch(next, 0, 2);
    next += step;
  }

  GOLDFINCH_INLINE Lines OfPass(int, const void*, std::int64_t count, std::int64_t) {
    const Lines lines = {next, step / 2};
    next += count * lines.step;
    return lines;
  }
};

#if defined(__AVX2__)
// While one lives, this thread's arithmetic takes what is below the normal numbers as
// zero, and makes it zero.
class FlushSubnormals {
 public:
  GOLDFINCH_INLINE explicit FlushSubnormals(bool flush)
      : flush_(flush), before_(_mm_getcsr()) {
    constexpr unsigned kInputs = 1u << 6, kResults = 1u << 15;
    if (flush_) Set(before_ | kInputs | kResults);
  }
  GOLDFINCH_INLINE ~FlushSubnormals() {
    if (flush_) Set(before_);
  }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  // Memory is read and written on the side where the program does, for all the compiler
  // knows. So what is computed of one and stored in the other stays between the two.
  static GOLDFINCH_INLINE void Set(unsigned mode) {
    asm volatile("ldmxcsr %0" : : "m"(mode) : "memory");
  }

  const bool flush_;
  const unsigned before_;
};
#else
struct FlushSubnormals {
  explicit FlushSubnormals(bool) {}
};
#endif

#if defined(__AVX2__)
// Calls step(k) for inputs of type T in their order, and ask(k, how many) before one or
// two of them; `alone` for the zero before an odd last one.
template <typename T, typename Ask, typename Step, typename Alone>
GOLDFINCH_INLINE void ForInputs(std::int64_t in, const Ask& ask, const Step& step,
                                const Alone& alone) {
  std::int64_t k = 0;
  if constexpr (sizeof(T) == sizeof(std::uint16_t)) {
    for (; k + 2 <= in; k += 2) {
      ask(k, 2);
      step(k + 1);
      step(k);
    }
    if (k < in) alone();
  }
  for (; k < in; ++k) {
    ask(k, 1);
    step(k);
  }
}

// What a zero among the inputs does to a sum: there is no other zero than the positive
// one then, nor anything below the normal numbers.
GOLDFINCH_INLINE F32x16 AddNothing(F32x16 sum) { return MulAdd(F32x16{}, F32x16{}, sum); }
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// Inputs that pass over one half of a panel before they pass over the other one: the
// weights of so many, and the inputs as float32, stay in the first level cache meanwhile.
inline constexpr std::int64_t kHalfPiece = 256;

// sums[2 m] += x[m, k] w[k], of half a panel, x of type T made float32. A function of its
// own, so that the compiler has all registers for it, and loops that it unrolls before it
// looks for any.
template <int kCount, typename T, typename W>
__attribute__((noinline)) void AccumulateHalf(const float* x, std::int64_t stride,
                                              const W* w, std::int64_t count, Lines ask,
                                              F32x16* sums) {
  F32x16 sum[kCount];
#pragma GCC unroll 8
  for (int m = 0; m < kCount; ++m) sum[m] = sums[2 * m];
  ForInputs<T>(
      count,
      [&](std::int64_t, int inputs) __attribute__((always_inline)) {
        __builtin_prefetch(ask.next, 0, 2);
        ask.next += inputs * ask.step;
      },
      [&](std::int64_t k) __attribute__((always_inline)) {
        const F32x16 columns = Load(w + k * kPanelColumns);
#pragma GCC unroll 8
        for (int m = 0; m < kCount; ++m)
          sum[m] = MulAdd(Splat(x[m * stride + k]), columns, sum[m]);
      },
      [&]() __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int m = 0; m < kCount; ++m) sum[m] = AddNothing(sum[m]);
      });
#pragma GCC unroll 8
  for (int m = 0; m < kCount; ++m) sums[2 * m] = sum[m];
}

// More rows than have the sums of a whole panel in registers.
template <int kCount, typename T, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulateHalves(const T* x, std::int64_t stride, const W* w,
                                       std::int64_t in, Asker ask,
                                       F32x16 (&sums)[kCount][2]) {
  constexpr bool kIsWide = sizeof(T) == sizeof(float);
  constexpr auto kRowBytes = kPanelColumns * static_cast<std::int64_t>(sizeof(W));
  float wide[kIsWide ? 1 : kCount * kHalfPiece];
  for (std::int64_t k = 0; k < in; k += kHalfPiece, w += kHalfPiece * kPanelColumns) {
    const std::int64_t count = in - k < kHalfPiece ? in - k : kHalfPiece;
    const float* rows = wide;
    std::int64_t rows_stride = kHalfPiece;
    if constexpr (kIsWide) {
      rows = x + k;
      rows_stride = stride;
    } else {
      for (int m = 0; m < kCount; ++m)
        for (std::int64_t i = 0; i < count; i += kLanes)
          Store(LoadPart(x + m * stride + k + i, count - i), wide + m * kHalfPiece + i);
    }
    for (int half = 0; half < 2; ++half)
      AccumulateHalf<kCount, T>(rows, rows_stride, w + half * kLanes, count,
                                ask.OfPass(half, w, count, kRowBytes), &sums[0][half]);
  }
}
#endif

// One input after the other. x + m * stride is row m; panel p begins p * panel elements
// after w.
template <int kCount, int kPanels, typename T, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulatePlain(const T* x, std::int64_t stride, const W* w,
                                      std::int64_t panel, std::int64_t in, Asker ask,
                                      Accumulators<kCount, kPanels>& acc) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (kCount > kBf16Rows)
    return AccumulateHalves<kCount>(x, stride, w, in, ask, acc.sum[0]);
#endif
  constexpr std::int64_t kStep = kPanelColumns * static_cast<std::int64_t>(sizeof(W));
  for (std::int64_t k = 0; k < in; ++k, w += kPanelColumns) {
    ask.Ask(w, k * kStep, kStep);
    for (int p = 0; p < kPanels; ++p) {
      const W* at = w + p * panel;
      const F32x16 w0 = Load(at), w1 = Load(at + kLanes);
      for (int m = 0; m < kCount; ++m) {
        const F32x16 xk = Splat(Value(x + m * stride + k));
        acc.sum[p][m][0] = MulAdd(xk, w0, acc.sum[p][m][0]);
        acc.sum[p][m][1] = MulAdd(xk, w1, acc.sum[p][m][1]);
      }
    }
  }
}

#if defined(__AVX512BF16__)
// Sixteen columns' pairs of weights, as bf16.
GOLDFINCH_INLINE __m512i LoadPairs(const std::uint16_t* w) {
  return _mm512_loadu_si512(w);
}
GOLDFINCH_INLINE __m512i LoadPairs(const std::int8_t* w) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(
      reinterpret_cast<__m512>(Load(w + kLanes)), reinterpret_cast<__m512>(Load(w))));
}
// Exponent and mantissa where bf16 has them, and the exponent's bias made 127. Below the
// normal numbers the bias would be wrong: there the eight values are looked up, less what
// their mantissas have added by themselves. The product would flush them if they were
// left as subnormal as they come.
GOLDFINCH_INLINE __m512i LoadPairs(const Fp8* w) {
  alignas(64) static constexpr std::uint16_t kSubnormal[2 * kLanes] = {
      0x0000,        0x3b00 - 0x10, 0x3b80 - 0x20, 0x3bc0 - 0x30,   // 0 to 3 times 2^-9
      0x3c00 - 0x40, 0x3c20 - 0x50, 0x3c40 - 0x60, 0x3c60 - 0x70};  // 4 to 7
  const __m512i codes =
      _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
  const __m512i bits = _mm512_and_si512(
      _mm512_slli_epi16(codes, 4), _mm512_set1_epi16(static_cast<std::int16_t>(0x87f0)));
  const __mmask32 subnormal = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x78));
  const __m512i bias = _mm512_mask_permutexvar_epi16(
      _mm512_set1_epi16((127 - 7) << 7), subnormal, codes, _mm512_load_si512(kSubnormal));
  return _mm512_add_epi16(bits, bias);
}

GOLDFINCH_INLINE F32x16 DotPairs(F32x16 acc, std::uint32_t pair, __m512i w) {
  const __m512i x = _mm512_set1_epi32(static_cast<int>(pair));
  return reinterpret_cast<F32x16>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                                   reinterpret_cast<__m512bh>(x),
                                                   reinterpret_cast<__m512bh>(w)));
}

// One step: inputs k and k + 1, given by pair(m), of every panel.
template <int kCount, int kPanels, typename W, typename Pair>
GOLDFINCH_INLINE void PairStep(const W* w, std::int64_t panel, const Pair& pair,
                               Accumulators<kCount, kPanels>& acc) {
  for (int p = 0; p < kPanels; ++p) {
    const W* at = w + p * panel;
    const __m512i w0 = LoadPairs(at), w1 = LoadPairs(at + kPanelColumns);
    for (int m = 0; m < kCount; ++m) {
      acc.sum[p][m][0] = DotPairs(acc.sum[p][m][0], pair(m), w0);
      acc.sum[p][m][1] = DotPairs(acc.sum[p][m][1], pair(m), w1);
    }
  }
}

template <int kCount, int kPanels, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulateBf16(const std::uint16_t* x, std::int64_t stride,
                                     const W* w, std::int64_t panel, std::int64_t in,
                                     Asker ask, Accumulators<kCount, kPanels>& acc) {
  constexpr std::int64_t kStep = 2 * kPanelColumns * static_cast<std::int64_t>(sizeof(W));
  const std::int64_t pairs = in / 2;
  for (std::int64_t i = 0; i < pairs; ++i, w += 2 * kPanelColumns) {
    ask.Ask(w, i * kStep, kStep);
    PairStep<kCount, kPanels>(
        w, panel,
        [&](int m) {
          std::uint32_t pair;
          __builtin_memcpy(&pair, x + m * stride + 2 * i, sizeof pair);
          return pair;
        },
        acc);
  }
  if (in % 2 != 0)
    PairStep<kCount, kPanels>(
        w, panel, [&](int m) { return std::uint32_t{x[m * stride + in - 1]}; }, acc);
}
#elif defined(__AVX2__)
// A row of a panel, its columns in order, or apart as a load of bf16 has them.
template <typename W>
struct PanelRow {
  static constexpr bool kApart = false;
  F32x16 part[2];

  GOLDFINCH_INLINE explicit PanelRow(const W* w) : part{Load(w), Load(w + kLanes)} {}
};
template <>
struct PanelRow<std::uint16_t> {
  static constexpr bool kApart = true;
  F32x16 part[2];

  GOLDFINCH_INLINE explicit PanelRow(const std::uint16_t* w) {
#if defined(__AVX512F__)
    const EvenAndOdd all = LoadApart(w);
    part[0] = all.even;
    part[1] = all.odd;
#else
    for (int i = 0; i < 2; ++i) {
      const EvenAndOdd half = LoadApart(w + i * kLanes);
      part[i] = {{half.even, half.odd}};
    }
#endif
  }
};

// Inputs are widened a piece at a time, which stays in the first level cache: its even
// ones, then its odd ones.
inline constexpr std::int64_t kWidePiece = 256, kWideHalf = kWidePiece / 2;
GOLDFINCH_INLINE void WidenApart(const std::uint16_t* x, std::int64_t count,
                                 float* wide) {
  const auto widen = [wide](const std::uint16_t* from, std::int64_t at) {
    const EvenAndOdd inputs = LoadApart(from);
    __builtin_memcpy(wide + at / 2, &inputs.even, sizeof inputs.even);
    __builtin_memcpy(wide + kWideHalf + at / 2, &inputs.odd, sizeof inputs.odd);
  };
  std::int64_t at = 0;
  for (; at + kLoadLanes <= count; at += kLoadLanes) widen(x + at, at);
  if (at == count) return;
  std::uint16_t rest[kLoadLanes] = {};
  for (std::int64_t i = 0; i < count - at; ++i) rest[i] = x[at + i];
  widen(rest, at);
}

// A function of its own, as its sums take all registers.
template <int kCount, int kPanels, typename W, typename Asker>
__attribute__((noinline)) void AccumulateWide(const std::uint16_t* x, std::int64_t stride,
                                              const W* w, std::int64_t panel,
                                              std::int64_t in, Asker ask,
                                              Accumulators<kCount, kPanels>& sums) {
  constexpr std::int64_t kStep = kPanelColumns * static_cast<std::int64_t>(sizeof(W));
  alignas(64) float wide[kCount * kWidePiece];
  Accumulators<kCount, kPanels> acc = sums;
  if constexpr (PanelRow<W>::kApart)
    for (auto& of_panel : acc.sum)
      for (auto& of_row : of_panel) PutApart(of_row);
  for (std::int64_t begin = 0; begin < in; begin += kWidePiece) {
    const std::int64_t count = in - begin < kWidePiece ? in - begin : kWidePiece;
    for (int m = 0; m < kCount; ++m)
      WidenApart(x + m * stride + begin, count, wide + m * kWidePiece);
    ForInputs<std::uint16_t>(
        count,
        [&](std::int64_t k, int inputs) __attribute__((always_inline)) {
          ask.Ask(w + k * kPanelColumns, (begin + k) * kStep, inputs * kStep);
        },
        [&](std::int64_t k) __attribute__((always_inline)) {
          const float* xk = wide + k % 2 * kWideHalf + k / 2;
          for (int p = 0; p < kPanels; ++p) {
            const PanelRow<W> columns(w + k * kPanelColumns + p * panel);
            for (int m = 0; m < kCount; ++m) {
              const F32x16 input = Splat(xk[m * kWidePiece]);
              for (int i = 0; i < 2; ++i)
                acc.sum[p][m][i] = MulAdd(input, columns.part[i], acc.sum[p][m][i]);
            }
          }
        },
        [&]() __attribute__((always_inline)) {
          for (auto& of_panel : acc.sum)
            for (auto& of_row : of_panel)
              for (F32x16& sum : of_row) sum = AddNothing(sum);
        });
    w += count * kPanelColumns;
  }
  if constexpr (PanelRow<W>::kApart)
    for (auto& of_panel : acc.sum)
      for (auto& of_row : of_panel) PutInOrder(of_row);
  sums = acc;
}

template <int kCount, int kPanels, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulateBf16(const std::uint16_t* x, std::int64_t stride,
                                     const W* w, std::int64_t panel, std::int64_t in,
                                     Asker ask, Accumulators<kCount, kPanels>& acc) {
  if constexpr (kCount <= kBf16Rows)
    AccumulateWide<kCount, kPanels>(x, stride, w, panel, in, ask, acc);
#if !defined(__AVX512F__)
  else
    AccumulateHalves<kCount>(x, stride, w, in, ask, acc.sum[0]);
#endif
}
#else
template <int kCount, int kPanels, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulateBf16(const std::uint16_t* x, std::int64_t stride,
                                     const W* w, std::int64_t panel, std::int64_t in,
                                     Asker ask, Accumulators<kCount, kPanels>& acc) {
  AccumulatePlain<kCount, kPanels>(x, stride, w, panel, in, ask, acc);
}
#endif

template <int kCount, int kPanels, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulateBytes(const Matrix& x, std::int64_t row,
                                      const GemmPanels& w, const W* data, Asker ask,
                                      Accumulators<kCount, kPanels>& acc) {
  if (w.type == DType::kF32)
    AccumulatePlain<kCount, kPanels>(x.f32(row), x.stride, data, w.panel_bytes, w.in, ask,
                                     acc);
  else
    AccumulateBf16<kCount, kPanels>(x.bf16(row), x.stride, data, w.panel_bytes, w.in, ask,
                                    acc);
}

// Adds the products of rows `row` and on, of panels that begin at `data`.
template <int kCount, int kPanels, typename Asker>
GOLDFINCH_INLINE void Accumulate(const Matrix& x, std::int64_t row, const GemmPanels& w,
                                 const void* data, Asker ask,
                                 Accumulators<kCount, kPanels>& acc) {
  const std::int64_t panel = w.panel_bytes / SizeOf(w.storage);
  if (w.storage == DType::kI8) {
    AccumulateBytes<kCount, kPanels>(x, row, w, static_cast<const std::int8_t*>(data),
                                     ask, acc);
  } else if (w.storage == DType::kFp8) {
    AccumulateBytes<kCount, kPanels>(x, row, w, static_cast<const Fp8*>(data), ask, acc);
  } else if (w.type == DType::kF32) {
    AccumulatePlain<kCount, kPanels>(
        x.f32(row), x.stride, static_cast<const float*>(data), panel, w.in, ask, acc);
  } else if constexpr (kCount <= kBf16Rows) {
    AccumulateBf16<kCount, kPanels>(x.bf16(row), x.stride,
                                    static_cast<const std::uint16_t*>(data), panel, w.in,
                                    ask, acc);
  }
}

}  // namespace
}  // namespace goldfinch::GOLDFINCH_ISA
