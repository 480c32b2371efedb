// Elements of weights as they lie in a file, for what lays them out for a device.
//
// Threads: pure functions.
#pragma once

#include <cstdint>

#include "engine/backend/backend.h"

namespace goldfinch {

// Element (row, col) in float32.
float HostElement(const HostMatrix& weights, std::int64_t row, std::int64_t col);

// What one unit of a row kept in int8 stands for: its largest magnitude / 127.
float Int8Scale(const HostMatrix& weights, std::int64_t row);

// `value` in units of `scale`, to nearest even, at most 127 of them; 0 where scale is 0.
std::int8_t ToInt8(float value, float scale);

}  // namespace goldfinch
