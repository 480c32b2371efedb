// A tensor as a file stores it: a view of little-endian bytes, and the ways to read it.
//
// The bytes have no alignment (a header of odd length in front of them shifts them
// all), so elements are read by memcpy or by the functions below, never through a cast
// pointer.
//
// Threads: constant; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace goldfinch {

enum class StoredType { kBf16, kF16, kF32, kI32 };

// Bytes of one element, and the name the format gives the type ("BF16").
std::size_t StoredTypeBytes(StoredType type);
const char* StoredTypeName(StoredType type);

// "[128, 64]".
std::string ShapeToString(std::span<const std::int64_t> shape);

// Valid while the file it was read from is open.
struct StoredTensor {
  StoredType type = StoredType::kF32;
  std::vector<std::int64_t> shape = {};  // row-major; empty: a scalar
  const std::byte* data = nullptr;       // little-endian, not aligned
  std::size_t size = 0;                  // bytes

  std::int64_t num_elements() const {
    return static_cast<std::int64_t>(size / StoredTypeBytes(type));
  }
};

// Every element as float32, exactly; subnormals, infinities and NaN payloads included.
// `out` has num_elements() places; the type is not kI32.
void CopyToF32(const StoredTensor& tensor, std::span<float> out);

// The elements of a kI32 tensor.
void CopyToI32(const StoredTensor& tensor, std::span<std::int32_t> out);

// Index of the first NaN or infinity in a tensor of floating point, or -1.
std::int64_t FirstNonFinite(const StoredTensor& tensor);

}  // namespace goldfinch
