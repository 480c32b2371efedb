// Elements of weights as they lie in a file, for what lays them out for a device.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backend/backend.h"

namespace goldfinch {

// Element (row, col) in float32.
float HostElement(const HostMatrix& weights, std::int64_t row, std::int64_t col);

// What 1 stands for in a row kept in int8 or fp8: its largest magnitude divided by the
// storage's, 127 or 448.
float RowScale(const HostMatrix& weights, std::int64_t row, DType storage);

// `value` rounded to nearest even in `storage`; int8 and fp8 as a multiple of `scale` (0
// where that is 0), at most 127 or 448 of them.
void StoreWeight(float value, float scale, DType storage, std::byte* out);

// A row in `storage`, its element `col` at element number place(col) of `out`. Returns
// its scale; 0 unless `storage` has one.
template <typename Place>
float StoreRow(const HostMatrix& weights, std::int64_t row, DType storage, std::byte* out,
               const Place& place) {
  const float scale = IsScaled(storage) ? RowScale(weights, row, storage) : 0.0f;
  for (std::int64_t col = 0; col < weights.cols; ++col)
    StoreWeight(HostElement(weights, row, col), scale, storage,
                out + place(col) * SizeOf(storage));
  return scale;
}

}  // namespace goldfinch
