// Rope: pairs rotated by position * frequency.
//
// Tolerance: the angle is float64, its cosine and sine are rounded to float32, and two
// products and a sum round again: 4 u (|a| + |b|) at any position.
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

std::vector<double> Frequencies() {
  std::vector<double> frequency;
  for (int i = 0; i < 32; ++i) frequency.push_back(std::pow(10000.0, -i / 32.0));
  return frequency;
}

class RopeTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(RopeTest);

TEST_P(RopeTest, PairsAreRotatedByTheirPosition) {
  for (const std::int64_t heads : {1, 3}) {
    const Grid x = RandomGrid(6, heads * 64, 1);
    const std::vector<std::int64_t> position = {0, 1, 2, 1000, 1'000'003, 5};
    const std::vector<double> frequency = Frequencies();
    const Tensor rows(backend(), x);
    const DeviceArray<std::int64_t> positions(backend(), position);
    const DeviceArray<double> frequencies(backend(), frequency);
    backend().Rope(*rows, positions.data(), frequencies.data());
    Grid tolerance(6, heads * 64);
    for (std::int64_t i = 0; i < 6; ++i)
      for (std::int64_t j = 0; j < heads * 64; ++j)
        tolerance(i, j) = 4 * kF32Unit * (std::abs(x(i, j)) + std::abs(x(i, j ^ 1)));
    ExpectClose(rows.Read(), reference::Rope(x, position, frequency), tolerance);
    EXPECT_TRUE(rows.SurroundingsAreIntact());
  }
}

TEST_P(RopeTest, PositionZeroChangesNothing) {
  const Tensor rows(backend(), RandomGrid(3, 128, 2));
  const std::vector<RowBits> before = rows.Bits();
  const DeviceArray<std::int64_t> positions(backend(), {0, 0, 0});
  const DeviceArray<double> frequencies(backend(), Frequencies());
  backend().Rope(*rows, positions.data(), frequencies.data());
  EXPECT_EQ(rows.Bits(), before);
}

TEST_P(RopeTest, RowsStandAlone) {
  const Grid x = RandomGrid(200, 192, 3);
  std::vector<std::int64_t> position;
  for (std::int64_t i = 0; i < 200; ++i) position.push_back(i * 97);
  const DeviceArray<std::int64_t> positions(backend(), position);
  const DeviceArray<double> frequencies(backend(), Frequencies());
  ExpectRowsStandAlone(200, [&](std::int64_t begin, std::int64_t count) {
    const Tensor rows(backend(), x.Rows(begin, count));
    backend().Rope(*rows, positions.data() + begin, frequencies.data());
    return rows.Bits();
  });
}

}  // namespace
}  // namespace goldfinch
