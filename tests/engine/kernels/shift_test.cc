// NormShift and NormToState: each row's normalised value, and its predecessor's.
//
// Values are AddNorm's, which norm_test.cc holds to its tolerance; here bits are
// compared, because what a shift state holds must be what the row itself was.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kCols = 192;

class ShiftTest : public OpTest {
 protected:
  void SetUp() override {
    OpTest::SetUp();
    if (IsSkipped()) return;
    norm_ = std::make_unique<DeviceNorm>(backend(), RandomNorm(kCols, 1));
  }

  std::vector<RowBits> NormBits(const Tensor& x) {
    const Tensor out(backend(), x->rows, kCols, DType::kF32);
    backend().AddNorm({.a = *x, .norm = norm_->get(), .out = *out});
    return out.Bits();
  }

  // Runs NormShift over rows [begin, begin + rows of spans) of x.
  std::pair<std::vector<RowBits>, std::vector<RowBits>> Shift(
      const Tensor& x, std::int64_t begin, const reference::Spans& spans,
      const DeviceArray<float>& state) {
    const std::int64_t rows = spans.begin.back();
    const Tensor cur(backend(), rows, kCols, DType::kF32);
    const Tensor prev(backend(), rows, kCols, DType::kF32);
    const DeviceSpans device(backend(), spans);
    backend().NormShift(x->RowsFrom(begin, rows), norm_->get(), state.data(),
                        device.get(), *cur, *prev);
    EXPECT_TRUE(cur.SurroundingsAreIntact() && prev.SurroundingsAreIntact());
    return {cur.Bits(), prev.Bits()};
  }

  std::unique_ptr<DeviceNorm> norm_;
};

GOLDFINCH_ON_ALL_BACKENDS(ShiftTest);

TEST_P(ShiftTest, ValuesAreTheReferences) {
  const Grid x = RandomGrid(30, kCols, 2);
  const reference::Norm norm = RandomNorm(kCols, 1);
  const reference::Spans spans = {.begin = {0, 1, 12, 13, 30}, .slot = {4, 0, 5, 2}};
  Grid want_state = RandomGrid(6, kCols, 3);
  const DeviceArray<float> state = FlatArray(backend(), want_state);
  const auto [want_cur, want_prev] = reference::NormShift(x, norm, spans, want_state);
  const Tensor in(backend(), x), cur(backend(), 30, kCols, DType::kF32);
  const Tensor prev(backend(), 30, kCols, DType::kF32);
  const DeviceSpans device(backend(), spans);
  backend().NormShift(*in, norm_->get(), state.data(), device.get(), *cur, *prev);
  // Looser than norm_test.cc's: what is tested here is which row went where.
  const auto tolerance = [](const Grid& g) { return Grid(g.rows(), g.cols(), 1e-4); };
  ExpectClose(cur.Read(), want_cur, tolerance(want_cur));
  ExpectClose(prev.Read(), want_prev, tolerance(want_prev));
  ExpectClose(ReadGrid(state, 6, kCols), want_state, tolerance(want_state));
}

TEST_P(ShiftTest, PredecessorHasTheBitsOfTheRowBeforeIt) {
  const Tensor x(backend(), RandomGrid(40, kCols, 4));
  const std::vector<RowBits> normed = NormBits(x);
  const DeviceArray<float> state = FlatArray(backend(), RandomGrid(5, kCols, 5));
  const std::vector<RowBits> before = RowsOf(state, 5);
  const auto [cur, prev] =
      Shift(x, 0, {.begin = {0, 17, 18, 40}, .slot = {3, 1, 0}}, state);
  const std::vector<RowBits> after = RowsOf(state, 5);
  EXPECT_EQ(cur, normed);
  EXPECT_EQ(prev[0], before[3]);
  EXPECT_EQ(prev[17], before[1]);
  EXPECT_EQ(prev[18], before[0]);
  for (const std::size_t i : {1u, 16u, 19u, 39u}) EXPECT_EQ(prev[i], normed[i - 1]);
  EXPECT_EQ(after, (std::vector<RowBits>{normed[39], normed[17], before[2], normed[16],
                                         before[4]}));
}

TEST_P(ShiftTest, AnyCutOfASequenceGivesTheSameBitsAndState) {
  constexpr std::int64_t kRows = 200;
  const Tensor x(backend(), RandomGrid(kRows, kCols, 6));
  const Grid fresh = RandomGrid(2, kCols, 7);
  const DeviceArray<float> whole_state = FlatArray(backend(), fresh);
  const auto whole = Shift(x, 0, {.begin = {0, kRows}, .slot = {1}}, whole_state);
  for (const std::uint64_t seed : {8u, 9u, 10u}) {
    const DeviceArray<float> state = FlatArray(backend(), fresh);
    std::vector<RowBits> cur, prev;
    std::int64_t begin = 0;
    for (const std::int64_t end : RandomCut(kRows, seed)) {
      const auto rows = static_cast<std::int32_t>(end - begin);
      const auto piece = Shift(x, begin, {.begin = {0, rows}, .slot = {1}}, state);
      cur.insert(cur.end(), piece.first.begin(), piece.first.end());
      prev.insert(prev.end(), piece.second.begin(), piece.second.end());
      begin = end;
    }
    EXPECT_EQ(cur, whole.first);
    EXPECT_EQ(prev, whole.second);
    EXPECT_EQ(RowsOf(state, 2), RowsOf(whole_state, 2));
  }
}

TEST_P(ShiftTest, StateOfARowIsItsNormWhereverItIsComputed) {
  const Tensor x(backend(), RandomGrid(100, kCols, 11));
  const std::vector<RowBits> normed = NormBits(x);
  for (const std::int64_t count : {0, 1, 3, 90}) {
    std::vector<std::int32_t> rows, slots;
    for (std::int32_t i = 0; i < count; ++i) {
      rows.push_back((i * 7 + 3) % 100);
      slots.push_back(95 - i);
    }
    const DeviceArray<float> state = FlatArray(backend(), Grid(96, kCols, 0.5));
    const RowBits untouched = RowsOf(state, 96)[0];
    const DeviceArray<std::int32_t> from(backend(), rows), to(backend(), slots);
    backend().NormToState(*x, norm_->get(), from.data(), to.data(), count, state.data());
    const std::vector<RowBits> states = RowsOf(state, 96);
    for (std::size_t slot = 0; slot < 96; ++slot) {
      const std::size_t i = 95 - slot;
      const bool written = i < rows.size();
      EXPECT_EQ(states[slot],
                written ? normed[static_cast<std::size_t>(rows[i])] : untouched);
    }
  }
}

}  // namespace
}  // namespace goldfinch
