// Where weights lie in the panels of kernels.h. Apart from it, as kernels, which include
// that, may have nothing the linker could merge (simd.h).
#pragma once

#include <cstdint>

#include "engine/kernels/cpu/kernels.h"

namespace goldfinch {

// Of input k of the output in column `column` of its panel.
inline std::int64_t PanelIndex(bool pairs, std::int64_t column, std::int64_t k) {
  return pairs ? (k / 2 * kPanelColumns + column) * 2 + k % 2
               : k * kPanelColumns + column;
}

}  // namespace goldfinch
