// The recurrence of Finch, with and without the bonus.
//
// Tolerance: a term of S that is T tokens old has been rounded at most 3 T times, and y
// sums 64 of them and, with a bonus, 64 products of four: all of it is at most
// (3 T + 80) u of the same recurrence over magnitudes, u = 2^-24.
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/op_test.h"
#include "tests/engine/kernels/wkv_device.h"

namespace goldfinch {
namespace {

using reference::Spans;
using reference::WkvInputs;

constexpr std::int64_t kState = kWkvState;

class WkvTest : public OpTest {
 protected:
  void ExpectRecurrence(std::int64_t heads, const Spans& spans, const Grid* bonus) {
    const std::int64_t rows = spans.begin.back();
    const double unit = (3 * static_cast<double>(rows) + 80) * kF32Unit;
    ExpectWkv(backend(), RandomWkvInputs(rows, heads, 1), spans, /*lead=*/{}, bonus,
              [unit](double size) { return unit * size; });
  }
};

GOLDFINCH_ON_ALL_BACKENDS(WkvTest);

TEST_P(WkvTest, OneTokenFollowsTheRecurrence) {
  const Grid bonus = RandomGrid(1, 64, 7);
  ExpectRecurrence(1, {.begin = {0, 1}, .slot = {3}}, nullptr);
  ExpectRecurrence(1, {.begin = {0, 1}, .slot = {3}}, &bonus);
}

TEST_P(WkvTest, SpansFollowTheRecurrenceInTheirOwnSlots) {
  const Spans spans = {.begin = {0, 1, 6, 7, 40}, .slot = {5, 0, 6, 2}};
  const Grid bonus = RandomGrid(1, 3 * 64, 8);
  ExpectRecurrence(3, spans, nullptr);
  ExpectRecurrence(3, spans, &bonus);
}

TEST_P(WkvTest, StatesGoToTheirNextSlotsAndTheirOwnStay) {
  const Grid bonus = RandomGrid(1, 3 * 64, 8);
  const Spans spans = {
      .begin = {0, 1, 6, 7, 40}, .slot = {5, 0, 6, 2}, .next_slot = {1, 3, 6, 4}};
  ExpectRecurrence(3, spans, &bonus);
  const Grid fresh = RandomGrid(7, 3 * kState, 10);
  DeviceWkv wkv(backend(), RandomWkvInputs(40, 3, 11), &bonus);
  const DeviceArray<float> moved = FlatArray(backend(), fresh);
  const DeviceArray<float> in_place = FlatArray(backend(), fresh);
  const Spans own = {.begin = spans.begin, .slot = spans.slot};
  EXPECT_EQ(wkv.Run(0, spans, moved).Bits(), wkv.Run(0, own, in_place).Bits());
  for (std::size_t i = 0; i < spans.slot.size(); ++i) {
    const auto slot = static_cast<std::size_t>(spans.slot[i]);
    const auto next = static_cast<std::size_t>(spans.next_slot[i]);
    EXPECT_EQ(RowsOf(moved, 7)[next], RowsOf(in_place, 7)[slot]) << i;
  }
}

TEST_P(WkvTest, AnyCutOfASequenceGivesTheSameBitsAndState) {
  constexpr std::int64_t kRows = 97;
  const Grid bonus = RandomGrid(1, 2 * 64, 9), fresh = RandomGrid(3, 2 * kState, 10);
  for (const Grid* u : {static_cast<const Grid*>(nullptr), &bonus}) {
    DeviceWkv wkv(backend(), RandomWkvInputs(kRows, 2, 11), u);
    const DeviceArray<float> whole_state = FlatArray(backend(), fresh);
    const std::vector<RowBits> whole =
        wkv.Run(0, {.begin = {0, kRows}, .slot = {1}}, whole_state).Bits();
    for (const std::uint64_t seed : {12u, 13u, 14u, 15u}) {
      const DeviceArray<float> state = FlatArray(backend(), fresh);
      std::vector<RowBits> pieces;
      std::int64_t begin = 0;
      for (const std::int64_t end : RandomCut(kRows, seed)) {
        const auto rows = static_cast<std::int32_t>(end - begin);
        for (const RowBits& row :
             wkv.Run(begin, {.begin = {0, rows}, .slot = {1}}, state).Bits())
          pieces.push_back(row);
        begin = end;
      }
      EXPECT_EQ(pieces, whole);
      EXPECT_EQ(RowsOf(state, 3), RowsOf(whole_state, 3));
    }
  }
}

TEST_P(WkvTest, SequenceHasTheSameBitsAmongOthersAndInAnySlot) {
  const Grid fresh = RandomGrid(1, 2 * kState, 16);
  const WkvInputs in = RandomWkvInputs(60, 2, 17);
  DeviceWkv wkv(backend(), in, nullptr);
  Grid states(4, 2 * kState, 0.25);
  for (std::int64_t j = 0; j < 2 * kState; ++j) states(2, j) = fresh(0, j);
  const DeviceArray<float> shared = FlatArray(backend(), states);
  const std::vector<RowBits> among =
      wkv.Run(0, {.begin = {0, 1, 20, 53, 60}, .slot = {0, 3, 2, 1}}, shared).Bits();
  const DeviceArray<float> own = FlatArray(backend(), fresh);
  const std::vector<RowBits> alone =
      wkv.Run(20, {.begin = {0, 33}, .slot = {0}}, own).Bits();
  EXPECT_EQ(alone, std::vector<RowBits>(among.begin() + 20, among.begin() + 53));
  EXPECT_EQ(RowsOf(own, 1)[0], RowsOf(shared, 4)[2]);
}

TEST_P(WkvTest, SequenceOfNaNLeavesItsBatchMatesAlone) {
  WkvInputs in = RandomWkvInputs(12, 1, 18);
  DeviceWkv clean(backend(), in, nullptr);
  for (std::int64_t i = 4; i < 8; ++i) in.k(i, 5) = in.v(i, 9) = std::nan("");
  DeviceWkv poisoned(backend(), in, nullptr);
  const Spans spans = {.begin = {0, 4, 8, 12}, .slot = {0, 1, 2}};
  const DeviceArray<float> state = FlatArray(backend(), Grid(3, kState));
  const DeviceArray<float> poisoned_state = FlatArray(backend(), Grid(3, kState));
  const std::vector<RowBits> want = clean.Run(0, spans, state).Bits();
  const std::vector<RowBits> got = poisoned.Run(0, spans, poisoned_state).Bits();
  for (std::size_t i : {0u, 1u, 2u, 3u, 8u, 9u, 10u, 11u}) EXPECT_EQ(got[i], want[i]);
  EXPECT_EQ(RowsOf(poisoned_state, 3)[0], RowsOf(state, 3)[0]);
  EXPECT_EQ(RowsOf(poisoned_state, 3)[2], RowsOf(state, 3)[2]);
}

}  // namespace
}  // namespace goldfinch
