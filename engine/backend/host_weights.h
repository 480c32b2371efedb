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

// What one unit of a row kept in int8 stands for: its largest magnitude / 127.
float Int8Scale(const HostMatrix& weights, std::int64_t row);

// `value` rounded to `storage`: bf16 to nearest even, int8 to that of `scale` (0 where
// scale is 0), at most 127 of them.
void StoreWeight(float value, float scale, DType storage, std::byte* out);

// A row in `storage`, its element `col` at element number place(col) of `out`. Returns
// its scale; 0 unless `storage` is kI8.
template <typename Place>
float StoreRow(const HostMatrix& weights, std::int64_t row, DType storage, std::byte* out,
               const Place& place) {
  const float scale = storage == DType::kI8 ? Int8Scale(weights, row) : 0.0f;
  for (std::int64_t col = 0; col < weights.cols; ++col)
    StoreWeight(HostElement(weights, row, col), scale, storage,
                out + place(col) * SizeOf(storage));
  return scale;
}

}  // namespace goldfinch
