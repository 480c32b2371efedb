// NormShift and NormToState: each row's normalised value, the way from it to its
// predecessor's, and mixes of the two.
//
// Values are AddNorm's, which norm_test.cc holds to its tolerance; here bits are
// compared, because what a shift state holds must be what the row itself was.
#include <cstdint>
#include <cstring>
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

  // NormShift of rows x, without mixes.
  void StoreShift(const Matrix& x, const reference::Spans& spans,
                  const DeviceArray<float>& state, const Tensor& cur,
                  const Tensor& diff) {
    const DeviceSpans device(backend(), spans);
    backend().NormShift({.x = x,
                         .norm = norm_->get(),
                         .state = MatrixOf(state, kCols),
                         .spans = device.get(),
                         .cur = *cur,
                         .diff = *diff,
                         .mix = {},
                         .mixed = {}});
  }

  // Runs NormShift over rows [begin, begin + rows of spans) of x.
  std::pair<std::vector<RowBits>, std::vector<RowBits>> Shift(
      const Tensor& x, std::int64_t begin, const reference::Spans& spans,
      const DeviceArray<float>& state) {
    const std::int64_t rows = spans.begin.back();
    const Tensor cur(backend(), rows, kCols, DType::kF32);
    const Tensor diff(backend(), rows, kCols, DType::kF32);
    StoreShift(x->RowsFrom(begin, rows), spans, state, cur, diff);
    EXPECT_TRUE(cur.SurroundingsAreIntact() && diff.SurroundingsAreIntact());
    return {cur.Bits(), diff.Bits()};
  }

  // What diff is where `row` and `before` are rows' bits.
  static RowBits Difference(const RowBits& before, const RowBits& row) {
    RowBits out(row.size(), '\0');
    for (std::size_t at = 0; at < row.size(); at += sizeof(float)) {
      float p, c;
      std::memcpy(&p, before.data() + at, sizeof p);
      std::memcpy(&c, row.data() + at, sizeof c);
      const float d = p - c;
      std::memcpy(out.data() + at, &d, sizeof d);
    }
    return out;
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
  const Grid want_diff =
      Each([](double p, double c) { return p - c; }, want_prev, want_cur);
  const Tensor in(backend(), x), cur(backend(), 30, kCols, DType::kF32);
  const Tensor diff(backend(), 30, kCols, DType::kF32);
  StoreShift(*in, spans, state, cur, diff);
  // Looser than norm_test.cc's: what is tested here is which row went where.
  const auto tolerance = [](const Grid& g) { return Grid(g.rows(), g.cols(), 1e-4); };
  ExpectClose(cur.Read(), want_cur, tolerance(want_cur));
  ExpectClose(diff.Read(), want_diff, tolerance(want_diff));
  ExpectClose(ReadGrid(state, 6, kCols), want_state, tolerance(want_state));
}

TEST_P(ShiftTest, PredecessorHasTheBitsOfTheRowBeforeIt) {
  const Tensor x(backend(), RandomGrid(40, kCols, 4));
  const std::vector<RowBits> normed = NormBits(x);
  const DeviceArray<float> state = FlatArray(backend(), RandomGrid(5, kCols, 5));
  const std::vector<RowBits> before = RowsOf(state, 5);
  const auto [cur, diff] =
      Shift(x, 0, {.begin = {0, 17, 18, 40}, .slot = {3, 1, 0}}, state);
  const std::vector<RowBits> after = RowsOf(state, 5);
  EXPECT_EQ(cur, normed);
  EXPECT_EQ(diff[0], Difference(before[3], normed[0]));
  EXPECT_EQ(diff[17], Difference(before[1], normed[17]));
  EXPECT_EQ(diff[18], Difference(before[0], normed[18]));
  for (const std::size_t i : {1u, 16u, 19u, 39u})
    EXPECT_EQ(diff[i], Difference(normed[i - 1], normed[i]));
  EXPECT_EQ(after, (std::vector<RowBits>{normed[39], normed[17], before[2], normed[16],
                                         before[4]}));
}

TEST_P(ShiftTest, StatesGoToTheirNextSlotsAndTheirOwnStay) {
  const Tensor x(backend(), RandomGrid(40, kCols, 4));
  const std::vector<RowBits> normed = NormBits(x);
  const DeviceArray<float> state = FlatArray(backend(), RandomGrid(6, kCols, 5));
  const std::vector<RowBits> before = RowsOf(state, 6);
  const auto [cur, diff] = Shift(
      x, 0, {.begin = {0, 17, 18, 40}, .slot = {3, 1, 0}, .next_slot = {2, 5, 0}}, state);
  EXPECT_EQ(cur, normed);
  EXPECT_EQ(diff[0], Difference(before[3], normed[0]));
  EXPECT_EQ(diff[17], Difference(before[1], normed[17]));
  EXPECT_EQ(diff[18], Difference(before[0], normed[18]));
  EXPECT_EQ(RowsOf(state, 6), (std::vector<RowBits>{normed[39], before[1], normed[16],
                                                    before[3], before[4], normed[17]}));
}

// Mixes are what Lerp makes of cur and diff, in either type, with cur stored or not.
TEST_P(ShiftTest, MixesAreLerpsOfTheRowAndItsPredecessor) {
  const Tensor x(backend(), RandomGrid(40, kCols, 4));
  const DeviceSpans spans(backend(), {.begin = {0, 17, 18, 40}, .slot = {3, 1, 0}});
  const Grid fresh = RandomGrid(5, kCols, 5);
  const DeviceArray<float> mix0 = FlatArray(backend(), RandomGrid(1, kCols, 12));
  const DeviceArray<float> mix1 = FlatArray(backend(), RandomGrid(1, kCols, 13));
  const Tensor cur(backend(), 40, kCols, DType::kF32);
  const Tensor diff(backend(), 40, kCols, DType::kF32);
  const Tensor want0(backend(), 40, kCols, DType::kF32);
  const Tensor want1(backend(), 40, kCols, DType::kBf16);
  std::vector<RowBits> states;
  for (const bool stored : {true, false}) {
    const DeviceArray<float> state = FlatArray(backend(), fresh);
    const Tensor got0(backend(), 40, kCols, DType::kF32);
    const Tensor got1(backend(), 40, kCols, DType::kBf16);
    backend().NormShift({.x = *x,
                         .norm = norm_->get(),
                         .state = MatrixOf(state, kCols),
                         .spans = spans.get(),
                         .cur = stored ? *cur : Matrix{},
                         .diff = stored ? *diff : Matrix{},
                         .num_mixes = 2,
                         .mix = {mix0.data(), mix1.data()},
                         .mixed = {*got0, *got1}});
    if (stored) {
      backend().Lerp({.cur = *cur,
                      .diff = *diff,
                      .num_mixes = 1,
                      .mix = {mix0.data()},
                      .out = *want0});
      backend().Lerp({.cur = *cur,
                      .diff = *diff,
                      .num_mixes = 1,
                      .mix = {mix1.data()},
                      .out = *want1});
      states = RowsOf(state, 5);
    }
    EXPECT_EQ(got0.Bits(), want0.Bits());
    EXPECT_EQ(got1.Bits(), want1.Bits());
    EXPECT_EQ(RowsOf(state, 5), states);
    EXPECT_TRUE(got0.SurroundingsAreIntact() && got1.SurroundingsAreIntact());
  }
}

TEST_P(ShiftTest, AnyCutOfASequenceGivesTheSameBitsAndState) {
  constexpr std::int64_t kRows = 200;
  const Tensor x(backend(), RandomGrid(kRows, kCols, 6));
  const Grid fresh = RandomGrid(2, kCols, 7);
  const DeviceArray<float> whole_state = FlatArray(backend(), fresh);
  const auto whole = Shift(x, 0, {.begin = {0, kRows}, .slot = {1}}, whole_state);
  for (const std::uint64_t seed : {8u, 9u, 10u}) {
    const DeviceArray<float> state = FlatArray(backend(), fresh);
    std::vector<RowBits> cur, diff;
    std::int64_t begin = 0;
    for (const std::int64_t end : RandomCut(kRows, seed)) {
      const auto rows = static_cast<std::int32_t>(end - begin);
      const auto piece = Shift(x, begin, {.begin = {0, rows}, .slot = {1}}, state);
      cur.insert(cur.end(), piece.first.begin(), piece.first.end());
      diff.insert(diff.end(), piece.second.begin(), piece.second.end());
      begin = end;
    }
    EXPECT_EQ(cur, whole.first);
    EXPECT_EQ(diff, whole.second);
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
    backend().NormToState(*x, norm_->get(), from.data(), to.data(), count,
                          MatrixOf(state, kCols));
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
