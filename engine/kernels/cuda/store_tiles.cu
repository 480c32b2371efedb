// Keys and values of tokens into tiles (attend.cu has their layout), a block of threads
// for each row of each layer's keys, and of its values:
//   k = LN(k), pairs turned by position * frequency;  v = LN(v)
// rounded to the tiles' type. Norm and rope may be missing.
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/moments.h"
#include "engine/kernels/cuda/rope.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// Elements (2i, 2i+1) of a head, one in each of two neighbouring lanes, turned: the
// caller's.
__device__ __forceinline__ float Turned(float own, int i, const RopeTurn& turn) {
  const float other = __shfl_xor_sync(kAllLanes, own, 1);
  const int pair = i / 2 % kRopePairs;
  const float c = turn.cosine[pair], s = turn.sine[pair];
  return i % 2 == 0 ? own * c - other * s : other * s + own * c;
}

// The grid is rows, layers, and keys and values.
template <typename T>
__global__ void __launch_bounds__(kNormThreads)
    StoreTilesKernel(const __grid_constant__ StoreTilesArgs args) {
  __shared__ float scratch[kNormWarps];
  __shared__ RopeTurn turn;
  const StoreTilesArgs::Layer& layer = args.layer[blockIdx.y];
  const bool keys = blockIdx.z == 0, turns = keys && args.frequency != nullptr;
  const NormWeights& norm = keys ? layer.norm_k : layer.norm_v;
  FetchForAll(norm, layer.k.cols);
  AwaitLaunch();
  const KvTiles& tiles = layer.tiles;
  const int cols = static_cast<int>(tiles.heads) * kHeadSize;
  const float* const x = Row<float>(keys ? layer.k : layer.v, blockIdx.x);
  const std::int64_t place = args.row[blockIdx.x];
  const std::int64_t tile = place / tiles.page_tokens, token = place % tiles.page_tokens;
  const std::int64_t head_elements = tiles.head_elements();
  T* const to = static_cast<T*>(tiles.data) + tile * tiles.heads * 2 * head_elements +
                (keys ? 0 : head_elements) + token * kHeadSize;
  if (turns) {
    MakeRopeTurn(args.position[blockIdx.x], args.frequency, turn);
    __syncthreads();
  }
  const bool normed = norm.weight != nullptr;
  Moments m = {};
  if (normed) m = BlockMoments([x](int i) { return x[i]; }, cols, norm.eps, scratch);
  // Whole heads, so whole warps.
  ForColumns(
      cols,
      [&](int i) {
        return NormColumn{x[i], normed ? norm.weight[i] : 0.0f,
                          normed ? norm.bias[i] : 0.0f};
      },
      [&](int i, const NormColumn& c) {
        const float value = normed ? Normalised(c, m) : c.x;
        Write(turns ? Turned(value, i, turn) : value,
              to + i / kHeadSize * 2 * head_elements + i % kHeadSize);
      });
}

}  // namespace

void PrepareStoreTiles(Stream& stream) {
  LoadKernels(stream, StoreTilesKernel<float>, StoreTilesKernel<std::uint16_t>);
}

void StoreTiles(Stream& stream, const StoreTilesArgs& args) {
  const dim3 grid(static_cast<unsigned>(args.layer[0].k.rows),
                  static_cast<unsigned>(args.num_layers), 2);
  Launch(stream, "store_tiles",
         args.layer[0].tiles.type == DType::kF32 ? StoreTilesKernel<float>
                                                 : StoreTilesKernel<std::uint16_t>,
         grid, kNormThreads, 0, args);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
