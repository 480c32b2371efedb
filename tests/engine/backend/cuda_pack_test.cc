// Where weights lie for the tensor cores. No device is needed.
#include "engine/backend/cuda_pack.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "engine/bf16.h"
#include "engine/kernels/cuda/gemm_layout.h"
#include "gtest/gtest.h"

namespace goldfinch {
namespace {

struct Size {
  std::int64_t out, in;
};
constexpr Size kSizes[] = {{1, 1}, {16, 32}, {17, 33}, {40, 160}, {64, 48}, {545, 24}};

TEST(CudaPackTest, EveryElementHasAPlaceOfItsOwn) {
  for (const auto [out, in] : kSizes) {
    for (const bool eight : {false, true}) {
      std::set<std::int64_t> places;
      for (std::int64_t row = 0; row < out; ++row)
        for (std::int64_t col = 0; col < in; ++col)
          places.insert(PackedIndex(row, col, in, DType::kBf16, eight));
      EXPECT_EQ(static_cast<std::int64_t>(places.size()), out * in);
      EXPECT_GE(*places.begin(), 0);
      EXPECT_LT(*places.rbegin(), PackedElements(out, in, DType::kBf16));
    }
  }
}

// PTX ISA, m16n8k16: register i of lane l holds, of the left operand, row l / 4 (+ 8 for
// an odd i) and k = 2 (l % 4) (+ 8 for i >= 2). A lane's k of both fragments of a strip
// are eight neighbouring inputs.
TEST(CudaPackTest, FragmentsAreTheTensorCoresWithNeighbouringInputsInALane) {
  for (const bool eight : {false, true}) {
    for (std::int64_t lane = 0; lane < 32; ++lane) {
      for (std::int64_t fragment = 0; fragment < 2; ++fragment) {
        for (std::int64_t i = 0; i < 8; ++i) {
          const std::int64_t reg = i / 2;
          const std::int64_t row = lane / 4 + reg % 2 * 8;
          const std::int64_t col = lane % 4 * 8 + fragment * 4 + reg / 2 * 2 + i % 2;
          const std::int64_t place = eight ? lane * 2 + fragment : fragment * 32 + lane;
          EXPECT_EQ(PackedIndex(row, col, 32, DType::kBf16, eight), place * 8 + i);
        }
      }
    }
  }
}

TEST(CudaPackTest, SlicesCoverAllStripsInOrderAndTheLastIsNeverEmpty) {
  for (std::int64_t strips = 1; strips < 300; ++strips) {
    std::int64_t begin = 0;
    for (std::int64_t slice = 0; slice < kSlices; ++slice) {
      EXPECT_EQ(slice * strips / kSlices, begin);
      begin = (slice + 1) * strips / kSlices;
    }
    EXPECT_EQ(begin, strips);
    EXPECT_LT((kSlices - 1) * strips / kSlices, strips);
  }
}

TEST(CudaPackTest, PaddingIsZeroAndBytesHaveAScaleAnOutput) {
  ThreadPool pool(1);
  std::vector<float> values(17 * 33);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % 13) - 6.5f;
  const HostMatrix host = {.data = reinterpret_cast<const std::byte*>(values.data()),
                           .stored = StoredType::kF32,
                           .rows = 17,
                           .cols = 33,
                           .row_stride = 33};
  const CudaPacked bf16 = PackForCuda(host, DType::kBf16, DType::kBf16, pool);
  std::vector<std::uint16_t> halves(bf16.weights.size() / 2);
  std::memcpy(halves.data(), bf16.weights.data(), bf16.weights.size());
  std::int64_t nonzero = 0;
  for (const std::uint16_t half : halves) nonzero += half != 0 ? 1 : 0;
  EXPECT_EQ(nonzero, 17 * 33);
  EXPECT_EQ(Bf16ToFloat(halves[static_cast<std::size_t>(
                PackedIndex(16, 32, 33, DType::kBf16, false))]),
            values.back());
  EXPECT_TRUE(bf16.scales.empty());

  for (const DType storage : {DType::kI8, DType::kFp8}) {
    const CudaPacked eight = PackForCuda(host, DType::kBf16, storage, pool);
    EXPECT_EQ(eight.weights.size(), halves.size());
    EXPECT_EQ(std::count(eight.weights.begin(), eight.weights.end(), std::byte{}),
              static_cast<std::int64_t>(halves.size()) - 17 * 33);
    ASSERT_EQ(eight.scales.size(), 17u);
    EXPECT_EQ(eight.scales[0], 6.5f / (storage == DType::kI8 ? 127.0f : 448.0f));
  }
}

TEST(CudaPackTest, RowMajorIsEveryElementRoundedInItsPlace) {
  ThreadPool pool(2);
  constexpr std::int64_t kOut = 40, kIn = 24;
  std::vector<float> values;
  for (std::int64_t i = 0; i < kOut * kIn; ++i)
    values.push_back(1.0f / static_cast<float>(i + 3));
  // Stored [in, out].
  const auto packed = RowMajorBf16({.data = reinterpret_cast<std::byte*>(values.data()),
                                    .stored = StoredType::kF32,
                                    .rows = kOut,
                                    .cols = kIn,
                                    .row_stride = 1,
                                    .col_stride = kOut},
                                   pool);
  ASSERT_EQ(static_cast<std::int64_t>(packed.size()), kOut * kIn);
  for (std::int64_t i = 0; i < kOut; ++i)
    for (std::int64_t j = 0; j < kIn; ++j)
      ASSERT_EQ(packed[static_cast<std::size_t>(i * kIn + j)],
                RoundToBf16(values[static_cast<std::size_t>(j * kOut + i)]));
}

}  // namespace
}  // namespace goldfinch
