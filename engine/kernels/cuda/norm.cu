// Normalisations, a block of threads a row (moments.h has LN):
//   AddNorm  = LN(a + b) over each of `groups` parts of the row [* silu(gate)]
//   RmsShift = rms of rows, and of their predecessors less that
//   rms(x)   = x / (|x| / sqrt(cols) + 1e-8)
// Inputs float32 (an embedding table may be bf16); outputs float32, or AddNorm's, mixes
// and EmbedNorm's copy rounded to bf16. AddNorm's out may alias its input, element for
// element.
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/moments.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kThreads = kNormThreads;
constexpr int kWarps = kNormWarps;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    EmbedNormKernel(const std::int32_t* tokens, Matrix table, NormWeights norm,
                    Matrix out, Matrix copy) {
  __shared__ float scratch[kWarps];
  FetchForAll(norm, out.cols);
  AwaitLaunch();
  const int cols = static_cast<int>(out.cols);
  const T* const row = Row<T>(table, tokens[blockIdx.x]);
  float* const to = Row<float>(out, blockIdx.x);
  const Moments m =
      BlockMoments([row](int i) { return Read(row + i); }, cols, norm.eps, scratch);
  ForColumns(
      cols, [&](int i) { return Normalised(Read(row + i), m, norm, i); },
      [&](int i, float value) {
        to[i] = value;
        if (copy.data != nullptr) Put(value, copy, blockIdx.x, i);
      });
}

// The span that `row` is of; spans.begin ascends. Every span has a row, so where there
// are no more rows it is the row's number, and a step that decodes need not wait for as
// many answers of the memory as a search has steps.
__device__ __forceinline__ int SpanOf(const RowSpans& spans, int row, int rows) {
  if (rows == spans.count) return row;
  int low = 0, high = spans.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (spans.begin[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// The predecessor of a row is normalised anew, so rows need nothing from each other. The
// first row of a span, which alone reads the state, also leaves the last row's in the
// slot that gets it.
__global__ void __launch_bounds__(kThreads) NormShiftKernel(NormShiftArgs args) {
  __shared__ float scratch[kWarps];
  FetchForAll(args.norm, args.x.cols);
#pragma unroll
  for (int i = 0; i < NormShiftArgs::kMaxMixes; ++i)
    if (i < args.num_mixes) FetchForAll(args.mix[i], args.x.cols);
  AwaitLaunch();
  const int row = static_cast<int>(blockIdx.x), cols = static_cast<int>(args.x.cols);
  const int span = SpanOf(args.spans, row, static_cast<int>(gridDim.x));
  const bool first = row == args.spans.begin[span];
  const int last_row = args.spans.begin[span + 1] - 1;
  const float* const state = Row<float>(args.state, args.spans.slot[span]);
  float* const next = Row<float>(args.state, args.spans.next_slot[span]);
  const float* const x = Row<float>(args.x, row);
  // The row before, or, for the first row, the one whose norm becomes the state.
  const float* const other = Row<float>(args.x, first ? last_row : row - 1);
  const auto moments = [&](const float* p) {
    return BlockMoments([p](int i) { return p[i]; }, cols, args.norm.eps, scratch);
  };
  const Moments m = moments(x);
  const Moments of_other = other == x ? m : moments(other);
  constexpr int kMaxMixes = NormShiftArgs::kMaxMixes;
  struct Column {
    float cur, theirs, kept, mix[kMaxMixes];
  };
  ForColumns(
      cols,
      [&](int i) {
        Column c;
        c.cur = Normalised(x[i], m, args.norm, i);
        c.theirs = Normalised(other[i], of_other, args.norm, i);
        c.kept = first ? state[i] : c.theirs;
#pragma unroll
        for (int j = 0; j < kMaxMixes; ++j)
          c.mix[j] = j < args.num_mixes ? args.mix[j][i] : 0.0f;
        return c;
      },
      [&](int i, const Column& c) {
        const float diff = c.kept - c.cur;
        if (args.cur.data != nullptr) {
          Row<float>(args.cur, row)[i] = c.cur;
          Row<float>(args.diff, row)[i] = diff;
        }
#pragma unroll
        for (int j = 0; j < kMaxMixes; ++j)
          if (j < args.num_mixes) Put(Fma(diff, c.mix[j], c.cur), args.mixed[j], row, i);
        if (first) next[i] = c.theirs;
      });
}

__global__ void __launch_bounds__(kThreads)
    NormToStateKernel(Matrix x, NormWeights norm, const std::int32_t* rows,
                      const std::int32_t* slots, Matrix state) {
  __shared__ float scratch[kWarps];
  FetchForAll(norm, x.cols);
  AwaitLaunch();
  const int cols = static_cast<int>(x.cols);
  const float* const row = Row<float>(x, rows[blockIdx.x]);
  float* const to = Row<float>(state, slots[blockIdx.x]);
  const Moments m =
      BlockMoments([row](int i) { return row[i]; }, cols, norm.eps, scratch);
  ForColumns(
      cols, [&](int i) { return Normalised(row[i], m, norm, i); },
      [&](int i, float value) { to[i] = value; });
}

// Columns [begin, begin + cols) of a row, of which this thread has first, first + step...
template <typename Sum>
__device__ __forceinline__ void AddNormGroup(const AddNormArgs& args, std::int64_t row,
                                             int begin, int cols, int first, int step,
                                             const Sum& sum) {
  const float* const a = Row<float>(args.a, row) + begin;
  const float* const b =
      args.b.data != nullptr ? Row<float>(args.b, row) + begin : nullptr;
  const auto read = [a, b](int i) { return b != nullptr ? a[i] + b[i] : a[i]; };
  const Moments m = MomentsOf(read, cols, args.norm.eps, first, step, sum);
  const float* const gates =
      args.gate.data != nullptr ? Row<float>(args.gate, row) + begin : nullptr;
  struct Column {
    float value, gate;
  };
  ForColumns(
      cols, first, step,
      [&](int i) {
        return Column{Normalised(read(i), m, args.norm, begin + i),
                      gates != nullptr ? gates[i] : 0.0f};
      },
      [&](int i, const Column& c) {
        const float value =
            gates != nullptr ? c.value * (c.gate * Sigmoid(c.gate)) : c.value;
        Put(value, args.out, row, begin + i);
      });
}

// A block for each row and group.
__global__ void __launch_bounds__(kThreads) AddNormKernel(AddNormArgs args) {
  __shared__ float scratch[kWarps];
  if (blockIdx.y == 0) FetchForAll(args.norm, args.a.cols);
  AwaitLaunch();
  const int cols = static_cast<int>(args.a.cols / args.groups);
  float* const shared = scratch;
  AddNormGroup(args, blockIdx.x, static_cast<int>(blockIdx.y) * cols, cols,
               static_cast<int>(threadIdx.x), kThreads,
               [shared](float value) { return BlockSum<kThreads>(value, shared); });
}

// Narrow groups: a warp for each.
__global__ void __launch_bounds__(kThreads) AddNormByWarpKernel(AddNormArgs args) {
  FetchForAll(args.norm, args.a.cols);
  AwaitLaunch();
  const std::int64_t task = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (task >= args.a.rows * args.groups) return;
  const int cols = static_cast<int>(args.a.cols / args.groups);
  AddNormGroup(args, task / args.groups, static_cast<int>(task % args.groups) * cols,
               cols, static_cast<int>(threadIdx.x) % kWarp, kWarp,
               [](float value) { return WarpSum(value); });
}

// A block for each row and input. A predecessor is normalised anew.
__global__ void __launch_bounds__(kThreads)
    RmsShiftKernel(const __grid_constant__ RmsShiftArgs args) {
  __shared__ float scratch[kWarps];
  AwaitLaunch();
  const std::int64_t row = blockIdx.x;
  const Matrix& in = args.in[blockIdx.y];
  const int cols = static_cast<int>(in.cols);
  const std::int64_t previous = args.previous[row];
  const bool follows = previous >= 0;
  const float* const x = Row<float>(in, args.index[row]);
  const float* const before = follows ? Row<float>(in, previous) : x;
  float* const cur = Row<float>(args.cur[blockIdx.y], row);
  float* const diff = Row<float>(args.diff[blockIdx.y], row);
  float square = 0.0f, square_before = 0.0f;
  for (int i = threadIdx.x; i < cols; i += kThreads) {
    square = Fma(x[i], x[i], square);
    square_before = Fma(before[i], before[i], square_before);
  }
  const float root = sqrtf(static_cast<float>(cols));
  const float norm = sqrtf(BlockSum<kThreads>(square, scratch)) / root + 1e-8f;
  const float norm_before =
      sqrtf(BlockSum<kThreads>(square_before, scratch)) / root + 1e-8f;
  struct Column {
    float mine, theirs;
  };
  ForColumns(
      cols,
      [&](int i) {
        return Column{x[i], before[i]};
      },
      [&](int i, const Column& c) {
        const float mine = c.mine / norm;
        cur[i] = mine;
        diff[i] = (follows ? c.theirs / norm_before : 0.0f) - mine;
      });
}

dim3 RowsOf(std::int64_t rows) { return dim3(static_cast<unsigned>(rows)); }

}  // namespace

void PrepareNorms(Stream& stream) {
  LoadKernels(stream, EmbedNormKernel<float>, EmbedNormKernel<std::uint16_t>,
              NormShiftKernel, NormToStateKernel, AddNormKernel, AddNormByWarpKernel,
              RmsShiftKernel);
}

void EmbedNorm(Stream& stream, const std::int32_t* tokens, const Matrix& table,
               const NormWeights& norm, const Matrix& out, const Matrix& copy) {
  Launch(
      stream, "embed_norm",
      table.type == DType::kF32 ? EmbedNormKernel<float> : EmbedNormKernel<std::uint16_t>,
      RowsOf(out.rows), kThreads, 0, tokens, table, norm, out, copy);
}

void NormShift(Stream& stream, const NormShiftArgs& args) {
  Launch(stream, "norm_shift", NormShiftKernel, RowsOf(args.x.rows), kThreads, 0, args);
}

void NormToState(Stream& stream, const Matrix& x, const NormWeights& norm,
                 const std::int32_t* rows, const std::int32_t* slots, std::int64_t count,
                 const Matrix& state) {
  Launch(stream, "norm_to_state", NormToStateKernel, RowsOf(count), kThreads, 0, x, norm,
         rows, slots, state);
}

void AddNorm(Stream& stream, const AddNormArgs& args) {
  const std::int64_t cols = args.a.cols / args.groups;
  if (cols <= 4 * kWarp) {
    Launch(stream, "add_norm", AddNormByWarpKernel,
           dim3(BlocksFor(args.a.rows * args.groups, kWarps)), kThreads, 0, args);
    return;
  }
  Launch(stream, "add_norm", AddNormKernel,
         dim3(static_cast<unsigned>(args.a.rows), static_cast<unsigned>(args.groups)),
         kThreads, 0, args);
}

void RmsShift(Stream& stream, const RmsShiftArgs& args) {
  Launch(stream, "rms_shift", RmsShiftKernel,
         dim3(static_cast<unsigned>(args.cur[0].rows),
              static_cast<unsigned>(args.num_inputs)),
         kThreads, 0, args);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
