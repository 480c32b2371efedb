// A product as the kernels of gemm.cu take it, and what they do with a finished sum.
// Device code.
#pragma once

#include "engine/kernels/cuda/finish_sum.h"
#include "engine/kernels/cuda/gemm.h"

namespace goldfinch::GOLDFINCH_CUDA {

// Of a block of every kernel of products: a warp a slice.
constexpr int kGemmThreads = 256;
static_assert(kGemmThreads / kWarp == kSlices);

// A product as kernels take it.
struct Product {
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  const void* w = nullptr;
  const float* scales = nullptr;
  std::int64_t in = 0, out = 0;
  Matrix y = {};
  Epilogue epilogue = {};
  std::int64_t first_tile = 0;  // among the tiles of the launch
  std::int64_t row_tiles = 0;
};
// Kernels take them as a constant of the grid: what they read after they have waited
// might else have been written by then, for all the compiler knows, and it copies all of
// it to memory of each thread.
struct Products {
  int count = 0;
  // Tile i of each, in their order, comes before tile i + 1 of any; else all tiles of one
  // before those of the next. Only of products of equal numbers of tiles.
  bool tile_by_tile = false;
  float* partials =
      nullptr;  // [tile][slice][row][output] of tiles whose slices are split
  Product at[kMaxGemms];
};
// What a kernel of any toolkit and device may be given.
static_assert(sizeof(Products) <= 4096);

// What tile number `index` of the launch is. A number and no pointer to the product: from
// where that points the compiler could not tell, and would read constants of the launch
// as it reads memory that kernels write.
struct Tile {
  unsigned product;
  std::int64_t number;  // among the product's
};
__device__ __forceinline__ Tile FindTile(const Products& products, unsigned index) {
  const auto count = static_cast<unsigned>(products.count);
  if (products.tile_by_tile) return {index % count, index / count};
  unsigned i = 0;
  while (i + 1 < count && index >= products.at[i + 1].first_tile) ++i;
  return {i, index - products.at[i].first_tile};
}

// Of columns [col, col + count), what no kernel writes and FinishProducts reads.
__device__ __forceinline__ void FetchEnds(const Product& p, std::int64_t col,
                                          std::int64_t count) {
  const std::int64_t bytes = (count < p.out - col ? count : p.out - col) *
                             static_cast<std::int64_t>(sizeof(float));
  if (p.epilogue.bias != nullptr) FetchEarly(p.epilogue.bias + col, bytes);
  if (p.scales != nullptr) FetchEarly(p.scales + col, bytes);
}

template <int kSums>
__device__ __forceinline__ void FinishProducts(const Product& p, Sums<kSums>& sums,
                                               const FinishOperands<kSums>& operands) {
  if (p.scales != nullptr)
    ForInside(sums, [&](int i) { sums.value[i] *= p.scales[sums.col[i]]; });
  FinishEach(p.y, p.epilogue, sums, operands);
}
template <int kSums>
__device__ __forceinline__ void FinishProducts(const Product& p, Sums<kSums>& sums) {
  FinishOperands<kSums> operands = {};
  AskOperands(p.y, p.epilogue, sums, operands);
  FinishProducts(p, sums, operands);
}
__device__ __forceinline__ void FinishProduct(const Product& p, std::int64_t row,
                                              std::int64_t col, float sum) {
  Sums<1> one = {{sum}, {row}, {col}, {true}};
  FinishProducts(p, one);
}

}  // namespace goldfinch::GOLDFINCH_CUDA
