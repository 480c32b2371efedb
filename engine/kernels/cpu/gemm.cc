// y[m, n] = sum over k of x[m, k] W[n, k],  float32 accumulation.
//   x : [rows, in]   f32 or bf16        W : panels of 32 outputs, the type of x or int8
//   y : [rows, out]  float32            nothing aliases
// Every y[m, n] has one accumulator that takes k = 0, 1, 2, ... in order (with bf16
// pairs: (0,1), (2,3), ...), whatever the number of rows: the rows processed together
// only share loads of W. A panel is at most a few hundred KB and stays in the second
// level cache while all rows pass over it, so k needs no blocking.
//
// int8 weights are exact in bf16 and float32, so they are widened and multiplied as
// such, and the sum is scaled once at the end. Few rows widen in registers; many rows
// share a widened piece of the panel, with y holding the sums between pieces: the same
// operations in the same order.
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

// Rows that keep their accumulators (two vectors each) in registers.
#if defined(__AVX512F__)
inline constexpr int kRows = 12;
#elif defined(__AVX2__)
inline constexpr int kRows = 3;
#else
inline constexpr int kRows = 1;
#endif

GOLDFINCH_INLINE float Value(const float* x) { return *x; }
GOLDFINCH_INLINE float Value(const std::uint16_t* x) { return ToFloat(*x); }

template <int kCount>
struct Accumulators {
  F32x16 sum[kCount][2];
};

template <int kCount, typename T, typename W>
GOLDFINCH_INLINE void AccumulatePlain(const T* x, std::int64_t stride, const W* w,
                                      std::int64_t in, Accumulators<kCount>& acc) {
  for (std::int64_t k = 0; k < in; ++k, w += kPanelColumns) {
    const F32x16 w0 = Load(w), w1 = Load(w + kLanes);
    for (int m = 0; m < kCount; ++m) {
      const F32x16 xk = Splat(Value(x + m * stride + k));
      acc.sum[m][0] += xk * w0;
      acc.sum[m][1] += xk * w1;
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

GOLDFINCH_INLINE F32x16 DotPairs(F32x16 acc, std::uint32_t pair, __m512i w) {
  const __m512i x = _mm512_set1_epi32(static_cast<int>(pair));
  return reinterpret_cast<F32x16>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                                   reinterpret_cast<__m512bh>(x),
                                                   reinterpret_cast<__m512bh>(w)));
}

// At few rows memory is the limit: asks for what is 4 KB ahead, across the ends of pages
// and panels, where the hardware's own prefetching starts anew.
template <typename W>
GOLDFINCH_INLINE void Prefetch(const W* w) {
  const char* ahead = reinterpret_cast<const char*>(w) + 4096;
  __builtin_prefetch(ahead);
  if constexpr (sizeof(W) == 2) __builtin_prefetch(ahead + 64);
}

template <int kCount, typename W>
GOLDFINCH_INLINE void AccumulatePairs(const std::uint16_t* x, std::int64_t stride,
                                      const W* w, std::int64_t in,
                                      Accumulators<kCount>& acc) {
  const std::int64_t even = in & ~std::int64_t{1};
  for (std::int64_t k = 0; k < even; k += 2, w += 2 * kPanelColumns) {
    if constexpr (kCount <= 4) Prefetch(w);
    const __m512i w0 = LoadPairs(w), w1 = LoadPairs(w + kPanelColumns);
    for (int m = 0; m < kCount; ++m) {
      std::uint32_t pair;
      __builtin_memcpy(&pair, x + m * stride + k, sizeof pair);
      acc.sum[m][0] = DotPairs(acc.sum[m][0], pair, w0);
      acc.sum[m][1] = DotPairs(acc.sum[m][1], pair, w1);
    }
  }
  if (even == in) return;
  const __m512i w0 = LoadPairs(w), w1 = LoadPairs(w + kPanelColumns);
  for (int m = 0; m < kCount; ++m) {
    const std::uint32_t pair = x[m * stride + even];
    acc.sum[m][0] = DotPairs(acc.sum[m][0], pair, w0);
    acc.sum[m][1] = DotPairs(acc.sum[m][1], pair, w1);
  }
}
#endif

template <int kCount, typename W>
GOLDFINCH_INLINE void AccumulateBf16(const std::uint16_t* x, std::int64_t stride,
                                     const W* w, std::int64_t in,
                                     Accumulators<kCount>& acc) {
#if defined(__AVX512BF16__)
  AccumulatePairs<kCount>(x, stride, w, in, acc);
#else
  AccumulatePlain<kCount>(x, stride, w, in, acc);
#endif
}

// The outputs of one panel: whole, or fewer than 32 at the right edge of y.
template <int kCount>
GOLDFINCH_INLINE void LoadBlock(const Matrix& y, std::int64_t row, std::int64_t column,
                                Accumulators<kCount>& acc) {
  const std::int64_t columns = y.cols - column;
  for (int m = 0; m < kCount; ++m) {
    const float* from = y.f32(row + m) + column;
    float tail[kPanelColumns] = {};
    if (columns < kPanelColumns) {
      for (std::int64_t n = 0; n < columns; ++n) tail[n] = from[n];
      from = tail;
    }
    acc.sum[m][0] = Load(from);
    acc.sum[m][1] = Load(from + kLanes);
  }
}

template <int kCount>
GOLDFINCH_INLINE void StoreBlock(const Accumulators<kCount>& acc, const Matrix& y,
                                 std::int64_t row, std::int64_t column) {
  const std::int64_t columns = y.cols - column;
  for (int m = 0; m < kCount; ++m) {
    float* out = y.f32(row + m) + column;
    if (columns >= kPanelColumns) {
      Store(acc.sum[m][0], out);
      Store(acc.sum[m][1], out + kLanes);
      continue;
    }
    float tail[kPanelColumns];
    Store(acc.sum[m][0], tail);
    Store(acc.sum[m][1], tail + kLanes);
    for (std::int64_t n = 0; n < columns; ++n) out[n] = tail[n];
  }
}

template <int kCount>
GOLDFINCH_INLINE void Scale(const float* scales, Accumulators<kCount>& acc) {
  const F32x16 scale0 = Load(scales), scale1 = Load(scales + kLanes);
  for (int m = 0; m < kCount; ++m) {
    acc.sum[m][0] *= scale0;
    acc.sum[m][1] *= scale1;
  }
}

template <int kCount>
void Block(const Matrix& x, const GemmPanels& w, const Matrix& y, std::int64_t row,
           std::int64_t panel) {
  Accumulators<kCount> acc = {};
  const void* data = static_cast<const char*>(w.data) + panel * w.panel_bytes;
  if (w.storage == DType::kI8) {
    const auto* i8 = static_cast<const std::int8_t*>(data);
    if (w.type == DType::kF32)
      AccumulatePlain<kCount>(x.f32(row), x.stride, i8, w.in, acc);
    else
      AccumulateBf16<kCount>(x.bf16(row), x.stride, i8, w.in, acc);
    Scale<kCount>(w.scales + panel * kPanelColumns, acc);
  } else if (w.type == DType::kF32) {
    AccumulatePlain<kCount>(x.f32(row), x.stride, static_cast<const float*>(data), w.in,
                            acc);
  } else {
    AccumulateBf16<kCount>(x.bf16(row), x.stride, static_cast<const std::uint16_t*>(data),
                           w.in, acc);
  }
  StoreBlock<kCount>(acc, y, row, panel * kPanelColumns);
}

// Calls f<number of rows>(first row) on blocks of kRows rows and a smaller last one.
template <int kCount, typename F>
GOLDFINCH_INLINE void ForTail(std::int64_t row, std::int64_t count, const F& f) {
  if constexpr (kCount > 0) {
    if (count == kCount)
      f.template operator()<kCount>(row);
    else
      ForTail<kCount - 1>(row, count, f);
  }
}
template <typename F>
GOLDFINCH_INLINE void ForBlocks(std::int64_t begin, std::int64_t end, const F& f) {
  std::int64_t row = begin;
  for (; row + kRows <= end; row += kRows) f.template operator()<kRows>(row);
  ForTail<kRows - 1>(row, end - row, f);
}

#if defined(__AVX512BF16__)
// int8 panels for many rows: pieces of 1024 inputs are widened once for all of them.
void WidenedPanel(const Matrix& x, const GemmPanels& w, const Matrix& y,
                  std::int64_t row_begin, std::int64_t row_end, std::int64_t panel) {
  constexpr std::int64_t kPiece = 1024;
  alignas(64) std::uint16_t wide[kPiece * kPanelColumns];
  const auto* i8 = static_cast<const std::int8_t*>(w.data) + panel * w.panel_bytes;
  const std::int64_t column = panel * kPanelColumns;
  for (std::int64_t k = 0; k < w.in; k += kPiece) {
    const std::int64_t count = w.in - k < kPiece ? w.in - k : kPiece;
    const std::int64_t padded = (count + 1) / 2 * 2 * kPanelColumns;
    for (std::int64_t i = 0; i < padded; i += kPanelColumns)
      _mm512_store_si512(wide + i, LoadPairs(i8 + k * kPanelColumns + i));
    ForBlocks(row_begin, row_end, [&]<int kCount>(std::int64_t row) {
      Accumulators<kCount> acc = {};
      if (k > 0) LoadBlock<kCount>(y, row, column, acc);
      AccumulatePairs<kCount>(x.bf16(row) + k, x.stride, wide, count, acc);
      if (k + count == w.in) Scale<kCount>(w.scales + column, acc);
      StoreBlock<kCount>(acc, y, row, column);
    });
  }
}
#endif

}  // namespace

void Gemm(const Matrix& x, const GemmPanels& w, const Matrix& y, std::int64_t row_begin,
          std::int64_t row_end, std::int64_t panel_begin, std::int64_t panel_end) {
  for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
#if defined(__AVX512BF16__)
    if (w.storage == DType::kI8 && w.type == DType::kBf16 &&
        row_end - row_begin > kRows) {
      WidenedPanel(x, w, y, row_begin, row_end, panel);
      continue;
    }
#endif
    ForBlocks(row_begin, row_end,
              [&]<int kCount>(std::int64_t row) { Block<kCount>(x, w, y, row, panel); });
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
