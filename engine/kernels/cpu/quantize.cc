// Rows in int8 with a bf16 scale each, for compressed keys:
//   scale = bf16(max |x| / 127);  q = clamp(round(x / scale), -127, 127);  x' = q * scale
//   in : [rows, cols] float32      out : [cache rows, cols] int8, scales [cache rows]
// A row of zeros has scale 0 and comes back as zeros; one with a number that is not
// finite has scale NaN and comes back as NaN. Rounding is to nearest even.
#include "engine/kernels/cpu/kernels_isa.h"
#include "engine/kernels/cpu/simd.h"

namespace goldfinch::GOLDFINCH_ISA {
namespace {

GOLDFINCH_INLINE float RoundToInteger(float x) {
  // Volatile: the sum must be rounded before the difference is taken.
  volatile float shifted = x + 12582912.0f;  // 1.5 * 2^23
  return shifted - 12582912.0f;
}

}  // namespace

void ScatterQuantized(const Matrix& in, const std::int64_t* index, const Matrix& out,
                      std::uint16_t* scales, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* x = in.f32(row);
    std::int8_t* q = out.i8(index[row]);
    float largest = 0.0f, poison = 0.0f;
    for (std::int64_t i = 0; i < in.cols; ++i) {
      const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
      largest = magnitude > largest ? magnitude : largest;
      poison += x[i] * 0.0f;  // NaN of what is not finite
    }
    const std::uint16_t stored = ToBf16(largest / 127.0f + poison);
    const float scale = ToFloat(stored);
    scales[index[row]] = stored;
    for (std::int64_t i = 0; i < in.cols; ++i) {
      float value = scale > 0.0f ? RoundToInteger(x[i] / scale) : 0.0f;
      value = value > 127.0f ? 127.0f : value < -127.0f ? -127.0f : value;
      q[i] = static_cast<std::int8_t>(value);
    }
  }
}

void GatherQuantized(const Matrix& in, const std::uint16_t* scales,
                     const std::int64_t* index, const Matrix& out, std::int64_t begin,
                     std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int8_t* q = in.i8(index[row]);
    const float scale = ToFloat(scales[index[row]]);
    for (std::int64_t i = 0; i < out.cols; ++i) {
      const float value = static_cast<float>(q[i]) * scale;
      if (out.type == DType::kF32)
        out.f32(row)[i] = value;
      else
        out.bf16(row)[i] = ToBf16(value);
    }
  }
}

}  // namespace goldfinch::GOLDFINCH_ISA
