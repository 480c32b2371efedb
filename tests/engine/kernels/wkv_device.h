// The recurrence of Finch on a backend, and random inputs for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {

inline constexpr std::int64_t kWkvState = 64 * 64;  // of one head

inline reference::WkvInputs RandomWkvInputs(std::int64_t rows, std::int64_t heads,
                                            std::uint64_t seed) {
  reference::WkvInputs in;
  in.r = RandomGrid(rows, heads * 64, seed);
  in.k = RandomGrid(rows, heads * 64, seed + 1);
  in.v = RandomGrid(rows, heads * 64, seed + 2);
  // Decays of every size, of which some are exactly none and all.
  in.w = Rounded(Each([](double d) { return std::exp(-std::exp(4 * d)); },
                      RandomGrid(rows, heads * 64, seed + 3)),
                 DType::kF32);
  return in;
}

// The tensors of WkvInputs, and calls over parts of their rows.
class DeviceWkv {
 public:
  DeviceWkv(Backend& backend, const reference::WkvInputs& in, const Grid* bonus)
      : backend_(backend),
        r_(backend, in.r),
        k_(backend, in.k),
        v_(backend, in.v),
        w_(backend, in.w),
        bonus_(FlatArray(backend, bonus != nullptr ? *bonus : Grid())),
        has_bonus_(bonus != nullptr) {}

  // Spans count rows from `begin`; `lead` is empty where there are no blocks.
  Tensor Run(std::int64_t begin, const reference::Spans& spans,
             const DeviceArray<float>& state,
             const std::vector<std::int32_t>& lead = {}) {
    const std::int64_t rows = spans.begin.back();
    const DeviceSpans device(backend_, spans);
    const DeviceArray<std::int32_t> leads(backend_, lead);
    RowSpans row_spans = device.get();
    if (!lead.empty()) row_spans.lead = leads.data();
    Tensor y(backend_, rows, r_->cols, DType::kF32);
    backend_.Wkv({.r = r_->RowsFrom(begin, rows),
                  .k = k_->RowsFrom(begin, rows),
                  .v = v_->RowsFrom(begin, rows),
                  .w = w_->RowsFrom(begin, rows),
                  .bonus = has_bonus_ ? bonus_.data() : nullptr,
                  .state = MatrixOf(state, r_->cols / 64 * kWkvState),
                  .spans = row_spans,
                  .heads = r_->cols / 64,
                  .y = *y});
    backend_.Synchronize();
    return y;
  }

 private:
  Backend& backend_;
  const Tensor r_, k_, v_, w_;
  const DeviceArray<float> bonus_;
  const bool has_bonus_;
};

// Runs `in` over the spans, with eight slots of a state, and expects the recurrence of
// the reference, slots without a span, and no others, as they were, and nothing written
// beside y. What is allowed for is part(size) of the sums of magnitudes.
template <typename Part>
void ExpectWkv(Backend& backend, reference::WkvInputs in, const reference::Spans& spans,
               const std::vector<std::int32_t>& lead, const Grid* bonus,
               const Part& part) {
  constexpr std::int64_t kSlots = 8;
  const std::int64_t cols = in.r.cols() / 64 * kWkvState;
  in.bonus = bonus;
  in.spans = spans;
  const Grid fresh = RandomGrid(kSlots, cols, 6);
  const DeviceArray<float> state = FlatArray(backend, fresh);
  const std::vector<RowBits> before = RowsOf(state, kSlots);
  const Tensor y = DeviceWkv(backend, in, bonus).Run(0, spans, state, lead);
  EXPECT_TRUE(y.SurroundingsAreIntact());

  Grid want_state = fresh;
  const Grid want = reference::Wkv(in, want_state);
  const Grid magnitudes = bonus != nullptr ? reference::Abs(*bonus) : Grid();
  const reference::WkvInputs sizes = {reference::Abs(in.r),
                                      reference::Abs(in.k),
                                      reference::Abs(in.v),
                                      in.w,
                                      bonus != nullptr ? &magnitudes : nullptr,
                                      spans};
  Grid state_sizes = reference::Abs(fresh);
  const Grid y_sizes = reference::Wkv(sizes, state_sizes);
  ExpectClose(y.Read(), want, Each(part, y_sizes));
  ExpectClose(ReadGrid(state, kSlots, cols), want_state, Each(part, state_sizes));
  const std::vector<RowBits> after = RowsOf(state, kSlots);
  for (std::size_t slot = 0; slot < before.size(); ++slot) {
    const auto& written = spans.next_slot.empty() ? spans.slot : spans.next_slot;
    const bool used = std::ranges::count(written, static_cast<std::int32_t>(slot)) > 0;
    EXPECT_EQ(used, before[slot] != after[slot]) << "slot " << slot;
  }
}

}  // namespace goldfinch
