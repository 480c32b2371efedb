// GatherRows, ScatterRows, GatherTokens, ScatterTokens: moves, exact up to the one
// rounding of a narrower output.
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBf16};
constexpr std::int64_t kWidths[] = {1, 3, 16, 45, 192};

class GatherTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(GatherTest);

std::vector<std::int64_t> GatherIndex() {
  std::vector<std::int64_t> index = {8, -1, 0, 0, -1};
  for (std::int64_t i = 0; i < 92; ++i) index.push_back((i * 5 + 3) % 9);
  return index;
}

TEST_P(GatherTest, GatherRowsCopiesRowsOrZeros) {
  const std::vector<std::int64_t> index = GatherIndex();
  const auto rows = static_cast<std::int64_t>(index.size());
  const DeviceArray<std::int64_t> indices(backend(), index);
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      for (const std::int64_t cols : kWidths) {
        const Grid x = RandomGrid(9, cols, 1, from);
        const Tensor in(backend(), x, from), out(backend(), rows, cols, to);
        backend().GatherRows(*in, indices.data(), *out);
        ExpectClose(out.Read(), Rounded(reference::GatherRows(x, index), to),
                    Grid(rows, cols));
        EXPECT_TRUE(out.SurroundingsAreIntact());
      }
    }
  }
}

TEST_P(GatherTest, ScatterRowsWritesItsRowsAndNoOther) {
  std::vector<std::int64_t> index;
  for (std::int64_t i = 0; i < 97; ++i) index.push_back((i * 11 + 2) % 101);
  const DeviceArray<std::int64_t> indices(backend(), index);
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      for (const std::int64_t cols : kWidths) {
        const Grid x = RandomGrid(97, cols, 2, from);
        Grid want = RandomGrid(101, cols, 3, to);
        const Tensor in(backend(), x, from), out(backend(), want, to);
        backend().ScatterRows(*in, indices.data(), *out);
        reference::ScatterRows(Rounded(x, to), index, want);
        ExpectClose(out.Read(), want, Grid(101, cols));
        EXPECT_TRUE(out.SurroundingsAreIntact());
      }
    }
  }
}

TEST_P(GatherTest, RowsMoveIntoColumnsOfAWiderMatrix) {
  const Grid x = RandomGrid(5, 7, 4);
  const Tensor in(backend(), x), wide(backend(), 3, 71, DType::kBf16);
  const DeviceArray<std::int64_t> index(backend(), {4, -1, 1});
  backend().GatherRows(*in, index.data(), wide->Cols(64, 7));
  const Grid got = wide.Read();
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(std::isnan(got(i, 63))) << "row " << i;
    EXPECT_EQ(got(1, 64 + i), 0.0);
    EXPECT_EQ(got(0, 64 + i), Rounded(x, DType::kBf16)(4, i));
  }
  EXPECT_TRUE(wide.SurroundingsAreIntact());
}

TEST_P(GatherTest, TokensMoveByTheirIndex) {
  const std::vector<std::int64_t> places = {6, 0, 3};
  const DeviceArray<std::int64_t> index(backend(), places);
  const DeviceArray<std::int32_t> from(backend(), {11, 12, 13});
  const DeviceArray<std::int32_t> to(backend(), {0, 1, 2, 3, 4, 5, 6, 7});
  backend().ScatterTokens(from.data(), index.data(), 3, to.data());
  EXPECT_EQ(to.Read(), (std::vector<std::int32_t>{12, 1, 2, 13, 4, 5, 11, 7}));
  const DeviceArray<std::int32_t> back(backend(), {0, 0, 0, -1});
  backend().GatherTokens(to.data(), index.data(), 3, back.data());
  EXPECT_EQ(back.Read(), (std::vector<std::int32_t>{11, 12, 13, -1}));
}

}  // namespace
}  // namespace goldfinch
