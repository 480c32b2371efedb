// y[m, n] = epilogue(sum over k of x[m, k] W[n, k]),  float32 accumulation.
//   x : [rows, in]   f32 or bf16        W : panels of 32 outputs, the type of x, int8
//                                           or fp8
//   y : [rows, out]  f32 or bf16        nothing aliases but what an epilogue updates
// Every sum has one accumulator that takes inputs in the order of gemm_sums.h, whatever
// the number of rows: the rows and panels processed together only share loads. A panel of
// a few hundred KB stays in the second level cache while all rows pass over it; a larger
// one goes in pieces, sums waiting on the stack between them.
//
// Memory: with one block of rows every weight is read once, straight from memory, and
// asked for a few KB ahead, across the ends of pages and panels where the hardware's own
// prefetching starts anew. With more, blocks ask for the rows of the next one, and the
// last two for the next panel.
//
// int8 and fp8 weights are exact in bf16 and float32, so they are widened and multiplied
// as such, and the sum is scaled once at the end. They are widened in registers, or with
// the instruction for pairs a piece of the panel for many rows at once: the same
// operations in the same order.
#include "engine/kernels/cpu/epilogue.h"
#include "engine/kernels/cpu/gemm_sums.h"
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

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
  // What is made of the sums included.
  const FlushSubnormals flush(w.type == DType::kBf16);
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
