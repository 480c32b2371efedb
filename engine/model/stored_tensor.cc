#include "engine/model/stored_tensor.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/check.h"

namespace goldfinch {
namespace {

static_assert(std::endian::native == std::endian::little,
              "stored tensors are little-endian and are read as they are");

template <typename T>
T LoadElement(const std::byte* data, std::size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

std::uint32_t Bf16ToF32Bits(std::uint16_t bits) {
  return static_cast<std::uint32_t>(bits) << 16;
}

// 1 sign, 5 exponent (bias 15), 10 fraction bits into 1, 8 (bias 127), 23. Branch-free,
// and without float32 subnormals on the way, which a thread may be set to flush.
std::uint32_t F16ToF32Bits(std::uint16_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffu;
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t normal = (magnitude << 13) + (112u << 23);   // 112 = 127 - 15
  const std::uint32_t special = (magnitude << 13) + (224u << 23);  // 31 becomes 255
  const float scaled =
      static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(scaled);
  const std::uint32_t finite = magnitude < 0x0400u ? subnormal : normal;
  return sign | (magnitude < 0x7c00u ? finite : special);
}

template <std::uint32_t (*ToF32Bits)(std::uint16_t)>
void Widen(const StoredTensor& tensor, std::span<float> out) {
  const std::byte* data = tensor.data;
  float* to = out.data();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint32_t bits = ToF32Bits(LoadElement<std::uint16_t>(data, i));
    std::memcpy(to + i, &bits, sizeof(bits));  // keeps signalling NaN as they are
  }
}

// Elements scanned between two looks at the result: long enough to run at the speed of
// memory, short enough to stay in the first cache when it has to be searched.
constexpr std::size_t kScanElements = 4096;

// Index of the first element of which the bits below the sign are at least kInfinity.
// Signed maxima, because every x86-64 has them for 16 bits and they vectorise.
template <typename Bits, Bits kInfinity>
std::int64_t FindNonFinite(const std::byte* data, std::size_t num_elements) {
  using Unsigned = std::make_unsigned_t<Bits>;
  const auto magnitude = [data](std::size_t i) {
    constexpr Unsigned kBelowSign = static_cast<Unsigned>(-1) >> 1;
    return static_cast<Bits>(LoadElement<Unsigned>(data, i) & kBelowSign);
  };
  for (std::size_t begin = 0; begin < num_elements; begin += kScanElements) {
    const std::size_t end = std::min(begin + kScanElements, num_elements);
    Bits largest = 0;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, magnitude(i));
    if (largest < kInfinity) continue;
    std::size_t i = begin;
    while (magnitude(i) < kInfinity) ++i;
    return static_cast<std::int64_t>(i);
  }
  return -1;
}

}  // namespace

std::size_t StoredTypeBytes(StoredType type) {
  return type == StoredType::kBf16 || type == StoredType::kF16 ? 2 : 4;
}

const char* StoredTypeName(StoredType type) {
  switch (type) {
    case StoredType::kBf16:
      return "BF16";
    case StoredType::kF16:
      return "F16";
    case StoredType::kF32:
      return "F32";
    case StoredType::kI32:
      return "I32";
  }
  GOLDFINCH_CHECK(false);
}

std::string ShapeToString(std::span<const std::int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

void CopyToF32(const StoredTensor& tensor, std::span<float> out) {
  GOLDFINCH_CHECK(static_cast<std::int64_t>(out.size()) == tensor.num_elements());
  switch (tensor.type) {
    case StoredType::kBf16:
      return Widen<Bf16ToF32Bits>(tensor, out);
    case StoredType::kF16:
      return Widen<F16ToF32Bits>(tensor, out);
    case StoredType::kF32:
      if (!out.empty()) std::memcpy(out.data(), tensor.data, tensor.size);
      return;
    case StoredType::kI32:
      break;
  }
  GOLDFINCH_CHECK(tensor.type != StoredType::kI32);
}

void CopyToI32(const StoredTensor& tensor, std::span<std::int32_t> out) {
  GOLDFINCH_CHECK(tensor.type == StoredType::kI32);
  GOLDFINCH_CHECK(static_cast<std::int64_t>(out.size()) == tensor.num_elements());
  if (!out.empty()) std::memcpy(out.data(), tensor.data, tensor.size);
}

std::int64_t FirstNonFinite(const StoredTensor& tensor) {
  const auto num_elements = static_cast<std::size_t>(tensor.num_elements());
  switch (tensor.type) {
    case StoredType::kBf16:
      return FindNonFinite<std::int16_t, 0x7f80>(tensor.data, num_elements);
    case StoredType::kF16:
      return FindNonFinite<std::int16_t, 0x7c00>(tensor.data, num_elements);
    case StoredType::kF32:
      return FindNonFinite<std::int32_t, 0x7f800000>(tensor.data, num_elements);
    case StoredType::kI32:
      break;
  }
  GOLDFINCH_CHECK(tensor.type != StoredType::kI32);
  return -1;
}

}  // namespace goldfinch
