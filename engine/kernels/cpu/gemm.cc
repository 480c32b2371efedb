// y[m, n] = epilogue(sum over k of x[m, k] W[n, k]),  float32 accumulation.
//   x : [rows, in]   f32 or bf16        W : panels of 32 outputs, the type of x, int8
//                                           or fp8
//   y : [rows, out]  f32 or bf16        nothing aliases but what an epilogue updates
// Every sum has one accumulator that takes k = 0, 1, 2, ... in order (with bf16 pairs:
// (0,1), (2,3), ...), whatever the number of rows: the rows and panels processed together
// only share loads. A panel of a few hundred KB stays in the second level cache while all
// rows pass over it; a larger one goes in pieces, sums waiting on the stack between them.
//
// Memory: with one block of rows every weight is read once, straight from memory, and
// asked for a few KB ahead, across the ends of pages and panels where the hardware's own
// prefetching starts anew. With more, blocks ask for the rows of the next one, and the
// last two for the next panel.
//
// int8 and fp8 weights are exact in bf16 and float32, so they are widened and multiplied
// as such, and the sum is scaled once at the end. Few rows widen in registers; many rows
// share a widened piece of the panel: the same operations in the same order.
#include "engine/kernels/cpu/epilogue.h"
#include "engine/kernels/cpu/kernels_isa.h"
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

#if defined(__AVX2__) && !defined(__AVX512F__)
// Inputs that pass over one half of a panel before they pass over the other one: the
// weights of so many, and the inputs as float32, stay in the first level cache meanwhile.
inline constexpr std::int64_t kHalfPiece = 256;

// sums[2 m] += x[m, k] w[k], of half a panel. A function of its own, so that the compiler
// has all registers for it, and loops that it unrolls before it looks for any.
template <int kCount, typename W>
__attribute__((noinline)) void AccumulateHalf(const float* x, std::int64_t stride,
                                              const W* w, std::int64_t count, Lines ask,
                                              F32x16* sums) {
  F32x16 sum[kCount];
#pragma GCC unroll 8
  for (int m = 0; m < kCount; ++m) sum[m] = sums[2 * m];
  for (std::int64_t k = 0; k < count; ++k, ++x, w += kPanelColumns) {
    __builtin_prefetch(ask.next, 0, 2);
    ask.next += ask.step;
    const F32x16 columns = Load(w);
#pragma GCC unroll 8
    for (int m = 0; m < kCount; ++m)
      sum[m] = MulAdd(Splat(x[m * stride]), columns, sum[m]);
  }
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
      AccumulateHalf<kCount>(rows, rows_stride, w + half * kLanes, count,
                             ask.OfPass(half, w, count, kRowBytes), &sums[0][half]);
  }
}
#endif

// x + m * stride is row m; panel p begins p * panel elements after w.
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
GOLDFINCH_INLINE void AccumulatePairs(const std::uint16_t* x, std::int64_t stride,
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
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// The lower and the upper bf16 of each of eight pairs.
GOLDFINCH_INLINE F32 LowerOf(__m256i pairs) {
  return reinterpret_cast<F32>(_mm256_slli_epi32(pairs, 16));
}
GOLDFINCH_INLINE F32 UpperOf(__m256i pairs) {
  return reinterpret_cast<F32>(
      _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Sixteen columns as even ones and odd ones, which is how a load of bf16 has them, and
// back: to widen them in order would take as long as the products.
GOLDFINCH_INLINE F32x16 EvenAndOdd(F32x16 columns) {
  const auto a = reinterpret_cast<__m256>(columns.part[0]);
  const auto b = reinterpret_cast<__m256>(columns.part[1]);
  const auto in_order = [](__m256 v) {
    return reinterpret_cast<F32>(
        _mm256_permute4x64_pd(_mm256_castps_pd(v), _MM_SHUFFLE(3, 1, 2, 0)));
  };
  return {{in_order(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0))),
           in_order(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)))}};
}
GOLDFINCH_INLINE F32x16 InOrder(F32x16 even_and_odd) {
  const auto even = reinterpret_cast<__m256>(even_and_odd.part[0]);
  const auto odd = reinterpret_cast<__m256>(even_and_odd.part[1]);
  const __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
  return {{reinterpret_cast<F32>(_mm256_permute2f128_ps(low, high, 0x20)),
           reinterpret_cast<F32>(_mm256_permute2f128_ps(low, high, 0x31))}};
}

// One input of every panel, given by input(m) in all lanes.
template <int kCount, int kPanels, typename Input>
GOLDFINCH_INLINE void WideStep(const std::uint16_t* w, std::int64_t panel,
                               const Input& input, Accumulators<kCount, kPanels>& acc) {
  for (int p = 0; p < kPanels; ++p) {
    F32x16 columns[2];
    for (int i = 0; i < 2; ++i) {
      const __m256i pairs = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(w + p * panel + i * kLanes));
      columns[i] = {{LowerOf(pairs), UpperOf(pairs)}};
    }
    for (int m = 0; m < kCount; ++m) {
      const F32 x = input(m);
      for (int i = 0; i < 2; ++i)
        acc.sum[p][m][i] = MulAdd({{x, x}}, columns[i], acc.sum[p][m][i]);
    }
  }
}

// A function of its own, as its sums take all registers.
template <int kCount, int kPanels, typename Asker>
__attribute__((noinline)) void AccumulateWide(const std::uint16_t* x, std::int64_t stride,
                                              const std::uint16_t* w, std::int64_t panel,
                                              std::int64_t in, Asker ask,
                                              Accumulators<kCount, kPanels>& sums) {
  Accumulators<kCount, kPanels> acc = sums;
  constexpr std::int64_t kStep = kPanelColumns * 2;
  for (int p = 0; p < kPanels; ++p)
    for (int m = 0; m < kCount; ++m)
      for (int i = 0; i < 2; ++i) acc.sum[p][m][i] = EvenAndOdd(acc.sum[p][m][i]);
  const auto pair_at = [x, stride](int m, std::int64_t k) {
    std::int32_t pair;
    __builtin_memcpy(&pair, x + m * stride + k, sizeof pair);
    return _mm256_set1_epi32(pair);
  };
  std::int64_t k = 0;
  for (; k + 2 <= in; k += 2, w += 2 * kPanelColumns) {
    ask.Ask(w, k * kStep, kStep);
    WideStep<kCount, kPanels>(
        w, panel, [&](int m) { return LowerOf(pair_at(m, k)); }, acc);
    ask.Ask(w + kPanelColumns, (k + 1) * kStep, kStep);
    WideStep<kCount, kPanels>(
        w + kPanelColumns, panel, [&](int m) { return UpperOf(pair_at(m, k)); }, acc);
  }
  if (k < in)
    WideStep<kCount, kPanels>(
        w, panel, [&](int m) { return SplatVector(ToFloat(x[m * stride + k])); }, acc);
  for (int p = 0; p < kPanels; ++p)
    for (int m = 0; m < kCount; ++m)
      for (int i = 0; i < 2; ++i) sums.sum[p][m][i] = InOrder(acc.sum[p][m][i]);
}
#endif

template <int kCount, int kPanels, typename W, typename Asker>
GOLDFINCH_INLINE void AccumulateBf16(const std::uint16_t* x, std::int64_t stride,
                                     const W* w, std::int64_t panel, std::int64_t in,
                                     Asker ask, Accumulators<kCount, kPanels>& acc) {
#if defined(__AVX512BF16__)
  AccumulatePairs<kCount, kPanels>(x, stride, w, panel, in, ask, acc);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(W) == 2)
    AccumulateWide<kCount, kPanels>(x, stride, w, panel, in, ask, acc);
  else
    AccumulatePlain<kCount, kPanels>(x, stride, w, panel, in, ask, acc);
#else
  AccumulatePlain<kCount, kPanels>(x, stride, w, panel, in, ask, acc);
#endif
}

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

// Where the sums of `kCount` rows of one panel start: see Epilogue::resume.
template <int kCount>
GOLDFINCH_INLINE void StartPanel(const GemmArgs& args, std::int64_t row,
                                 std::int64_t panel, F32x16 (&sum)[kCount][2]) {
  if (!args.epilogue.resume) return;
  const std::int64_t column = panel * kPanelColumns;
  for (int m = 0; m < kCount; ++m) {
    for (int half = 0; half < 2; ++half) {
      const std::int64_t at = column + half * kLanes;
      if (at < args.y.cols) sum[m][half] = Read(args.y, row + m, at);
    }
  }
}

// Sums of `kCount` rows of one panel, finished and stored.
template <int kCount>
GOLDFINCH_INLINE void FinishPanel(const GemmArgs& args, std::int64_t row,
                                  std::int64_t panel, F32x16 (&sum)[kCount][2]) {
  const std::int64_t column = panel * kPanelColumns;
  if (IsScaled(args.w.storage)) {
    const float* scales = args.w.scales + column;
    for (int m = 0; m < kCount; ++m)
      for (int half = 0; half < 2; ++half) sum[m][half] *= Load(scales + half * kLanes);
  }
  if (args.epilogue.finish == Finish::kStore && args.y.type == DType::kF32 &&
      column + kPanelColumns <= args.y.cols) {
    for (int m = 0; m < kCount; ++m)
      for (int half = 0; half < 2; ++half)
        Store(sum[m][half], args.y.f32(row + m) + column + half * kLanes);
    return;
  }
  // A copy: were the sums themselves reached through memory, they would live there.
  F32x16 kept[kCount][2];
  for (int m = 0; m < kCount; ++m)
    for (int half = 0; half < 2; ++half) kept[m][half] = sum[m][half];
  FinishSums(args.epilogue, &kept[0][0], kCount, args.y, row, column);
}

template <int kCount, int kPanels, typename Asker>
void Block(const GemmArgs& args, std::int64_t row, std::int64_t panel, Asker ask) {
  Accumulators<kCount, kPanels> acc = {};
  for (int p = 0; p < kPanels; ++p) StartPanel<kCount>(args, row, panel + p, acc.sum[p]);
  const char* data = static_cast<const char*>(args.w.data) + panel * args.w.panel_bytes;
  Accumulate<kCount, kPanels>(args.x, row, args.w, data, ask, acc);
  for (int p = 0; p < kPanels; ++p) FinishPanel<kCount>(args, row, panel + p, acc.sum[p]);
}

// Calls f<count>() for a count of 1 to kMax.
template <int kMax, typename F>
GOLDFINCH_INLINE void WithCount(std::int64_t count, const F& f) {
  if constexpr (kMax > 1) {
    if (count < kMax) return WithCount<kMax - 1>(count, f);
  }
  f.template operator()<kMax>();
}

// All panels for a few rows, several panels at a time: weights stream from memory.
template <int kCount>
void Stream(const GemmArgs& args, std::int64_t row, std::int64_t begin,
            std::int64_t end) {
  constexpr int kPanels = PanelsFor(kCount);
  const std::int64_t bytes = args.w.panel_bytes;
  std::int64_t panel = begin;
  for (; panel + kPanels <= end; panel += kPanels)
    Block<kCount, kPanels>(args, row, panel, AskAhead<kPanels>{bytes});
  for (; panel < end; ++panel) Block<kCount, 1>(args, row, panel, AskAhead<1>{bytes});
}

// Calls f<number of rows>(first row, blocks left) on blocks of nearly equal numbers of
// rows, at most `most` of up to kRows.
template <typename F>
GOLDFINCH_INLINE void ForBlocks(std::int64_t begin, std::int64_t end, int most,
                                const F& f) {
  const std::int64_t rows = end - begin;
  for (std::int64_t left = (rows + most - 1) / most, row = begin; left > 0; --left) {
    const std::int64_t count = (end - row + left - 1) / left;
    WithCount<kRows>(count,
                     [&]<int kCount>() { f.template operator()<kCount>(row, left); });
    row += count;
  }
}

// Inputs that pass over a panel in one piece, and rows whose sums wait between pieces.
inline constexpr std::int64_t kPiece = 512, kPieceRows = 192;
static_assert(kPieceRows % kRows == 0);

// A panel in pieces of kPiece inputs: piece(k, count) gives the weights of inputs k and
// on, of the type of x or wider stored ones made so.
template <typename T, typename Piece>
GOLDFINCH_INLINE void PanelInPieces(const GemmArgs& args, std::int64_t row_begin,
                                    std::int64_t row_end, std::int64_t panel,
                                    const Piece& piece) {
  F32x16 sums[kPieceRows][2];
  const std::int64_t in = args.w.in;
  const auto* x = static_cast<const T*>(args.x.data);
  for (std::int64_t first = row_begin; first < row_end; first += kPieceRows) {
    const std::int64_t last = first + kPieceRows < row_end ? first + kPieceRows : row_end;
    for (std::int64_t k = 0; k < in; k += kPiece) {
      const std::int64_t count = in - k < kPiece ? in - k : kPiece;
      const T* w = piece(k, count);
      // The last block asks for the stored weights behind this piece.
      const char* next = static_cast<const char*>(args.w.data) +
                         panel * args.w.panel_bytes +
                         (k + count) * kPanelColumns * SizeOf(args.w.storage);
      ForBlocks(first, last, kRows, [&]<int kCount>(std::int64_t row, std::int64_t left) {
        Accumulators<kCount> acc = {};
        F32x16(*kept)[2] = sums + (row - first);
        if (k == 0) StartPanel<kCount>(args, row, panel, acc.sum[0]);
        for (int m = 0; k > 0 && m < kCount; ++m)
          for (int half = 0; half < 2; ++half) acc.sum[0][m][half] = kept[m][half];
        const T* rows = x + row * args.x.stride + k;
        const AskNext ask = {next, left == 1 ? 64 : 0};
        if constexpr (sizeof(T) == sizeof(float))
          AccumulatePlain<kCount, 1>(rows, args.x.stride, w, 0, count, ask, acc);
        else
          AccumulateBf16<kCount, 1>(rows, args.x.stride, w, 0, count, ask, acc);
        if (k + count == in) return FinishPanel<kCount>(args, row, panel, acc.sum[0]);
        for (int m = 0; m < kCount; ++m)
          for (int half = 0; half < 2; ++half) kept[m][half] = acc.sum[0][m][half];
      });
    }
  }
}

#if defined(__AVX512BF16__)
// Panels of bytes for many rows: a piece is widened once for all of them.
template <typename W>
void WidenedPanel(const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t panel) {
  alignas(64) std::uint16_t wide[kPiece * kPanelColumns];
  const W* bytes = static_cast<const W*>(args.w.data) + panel * args.w.panel_bytes;
  PanelInPieces<std::uint16_t>(
      args, row_begin, row_end, panel, [&](std::int64_t k, std::int64_t count) {
        const std::int64_t padded = (count + 1) / 2 * 2 * kPanelColumns;
        for (std::int64_t i = 0; i < padded; i += kPanelColumns)
          _mm512_store_si512(wide + i, LoadPairs(bytes + k * kPanelColumns + i));
        return static_cast<const std::uint16_t*>(wide);
      });
}
#endif

// float32 panels too large for the second level cache.
void LargePanel(const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
                std::int64_t panel) {
  const auto* data = reinterpret_cast<const float*>(
      static_cast<const char*>(args.w.data) + panel * args.w.panel_bytes);
  PanelInPieces<float>(
      args, row_begin, row_end, panel,
      [&](std::int64_t k, std::int64_t) { return data + k * kPanelColumns; });
}

}  // namespace

void Gemm(const GemmArgs& args, std::int64_t row_begin, std::int64_t row_end,
          std::int64_t panel_begin, std::int64_t panel_end) {
  const GemmPanels& w = args.w;
  const std::int64_t rows = row_end - row_begin;
  const int most = w.storage == DType::kBf16 ? kBf16Rows : kRows;
  if (rows <= most)
    return WithCount<kRows>(rows, [&]<int kCount>() {
      Stream<kCount>(args, row_begin, panel_begin, panel_end);
    });
  const auto rows_at = [&](std::int64_t row) {
    return static_cast<const char*>(args.x.data) +
           row * args.x.stride * SizeOf(args.x.type);
  };
  constexpr std::int64_t kLargePanelBytes = 512 * 1024;
  for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
#if defined(__AVX512BF16__)
    if (IsScaled(w.storage) && w.type == DType::kBf16) {
      if (w.storage == DType::kI8)
        WidenedPanel<std::int8_t>(args, row_begin, row_end, panel);
      else
        WidenedPanel<Fp8>(args, row_begin, row_end, panel);
      continue;
    }
#endif
    if (w.storage == DType::kF32 && w.panel_bytes > kLargePanelBytes) {
      LargePanel(args, row_begin, row_end, panel);
      continue;
    }
    const char* next = static_cast<const char*>(w.data) + (panel + 1) * w.panel_bytes;
    ForBlocks(row_begin, row_end, most,
              [&]<int kCount>(std::int64_t row, std::int64_t left) {
                // The last two blocks ask for half of the next panel each, the others for
                // the rows of the block behind them.
                const char* half = left == 2 ? next : next + w.panel_bytes / 2 / 64 * 64;
                Block<kCount, 1>(args, row, panel,
                                 AskNext{left <= 2 ? half : rows_at(row + kCount), 64});
              });
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
