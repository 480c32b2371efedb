#include "engine/backend/host_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "engine/backend/fp8.h"
#include "engine/bf16.h"

namespace goldfinch {
namespace {

template <typename T>
T ReadAs(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace

float HostElement(const HostMatrix& m, std::int64_t row, std::int64_t col) {
  const std::size_t size = m.stored == StoredType::kF32 ? 4 : 2;
  const std::byte* p =
      m.data + static_cast<std::size_t>(row * m.row_stride + col * m.col_stride) * size;
  if (m.stored == StoredType::kF32) return ReadAs<float>(p);
  if (m.stored == StoredType::kBf16) return Bf16ToFloat(ReadAs<std::uint16_t>(p));
  StoredTensor one;
  one.type = m.stored;
  one.data = p;
  one.size = size;
  float value;
  CopyToF32(one, std::span<float>(&value, 1));
  return value;
}

float RowScale(const HostMatrix& weights, std::int64_t row, DType storage) {
  const float largest = storage == DType::kI8 ? 127.0f : kLargestFp8;
  float scale = 0;
  for (std::int64_t k = 0; k < weights.cols; ++k)
    scale = std::max(scale, std::abs(HostElement(weights, row, k)) / largest);
  return scale;
}

void StoreWeight(float value, float scale, DType storage, std::byte* out) {
  if (storage == DType::kF32) {
    std::memcpy(out, &value, sizeof value);
  } else if (storage == DType::kBf16) {
    const std::uint16_t rounded = RoundToBf16(value);
    std::memcpy(out, &rounded, sizeof rounded);
  } else {
    const float units = scale > 0 ? value / scale : 0.0f;
    *out = storage == DType::kI8
               ? static_cast<std::byte>(static_cast<std::int8_t>(
                     std::clamp(std::nearbyint(units), -127.0f, 127.0f)))
               : static_cast<std::byte>(RoundToFp8(units));
  }
}

}  // namespace goldfinch
