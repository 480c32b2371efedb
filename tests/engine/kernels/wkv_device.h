// The recurrence of Finch on a backend, and random inputs for it.
#pragma once

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
                  .state = state.data(),
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

}  // namespace goldfinch
