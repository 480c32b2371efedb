// The recurrence of Finch over blocks of prompts (RowSpans::lead). Backends without an
// order of their own for them do as for all other rows.
//
// Tolerance: 2^-18 of the same recurrence over magnitudes. Over spans as short as these
// what is rounded makes a tenth of that, and what tensor cores cut off a third at most;
// factors that are not split (2^-12 each) make more.
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/emulation/emulation.h"
#include "tests/engine/kernels/op_test.h"
#include "tests/engine/kernels/wkv_device.h"

namespace goldfinch {
namespace {

using reference::Spans;
using reference::WkvInputs;
using Leads = std::vector<std::int32_t>;

class WkvBlocksTest : public OpTest {
 protected:
  void TearDown() override { emulation::SetOrder(emulation::Order::kForward); }

  struct Result {
    std::vector<RowBits> y, state;
    bool operator==(const Result&) const = default;
  };

  // Of a call over all rows of `spans`, from row `begin` of the inputs on.
  Result Run(DeviceWkv& wkv, const Spans& spans, const Leads& lead, const Grid& state,
             std::int64_t begin = 0) {
    const DeviceArray<float> on_device = FlatArray(backend(), state);
    const Tensor y = wkv.Run(begin, spans, on_device, lead);
    EXPECT_TRUE(y.SurroundingsAreIntact());
    return {y.Bits(), RowsOf(on_device, state.rows())};
  }
  // Of one sequence, cut into calls that end at `ends`.
  Result RunCut(DeviceWkv& wkv, std::int32_t lead, const std::vector<std::int32_t>& ends,
                const Grid& fresh) {
    const DeviceArray<float> state = FlatArray(backend(), fresh);
    Result result;
    std::int32_t begin = 0;
    for (const std::int32_t end : ends) {
      const Spans spans = {.begin = {0, end - begin}, .slot = {0}};
      const Tensor y = wkv.Run(begin, spans, state, {begin == 0 ? lead : 0});
      for (const RowBits& row : y.Bits()) result.y.push_back(row);
      begin = end;
    }
    result.state = RowsOf(state, fresh.rows());
    return result;
  }

  void ExpectRecurrence(const WkvInputs& in, const Spans& spans, const Leads& lead,
                        const Grid* bonus) {
    // What underflows is not of any size.
    ExpectWkv(backend(), in, spans, lead, bonus,
              [](double size) { return 0x1p-18 * size + 0x1p-110; });
  }
};

GOLDFINCH_ON_ALL_BACKENDS(WkvBlocksTest);

TEST_P(WkvBlocksTest, BlocksFollowTheRecurrence) {
  const Spans spans = {.begin = {0, 1, 65, 194, 257, 265, 393, 470},
                       .slot = {5, 0, 6, 2, 7, 1, 3}};
  // One row; a block; a row, two blocks; no block's length; none; 63, a block, a row; 13
  // and a block.
  const Leads lead = {0, 0, 1, 0, 64, 63, 13};
  const Grid bonus = RandomGrid(1, 3 * 64, 8);
  ExpectRecurrence(RandomWkvInputs(470, 3, 1), spans, lead, nullptr);
  ExpectRecurrence(RandomWkvInputs(470, 3, 2), spans, lead, &bonus);
}

TEST_P(WkvBlocksTest, EveryDecayFollowsTheRecurrence) {
  const Spans spans = {.begin = {0, 128}, .slot = {4}};
  const Grid bonus = RandomGrid(1, 64, 9);
  WkvInputs in = RandomWkvInputs(128, 1, 10);
  const double near_one = static_cast<double>(1.0f - 0x1p-24f);
  const double values[] = {0.0,
                           1.0,
                           static_cast<double>(1e-30f),
                           near_one,
                           0.5,
                           static_cast<double>(1e-7f),
                           static_cast<double>(0x1p-149f)};
  for (const double value : values) {
    in.w = Grid(128, 64, value);
    ExpectRecurrence(in, spans, {0}, nullptr);
  }
  std::mt19937_64 random(11);
  in.w = Each([&](double) { return values[random() % 7]; }, in.w);
  ExpectRecurrence(in, spans, {0}, &bonus);
  // Mostly kept and sometimes forgotten.
  in.w =
      Each([&](double) { return values[random() % 16 == 0 ? 0 : 1 + random() % 2 * 2]; },
           in.w);
  ExpectRecurrence(in, spans, {0}, nullptr);
}

TEST_P(WkvBlocksTest, WholeNumbersAreExact) {
  constexpr std::int64_t kRows = 192;
  std::mt19937_64 random(12);
  const auto whole = [&](std::uint64_t count) {
    return [&random, count](double) {
      return static_cast<double>(random() % count) - static_cast<double>(count / 2);
    };
  };
  const Grid zeros(kRows, 128);
  WkvInputs in;
  in.r = Each(whole(9), zeros);
  in.k = Each(whole(9), zeros);
  in.v = Each(whole(9), zeros);
  in.w = Each([&](double) { return random() % 20 == 0 ? 0.0 : 1.0; }, zeros);
  Grid state = Each(whole(9), Grid(1, 2 * kWkvState));
  const Grid bonus = Each(whole(5), Grid(1, 128));
  in.bonus = &bonus;
  in.spans = {.begin = {0, kRows}, .slot = {0}};
  const DeviceArray<float> device = FlatArray(backend(), state);
  const Tensor y = DeviceWkv(backend(), in, &bonus).Run(0, in.spans, device, {0});
  const Grid want = reference::Wkv(in, state);
  ExpectClose(y.Read(), want, zeros);
  ExpectClose(ReadGrid(device, 1, 2 * kWkvState), state, Grid(1, 2 * kWkvState));
}

TEST_P(WkvBlocksTest, AnyCutWhereBlocksEndGivesTheSameBitsAndState) {
  const Grid bonus = RandomGrid(1, 2 * 64, 13), fresh = RandomGrid(1, 2 * kWkvState, 14);
  for (const Grid* u : {static_cast<const Grid*>(nullptr), &bonus}) {
    DeviceWkv wkv(backend(), RandomWkvInputs(270, 2, 15), u);
    // 37, three blocks, 41.
    const Result whole = RunCut(wkv, 37, {270}, fresh);
    EXPECT_EQ(RunCut(wkv, 37, {101, 165, 229, 270}, fresh), whole);
    EXPECT_EQ(RunCut(wkv, 37, {165, 270}, fresh), whole);
    EXPECT_EQ(RunCut(wkv, 37, {37, 229, 240, 270}, fresh), whole);
    EXPECT_EQ(RunCut(wkv, 20, {20, 37, 101, 270}, fresh), whole);
  }
}

TEST_P(WkvBlocksTest, SequenceHasTheSameBitsAmongOthersAndInAnySlot) {
  const Grid fresh = RandomGrid(1, 2 * kWkvState, 16);
  DeviceWkv wkv(backend(), RandomWkvInputs(430, 2, 17), nullptr);
  Grid states(4, 2 * kWkvState, 0.25);
  for (std::int64_t j = 0; j < 2 * kWkvState; ++j) states(2, j) = fresh(0, j);
  const Result among = Run(wkv, {.begin = {0, 1, 70, 230, 430}, .slot = {0, 3, 2, 1}},
                           {1, 0, 19, 64}, states);
  const Result alone = Run(wkv, {.begin = {0, 160}, .slot = {0}}, {19}, fresh, 70);
  EXPECT_EQ(alone.y, std::vector<RowBits>(among.y.begin() + 70, among.y.begin() + 230));
  EXPECT_EQ(alone.state[0], among.state[2]);
}

TEST_P(WkvBlocksTest, RowsOutsideOfBlocksHaveTheBitsOfNoBlocksAtAll) {
  const Grid bonus = RandomGrid(1, 64, 18), fresh = RandomGrid(3, kWkvState, 19);
  for (const Grid* u : {static_cast<const Grid*>(nullptr), &bonus}) {
    DeviceWkv wkv(backend(), RandomWkvInputs(200, 1, 20), u);
    const Spans spans = {.begin = {0, 1, 130, 200}, .slot = {0, 2, 1}};
    const Result without = Run(wkv, spans, {}, fresh);
    // Too few rows, leads as long as their spans, and beyond.
    for (const Leads& lead : {Leads{0, 66, 7}, Leads{1, 129, 70}, Leads{64, 1000, 71}})
      EXPECT_EQ(Run(wkv, spans, lead, fresh), without);
    const Result with = Run(wkv, spans, {0, 12, 70}, fresh);
    for (std::size_t i = 0; i < 13; ++i) EXPECT_EQ(with.y[i], without.y[i]);
    for (std::size_t i = 130; i < 200; ++i) EXPECT_EQ(with.y[i], without.y[i]);
    EXPECT_EQ(with.state[1], without.state[1]);
  }
}

// Tensors have odd strides; arrays begin where an allocation does.
TEST_P(WkvBlocksTest, AlignmentOfRowsChangesNoBits) {
  const WkvInputs in = RandomWkvInputs(128, 2, 21);
  const Grid fresh = RandomGrid(1, 2 * kWkvState, 22);
  const Spans spans = {.begin = {0, 128}, .slot = {0}};
  DeviceWkv wkv(backend(), in, nullptr);
  const Result odd = Run(wkv, spans, {0}, fresh);

  const DeviceArray<float> r = FlatArray(backend(), in.r), k = FlatArray(backend(), in.k),
                           v = FlatArray(backend(), in.v), w = FlatArray(backend(), in.w),
                           y = FlatArray(backend(), Grid(128, 128)),
                           state = FlatArray(backend(), fresh);
  const auto matrix = [](const DeviceArray<float>& array) {
    return MatrixOf(array, 128);
  };
  const DeviceSpans device(backend(), spans);
  const DeviceArray<std::int32_t> lead(backend(), {0});
  RowSpans row_spans = device.get();
  row_spans.lead = lead.data();
  backend().Wkv({.r = matrix(r),
                 .k = matrix(k),
                 .v = matrix(v),
                 .w = matrix(w),
                 .state = MatrixOf(state, 2 * kWkvState),
                 .spans = row_spans,
                 .heads = 2,
                 .y = matrix(y)});
  EXPECT_EQ(RowsOf(y, 128), odd.y);
  EXPECT_EQ(RowsOf(state, 1), odd.state);
}

TEST_P(WkvBlocksTest, SequenceOfNaNLeavesItsBatchMatesAlone) {
  WkvInputs in = RandomWkvInputs(192, 1, 23);
  DeviceWkv clean(backend(), in, nullptr);
  for (std::int64_t i = 64; i < 128; ++i) in.k(i, 5) = in.v(i, 9) = std::nan("");
  DeviceWkv poisoned(backend(), in, nullptr);
  const Spans spans = {.begin = {0, 64, 128, 192}, .slot = {0, 1, 2}};
  const Grid fresh(3, kWkvState);
  const Result want = Run(clean, spans, {0, 0, 0}, fresh);
  const DeviceArray<float> state = FlatArray(backend(), fresh);
  const Tensor y = poisoned.Run(0, spans, state, {0, 0, 0});
  const std::vector<RowBits> got = y.Bits();
  for (std::size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(got[i], want.y[i]);
    EXPECT_EQ(got[128 + i], want.y[128 + i]);
  }
  EXPECT_EQ(RowsOf(state, 3)[0], want.state[0]);
  EXPECT_EQ(RowsOf(state, 3)[2], want.state[2]);
  // And shows where it is: from the second poisoned token on all values have seen k.
  const Grid values = y.Read();
  for (std::int64_t i = 65; i < 128; ++i)
    for (std::int64_t j = 0; j < 64; ++j) EXPECT_TRUE(std::isnan(values(i, j)));
}

TEST_P(WkvBlocksTest, OrderOfThreadsChangesNoBits) {
  const Grid bonus = RandomGrid(1, 2 * 64, 24), fresh = RandomGrid(2, 2 * kWkvState, 25);
  DeviceWkv wkv(backend(), RandomWkvInputs(240, 2, 26), &bonus);
  const Spans spans = {.begin = {0, 80, 240}, .slot = {1, 0}};
  const Result forward = Run(wkv, spans, {7, 3}, fresh);
  for (const auto order : {emulation::Order::kBackward, emulation::Order::kShuffled}) {
    emulation::SetOrder(order);
    EXPECT_EQ(Run(wkv, spans, {7, 3}, fresh), forward) << static_cast<int>(order);
  }
}

}  // namespace
}  // namespace goldfinch
