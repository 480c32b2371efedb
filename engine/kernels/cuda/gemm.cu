// y = finish(x W^T), up to sixteen products a launch:
//   x : [rows, in] float32 or bf16      W : packed as gemm_layout.h says      y : [rows,
//   out]
//
// The order of every sum is fixed by the number of inputs alone: kSlices parts, each by
// ascending strips, two tensor-core products a strip, then the parts in order. Two
// kernels keep it, so a row has the same bits among any number of rows, as a prompt's
// row or as a decoded one (gemm_few_rows.h, gemm_many_rows.h):
//   few rows   A block of threads has 16 or 32 outputs and all inputs, a warp one of the
//              parts. Weights are the left operand, which wants 16 of them and 8 rows;
//              each lane copies its own of them to shared memory, two to eight strips
//              ahead.
//   many rows  128 outputs by 64 or 128 rows, the parts one after another. Strips of both
//              operands pass through shared memory, three to seven ahead. Where such
//              tiles are too few to keep a GPU busy, each part is a block of its own and
//              leaves its sums to a second kernel, which adds them in the same order.
// In float32 (gemm_f32.h; the golden cases, not for speed) a sum runs over ascending
// inputs.
#include <algorithm>
#include <type_traits>

#include "engine/kernels/cuda/gemm.h"
#include "engine/kernels/cuda/gemm_f32.h"
#include "engine/kernels/cuda/gemm_few_rows.h"
#include "engine/kernels/cuda/gemm_many_rows.h"
#include "engine/kernels/cuda/gemm_shape.h"

namespace goldfinch::GOLDFINCH_CUDA {
namespace {

// Products of one kind, cut into tiles.
struct Batch {
  Products products;
  std::int64_t tiles = 0;

  void Add(const GemmArgs& args, std::int64_t tile_outputs, std::int64_t tile_rows) {
    Product& p = products.at[products.count++];
    p.x = args.x.data;
    p.x_stride = args.x.stride;
    p.rows = args.x.rows;
    p.w = args.w.data;
    p.scales = args.w.scales;
    p.in = args.w.in;
    p.out = args.w.out;
    p.y = args.y;
    p.epilogue = args.epilogue;
    p.first_tile = tiles;
    p.row_tiles = (p.rows + tile_rows - 1) / tile_rows;
    tiles += p.row_tiles * ((p.out + tile_outputs - 1) / tile_outputs);
  }

  bool OfOneShape() const {
    return std::all_of(
        products.at, products.at + products.count, [this](const Product& p) {
          return p.rows == products.at[0].rows && p.out == products.at[0].out;
        });
  }
};

bool IsAligned(const GemmArgs& args) {
  return reinterpret_cast<std::uintptr_t>(args.x.data) % 16 == 0 &&
         args.x.stride % 8 == 0 && args.w.in % 8 == 0;
}

using Kernel = void (*)(Products);

struct Shape {
  Kernel aligned, any;
  std::int64_t outputs, rows;  // of a tile
  int shared = 0;
  bool split = false;  // a block for each slice of a tile
};

template <typename Weights, int kRows, bool kSplit>
Shape ManyRowsShape() {
  return {.aligned = ManyRows<Weights, kRows, kSplit, true>,
          .any = ManyRows<Weights, kRows, kSplit, false>,
          .outputs = kTileOutputs,
          .rows = kRows,
          .shared = ManyRowsRing<Weights, kRows, kSplit>::kBytes,
          .split = kSplit};
}

template <typename Weights, int kBlocks, int kGroups>
Shape FewRowsShape() {
  return {.aligned = FewRows<Weights, kBlocks, kGroups, false, true>,
          .any = FewRows<Weights, kBlocks, kGroups, false, false>,
          .outputs = kBlocks * kBlockOutputs,
          .rows = kGroups * 8,
          .shared = FewRowsRing<Weights, kBlocks, kGroups, false>::kBytes};
}

// Of weights in bytes as many strips are under way as it is, and what is not aligned is
// not for speed: less code to load.
template <typename Weights>
Shape DeepShape() {
  Shape shape = FewRowsShape<Weights, 1, 1>();
  if constexpr (std::is_same_v<Weights, Bf16Weights>) {
    shape.aligned = FewRows<Weights, 1, 1, true, true>;
    shape.shared = FewRowsRing<Weights, 1, 1, true>::kBytes;
  }
  return shape;
}

template <typename Weights>
Shape ShapeFor(GemmShape shape) {
  switch (shape) {
    case GemmShape::kRows8:
      return FewRowsShape<Weights, 1, 1>();
    case GemmShape::kRows8Deep:
      return DeepShape<Weights>();
    case GemmShape::kRows16:
      return FewRowsShape<Weights, 1, 2>();
    case GemmShape::kRows32:
      return FewRowsShape<Weights, 1, 4>();
    case GemmShape::kRows32Wide:
      return FewRowsShape<Weights, 2, 4>();
    case GemmShape::kSplit64:
      return ManyRowsShape<Weights, kSplitRows, true>();
    case GemmShape::kRows64:
      return ManyRowsShape<Weights, 64, false>();
    case GemmShape::kRows128:
      return ManyRowsShape<Weights, 128, false>();
  }
  return {};
}
constexpr GemmShape kShapes[] = {GemmShape::kRows8,      GemmShape::kRows8Deep,
                                 GemmShape::kRows16,     GemmShape::kRows32,
                                 GemmShape::kRows32Wide, GemmShape::kSplit64,
                                 GemmShape::kRows64,     GemmShape::kRows128};

// Shared memory beyond 48 KiB must be asked for.
template <typename Weights>
void PrepareKernels(Stream& stream) {
  for (const GemmShape each : kShapes) {
    const Shape shape = ShapeFor<Weights>(each);
    for (const Kernel kernel : {shape.aligned, shape.any}) {
      LoadKernels(stream, kernel);
      stream.Check(cudaFuncSetAttribute(
                       kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared),
                   "cudaFuncSetAttribute");
    }
  }
}

void LaunchBf16(Stream& stream, std::span<const GemmArgs> products, DType storage,
                float* partials) {
  const auto tiles = [](const GemmArgs& args, std::int64_t rows) {
    return (args.w.out + kTileOutputs - 1) / kTileOutputs *
           ((args.x.rows + rows - 1) / rows);
  };
  GemmSizes sizes;
  bool aligned = true;
  for (const GemmArgs& args : products) {
    if (args.w.storage != storage) continue;
    const std::int64_t strips = StripsOf(args.w.in);
    sizes.rows = std::max(sizes.rows, args.x.rows);
    sizes.fewest_strips =
        sizes.tiles64 == 0 ? strips : std::min(sizes.fewest_strips, strips);
    sizes.most_strips = std::max(sizes.most_strips, strips);
    sizes.outputs += args.w.out;
    sizes.tiles64 += tiles(args, 64);
    sizes.tiles128 += tiles(args, 128);
    aligned = aligned && IsAligned(args);
  }
  const GemmShape best = ShapeOf(sizes, stream.multiprocessors);
  const Shape shape = storage == DType::kI8    ? ShapeFor<ByteWeights<std::int8_t>>(best)
                      : storage == DType::kFp8 ? ShapeFor<ByteWeights<Fp8>>(best)
                                               : ShapeFor<Bf16Weights>(best);
  Batch batch;
  batch.products.partials = partials;
  for (const GemmArgs& args : products)
    if (args.w.storage == storage) batch.Add(args, shape.outputs, shape.rows);
  if (batch.tiles == 0) return;
  // What the ends of several products read, cur and diff of a time mix's five, comes from
  // memory once if they are at it together. Of long sums it is the inputs that should be
  // read together.
  batch.products.tile_by_tile = AreShort(sizes) && batch.OfOneShape();
  Launch(stream, "gemm", aligned ? shape.aligned : shape.any,
         dim3(static_cast<unsigned>(batch.tiles * (shape.split ? kSlices : 1))),
         kGemmThreads, static_cast<std::size_t>(shape.shared), batch.products);
  if (shape.split)
    Launch(stream, "add_slices", AddSlices<kSplitRows>,
           dim3(static_cast<unsigned>(batch.tiles * shape.rows / kRowsEach)),
           kGemmThreads, 0, batch.products);
}

void LaunchF32(Stream& stream, std::span<const GemmArgs> products, DType storage) {
  Batch batch;
  for (const GemmArgs& args : products)
    if (args.w.storage == storage) batch.Add(args, kF32Tile, kF32Tile);
  if (batch.tiles == 0) return;
  const Kernel kernel = storage == DType::kI8    ? F32Tile<std::int8_t>
                        : storage == DType::kFp8 ? F32Tile<Fp8>
                                                 : F32Tile<float>;
  Launch(stream, "gemm", kernel, dim3(static_cast<unsigned>(batch.tiles)), kGemmThreads,
         0, batch.products);
}

}  // namespace

std::int64_t GemmPartialBytes() {
  return kMaxSplitTiles * kSlices * kPartialElements *
         static_cast<std::int64_t>(sizeof(float));
}

void PrepareGemm(Stream& stream) {
  PrepareKernels<Bf16Weights>(stream);
  PrepareKernels<ByteWeights<std::int8_t>>(stream);
  PrepareKernels<ByteWeights<Fp8>>(stream);
  LoadKernels(stream, AddSlices<kSplitRows>, F32Tile<float>, F32Tile<std::int8_t>,
              F32Tile<Fp8>);
  PrepareFinishSums(stream);
}

void Gemm(Stream& stream, std::span<const GemmArgs> products, float* partials) {
  if (products.empty()) return;
  const DType type = products[0].w.type;
  for (const DType storage : {type, DType::kI8, DType::kFp8}) {
    if (type == DType::kF32)
      LaunchF32(stream, products, storage);
    else
      LaunchBf16(stream, products, storage, partials);
  }
}

}  // namespace goldfinch::GOLDFINCH_CUDA
