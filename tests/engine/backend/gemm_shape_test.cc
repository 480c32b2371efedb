// Which kernel the products of a launch have on a GPU. No device is needed.
#include "engine/kernels/cuda/gemm_shape.h"

#include <cstdint>
#include <initializer_list>

#include "gtest/gtest.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kH200 = 132;  // multiprocessors

// Products of `rows` rows and so many inputs and outputs each.
GemmSizes Sizes(std::int64_t rows, std::int64_t in,
                std::initializer_list<std::int64_t> outputs) {
  GemmSizes sizes = {
      .rows = rows, .fewest_strips = StripsOf(in), .most_strips = StripsOf(in)};
  for (const std::int64_t out : outputs) {
    sizes.outputs += out;
    sizes.tiles64 += (out + 127) / 128 * ((rows + 63) / 64);
    sizes.tiles128 += (out + 127) / 128 * ((rows + 127) / 128);
  }
  return sizes;
}
GemmShape Of(const GemmSizes& sizes) { return ShapeOf(sizes, kH200); }

TEST(GemmShapeTest, FewRowsHaveTilesOfAsMany) {
  EXPECT_EQ(Of(Sizes(1, 2048, {7168})), GemmShape::kRows8);
  EXPECT_EQ(Of(Sizes(1, 2048, {2048})), GemmShape::kRows8Deep);
  EXPECT_EQ(Of(Sizes(9, 2048, {2048})), GemmShape::kRows16);
  EXPECT_EQ(Of(Sizes(17, 2048, {2048})), GemmShape::kRows32);
  EXPECT_EQ(Of(Sizes(32, 2048, {65536})), GemmShape::kRows32Wide);
}

TEST(GemmShapeTest, ProductsOfFewTilesAreSplitIfTheirSumsAreLong) {
  EXPECT_EQ(Of(Sizes(64, 7168, {2048})), GemmShape::kSplit64);
  EXPECT_EQ(Of(Sizes(128, 2048, {2048})), GemmShape::kSplit64);
  EXPECT_EQ(Of(Sizes(256, 7168, {2048})), GemmShape::kSplit64);
  EXPECT_EQ(Of(Sizes(257, 7168, {2048})), GemmShape::kRows64);
  EXPECT_EQ(Of(Sizes(256, 2048, {2048})), GemmShape::kRows64);
  EXPECT_EQ(Of(Sizes(64, 480, {2048})), GemmShape::kRows64);
}

TEST(GemmShapeTest, ProductsOfFewOutputsAreOneKernel) {
  EXPECT_EQ(Of(Sizes(64, 2048, {160})), GemmShape::kRows32);
  EXPECT_EQ(Of(Sizes(65, 2048, {160})), GemmShape::kSplit64);
  EXPECT_EQ(Of(Sizes(64, 2048, {528})), GemmShape::kRows32);
  EXPECT_EQ(Of(Sizes(64, 2048, {529})), GemmShape::kSplit64);
}

TEST(GemmShapeTest, NoTileIsHalfEmptyHoweverManyThereAre) {
  EXPECT_EQ(Of(Sizes(64, 2048, {65536})), GemmShape::kRows64);
  EXPECT_EQ(Of(Sizes(33, 2048, {65536})), GemmShape::kRows64);
}

TEST(GemmShapeTest, ShortSumsHaveSmallTiles) {
  EXPECT_EQ(Of(Sizes(4096, 32, {2048, 2048, 2048, 2048, 2048})), GemmShape::kRows64);
  EXPECT_EQ(Of(Sizes(4096, 256, {2048})), GemmShape::kRows64);
  GemmSizes sizes = Sizes(4096, 32, {2048, 2048});
  sizes.most_strips = StripsOf(2048);
  EXPECT_EQ(Of(sizes), GemmShape::kRows128);
}

// 128 rows and 128 outputs more are a tile more of the larger ones, and two of the
// others.
TEST(GemmShapeTest, LargerTilesAreThoseThatTheBusiestMultiprocessorHasLessOf) {
  const auto of_tiles = [](std::int64_t tiles) {
    return Of(Sizes(128, 2048, {128 * tiles}));
  };
  EXPECT_EQ(of_tiles(66), GemmShape::kRows64);    // 1 small, or 1 large
  EXPECT_EQ(of_tiles(67), GemmShape::kRows128);   // 2 small
  EXPECT_EQ(of_tiles(132), GemmShape::kRows128);  // 2 small
  EXPECT_EQ(of_tiles(133), GemmShape::kRows64);   // 3 small, or 2 large
  EXPECT_EQ(of_tiles(199), GemmShape::kRows128);  // 4 small
  EXPECT_EQ(of_tiles(4096), GemmShape::kRows128);
  // Another device has another number of them.
  EXPECT_EQ(ShapeOf(Sizes(128, 2048, {128 * 67}), 148), GemmShape::kRows64);
}

}  // namespace
}  // namespace goldfinch
