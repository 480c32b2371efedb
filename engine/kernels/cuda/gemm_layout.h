// Where weights of y = x W^T, W being [out, in], lie on the GPU, and how the sums of a
// product are cut. Plain arithmetic, shared with what packs them on the host.
//
// For bf16 inputs: blocks of 16 outputs, and of each block strips of 32 inputs, both
// padded with zeros. A strip is two fragments of the tensor cores' m16n8k16, in the order
// in which a warp's lanes hold them, so a warp loads a fragment as 512 bytes in one go.
// Which input is which k of a product is our choice, as long as both operands agree: lane
// quad q = lane % 4 has inputs 8q .. 8q+7 of the strip, the first four in the first
// fragment. So a lane reads its inputs of x as one run too.
//   bf16: [block][strip][2 fragments][32 lanes][8]
//   int8, fp8: [block][strip][32 lanes][2 fragments][8], and y = (x Q^T) * scales
// For float32 inputs: row-major [out, in], float32, int8 or fp8.
#pragma once

#include <cstdint>

#include "engine/backend/matrix.h"

namespace goldfinch {

inline constexpr std::int64_t kBlockOutputs = 16;
inline constexpr std::int64_t kStripInputs = 32;
inline constexpr std::int64_t kStripElements = kBlockOutputs * kStripInputs;
// Parts into which the sum over inputs is cut, whatever the number of rows: strips
// [i * strips / kSlices, (i + 1) * strips / kSlices) are part i, each a sum of its own,
// then added in order. With few rows the parts run side by side.
inline constexpr std::int64_t kSlices = 8;

constexpr std::int64_t StripsOf(std::int64_t in) {
  return (in + kStripInputs - 1) / kStripInputs;
}
constexpr std::int64_t BlocksOf(std::int64_t out) {
  return (out + kBlockOutputs - 1) / kBlockOutputs;
}
// Elements of packed weights, padding included.
constexpr std::int64_t PackedElements(std::int64_t out, std::int64_t in, DType type) {
  return type == DType::kF32 ? out * in : BlocksOf(out) * StripsOf(in) * kStripElements;
}
// Where element (out, in) is among them; `eight` says whether they are bytes.
constexpr std::int64_t PackedIndex(std::int64_t row, std::int64_t col, std::int64_t in,
                                   DType type, bool eight) {
  if (type == DType::kF32) return row * in + col;
  const std::int64_t strip = row / kBlockOutputs * StripsOf(in) + col / kStripInputs;
  const std::int64_t r = row % kBlockOutputs, k = col % kStripInputs;
  const std::int64_t quad = k / 8, fragment = k % 8 / 4, half = k % 4 / 2;
  const std::int64_t lane = r % 8 * 4 + quad;
  const std::int64_t element = (half * 2 + r / 8) * 2 + k % 2;
  const std::int64_t place = eight ? lane * 2 + fragment : fragment * 32 + lane;
  return strip * kStripElements + place * 8 + element;
}

}  // namespace goldfinch
