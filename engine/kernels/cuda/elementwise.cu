// Ops between matrix products that look at one element at a time:
//   Lerp        out = cur + diff * mix, for some mixes
//   Convert     out = in
//   GatherRows, ScatterRows, GatherTokenRows: rows by their indices
//   GatherTokens, ScatterTokens: token ids by their indices
//   GatherBlocks, ScatterBlocks: runs of bytes by their indices
// Inputs float32 (Convert's and GatherRows' may be bf16); outputs float32, or rounded to
// bf16 where the matrix says so. What is fused with a product is in gemm.cu.
//
// A block of threads takes a row's next 256 elements, or 256 tokens.
#include "engine/kernels/cuda/device.h"
#include "engine/kernels/cuda/kernels.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ std::int64_t Column() {
  return std::int64_t{blockIdx.y} * kThreads + threadIdx.x;
}

// The mix is the grid's third dimension.
__global__ void __launch_bounds__(kThreads)
    LerpKernel(const __grid_constant__ LerpArgs args) {
  if (blockIdx.y == 0) FetchForAll(args.mix[blockIdx.z], args.out.cols);
  AwaitLaunch();
  const std::int64_t row = blockIdx.x, col = Column();
  if (col >= args.out.cols) return;
  const float mixed = Fma(Row<float>(args.diff, row)[col], args.mix[blockIdx.z][col],
                          Row<float>(args.cur, row)[col]);
  Put(mixed, args.out, blockIdx.z * args.cur.rows + row, col);
}

__global__ void __launch_bounds__(kThreads) ConvertKernel(Matrix in, Matrix out) {
  AwaitLaunch();
  const std::int64_t row = blockIdx.x, col = Column();
  if (col < out.cols) Put(At(in, row, col), out, row, col);
}

template <typename Index>
__global__ void __launch_bounds__(kThreads)
    GatherRowsKernel(Matrix in, const Index* index, Matrix out) {
  AwaitLaunch();
  const std::int64_t row = blockIdx.x, col = Column();
  if (col >= out.cols) return;
  const std::int64_t from = index[row];
  Put(from >= 0 ? At(in, from, col) : 0.0f, out, row, col);
}

__global__ void __launch_bounds__(kThreads)
    ScatterRowsKernel(Matrix in, const std::int64_t* index, Matrix out) {
  AwaitLaunch();
  const std::int64_t row = blockIdx.x, col = Column();
  if (col < in.cols) Put(At(in, row, col), out, index[row], col);
}

template <typename Id>
__global__ void __launch_bounds__(kThreads)
    ScatterTokensKernel(const std::int32_t* from, const std::int64_t* index,
                        std::int64_t count, Id* to) {
  AwaitLaunch();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[index[i]] = static_cast<Id>(from[i]);
}

template <typename Id>
__global__ void __launch_bounds__(kThreads)
    GatherTokensKernel(const Id* from, const std::int64_t* index, std::int64_t count,
                       std::int32_t* to) {
  AwaitLaunch();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = static_cast<std::int32_t>(from[index[i]]);
}

// A block is `pieces` of T.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    BlocksKernel(const T* from, std::int64_t pieces, const std::int64_t* index, T* to,
                 bool scatter) {
  AwaitLaunch();
  const std::int64_t col = Column();
  if (col >= pieces) return;
  const std::int64_t own = std::int64_t{blockIdx.x} * pieces + col;
  const std::int64_t other = index[blockIdx.x] * pieces + col;
  StoreVector(LoadVector<T>(from + (scatter ? own : other)),
              to + (scatter ? other : own));
}

// Rows along x, which alone may be many.
dim3 GridOf(std::int64_t rows, std::int64_t cols) {
  return dim3(static_cast<unsigned>(rows), BlocksFor(cols, kThreads));
}

template <typename T>
void MoveBlocksOf(Stream& stream, const char* name, const void* from, std::int64_t bytes,
                  const std::int64_t* index, std::int64_t count, void* to, bool scatter) {
  const std::int64_t pieces = bytes / static_cast<std::int64_t>(sizeof(T));
  Launch(stream, name, BlocksKernel<T>, GridOf(count, pieces), kThreads, 0,
         static_cast<const T*>(from), pieces, index, static_cast<T*>(to), scatter);
}

// In the largest pieces that blocks and memory are made of.
void MoveBlocks(Stream& stream, const char* name, const void* from, std::int64_t bytes,
                const std::int64_t* index, std::int64_t count, void* to, bool scatter) {
  const auto places = reinterpret_cast<std::uintptr_t>(from) |
                      reinterpret_cast<std::uintptr_t>(to) |
                      static_cast<std::uintptr_t>(bytes);
  const auto move = places % 16 == 0  ? MoveBlocksOf<uint4>
                    : places % 2 == 0 ? MoveBlocksOf<std::uint16_t>
                                      : MoveBlocksOf<std::uint8_t>;
  move(stream, name, from, bytes, index, count, to, scatter);
}

}  // namespace

void PrepareElementwise(Stream& stream) {
  LoadKernels(stream, LerpKernel, ConvertKernel, GatherRowsKernel<std::int64_t>,
              GatherRowsKernel<std::int32_t>, ScatterRowsKernel,
              ScatterTokensKernel<std::uint16_t>, ScatterTokensKernel<std::int32_t>,
              GatherTokensKernel<std::uint16_t>, GatherTokensKernel<std::int32_t>,
              BlocksKernel<uint4>, BlocksKernel<std::uint16_t>,
              BlocksKernel<std::uint8_t>);
}

void Lerp(Stream& stream, const LerpArgs& args) {
  dim3 grid = GridOf(args.cur.rows, args.cur.cols);
  grid.z = static_cast<unsigned>(args.num_mixes);
  Launch(stream, "lerp", LerpKernel, grid, kThreads, 0, args);
}

void Convert(Stream& stream, const Matrix& in, const Matrix& out) {
  Launch(stream, "convert", ConvertKernel, GridOf(out.rows, out.cols), kThreads, 0, in,
         out);
}

void GatherRows(Stream& stream, const Matrix& in, const std::int64_t* index,
                const Matrix& out) {
  Launch(stream, "gather_rows", GatherRowsKernel<std::int64_t>,
         GridOf(out.rows, out.cols), kThreads, 0, in, index, out);
}

void GatherTokenRows(Stream& stream, const Matrix& table, const std::int32_t* tokens,
                     const Matrix& out) {
  Launch(stream, "gather_token_rows", GatherRowsKernel<std::int32_t>,
         GridOf(out.rows, out.cols), kThreads, 0, table, tokens, out);
}

void ScatterRows(Stream& stream, const Matrix& in, const std::int64_t* index,
                 const Matrix& out) {
  Launch(stream, "scatter_rows", ScatterRowsKernel, GridOf(in.rows, in.cols), kThreads, 0,
         in, index, out);
}

void ScatterTokens(Stream& stream, const std::int32_t* from, const std::int64_t* index,
                   std::int64_t count, const TokenStore& to) {
  const dim3 grid(BlocksFor(count, kThreads));
  if (to.narrow)
    Launch(stream, "scatter_tokens", ScatterTokensKernel<std::uint16_t>, grid, kThreads,
           0, from, index, count, static_cast<std::uint16_t*>(to.data));
  else
    Launch(stream, "scatter_tokens", ScatterTokensKernel<std::int32_t>, grid, kThreads, 0,
           from, index, count, static_cast<std::int32_t*>(to.data));
}

void GatherTokens(Stream& stream, const TokenStore& from, const std::int64_t* index,
                  std::int64_t count, std::int32_t* to) {
  const dim3 grid(BlocksFor(count, kThreads));
  if (from.narrow)
    Launch(stream, "gather_tokens", GatherTokensKernel<std::uint16_t>, grid, kThreads, 0,
           static_cast<const std::uint16_t*>(from.data), index, count, to);
  else
    Launch(stream, "gather_tokens", GatherTokensKernel<std::int32_t>, grid, kThreads, 0,
           static_cast<const std::int32_t*>(from.data), index, count, to);
}

void GatherBlocks(Stream& stream, const void* from, std::int64_t bytes,
                  const std::int64_t* index, std::int64_t count, void* to) {
  MoveBlocks(stream, "gather_blocks", from, bytes, index, count, to, false);
}

void ScatterBlocks(Stream& stream, const void* from, std::int64_t bytes,
                   const std::int64_t* index, std::int64_t count, void* to) {
  MoveBlocks(stream, "scatter_blocks", from, bytes, index, count, to, true);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
