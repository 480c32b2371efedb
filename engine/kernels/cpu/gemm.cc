// y[m, n] = sum over k of x[m, k] W[n, k],  float32 accumulation.
//   x : [rows, in]   f32 or bf16        W : panels of 32 outputs, the type of x
//   y : [rows, out]  float32            nothing aliases
// Every y[m, n] has one accumulator that takes k = 0, 1, 2, ... in order (with bf16
// pairs: (0,1), (2,3), ...), whatever the number of rows: the rows processed together
// only share loads of W. A panel is at most a few hundred KB and stays in the second
// level cache while all rows pass over it, so k needs no blocking.
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

template <int kCount, typename T>
GOLDFINCH_INLINE void AccumulatePlain(const T* x, std::int64_t stride, const T* w,
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
GOLDFINCH_INLINE F32x16 DotPairs(F32x16 acc, std::uint32_t pair, __m512i w) {
  const __m512i x = _mm512_set1_epi32(static_cast<int>(pair));
  return reinterpret_cast<F32x16>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                                   reinterpret_cast<__m512bh>(x),
                                                   reinterpret_cast<__m512bh>(w)));
}

template <int kCount>
GOLDFINCH_INLINE void AccumulatePairs(const std::uint16_t* x, std::int64_t stride,
                                      const std::uint16_t* w, std::int64_t in,
                                      Accumulators<kCount>& acc) {
  const std::int64_t even = in & ~std::int64_t{1};
  for (std::int64_t k = 0; k < even; k += 2, w += 2 * kPanelColumns) {
    const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 32);
    for (int m = 0; m < kCount; ++m) {
      std::uint32_t pair;
      __builtin_memcpy(&pair, x + m * stride + k, sizeof pair);
      acc.sum[m][0] = DotPairs(acc.sum[m][0], pair, w0);
      acc.sum[m][1] = DotPairs(acc.sum[m][1], pair, w1);
    }
  }
  if (even == in) return;
  const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 32);
  for (int m = 0; m < kCount; ++m) {
    const std::uint32_t pair = x[m * stride + even];
    acc.sum[m][0] = DotPairs(acc.sum[m][0], pair, w0);
    acc.sum[m][1] = DotPairs(acc.sum[m][1], pair, w1);
  }
}
#endif

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
void Block(const Matrix& x, const GemmPanels& w, const Matrix& y, std::int64_t row,
           std::int64_t panel) {
  Accumulators<kCount> acc = {};
  const void* data = static_cast<const char*>(w.data) + panel * w.panel_bytes;
  if (w.type == DType::kF32) {
    AccumulatePlain<kCount>(x.f32(row), x.stride, static_cast<const float*>(data), w.in,
                            acc);
  } else {
    const auto* bf16 = static_cast<const std::uint16_t*>(data);
#if defined(__AVX512BF16__)
    AccumulatePairs<kCount>(x.bf16(row), x.stride, bf16, w.in, acc);
#else
    AccumulatePlain<kCount>(x.bf16(row), x.stride, bf16, w.in, acc);
#endif
  }
  StoreBlock<kCount>(acc, y, row, panel * kPanelColumns);
}

template <int kCount>
void Tail(const Matrix& x, const GemmPanels& w, const Matrix& y, std::int64_t row,
          std::int64_t count, std::int64_t panel) {
  if constexpr (kCount > 0) {
    if (count == kCount)
      Block<kCount>(x, w, y, row, panel);
    else
      Tail<kCount - 1>(x, w, y, row, count, panel);
  }
}

}  // namespace

void Gemm(const Matrix& x, const GemmPanels& w, const Matrix& y, std::int64_t row_begin,
          std::int64_t row_end, std::int64_t panel_begin, std::int64_t panel_end) {
  for (std::int64_t panel = panel_begin; panel < panel_end; ++panel) {
    std::int64_t row = row_begin;
    for (; row + kRows <= row_end; row += kRows) Block<kRows>(x, w, y, row, panel);
    Tail<kRows - 1>(x, w, y, row, row_end - row, panel);
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
