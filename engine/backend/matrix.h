// Views of device memory that ops take. They own nothing and know nothing of sizes
// beyond their own.
#pragma once

#include <cstdint>

namespace goldfinch {

// kFp8 is e4m3; weights alone are kept in it.
enum class DType : std::uint8_t { kF32, kBf16, kI8, kFp8 };

// An element of kFp8: sign, four bits of exponent with bias 7, three of mantissa. The two
// codes of NaN do not occur.
struct Fp8 {
  std::uint8_t bits;
};

constexpr std::int64_t SizeOf(DType type) {
  return type == DType::kF32 ? 4 : type == DType::kBf16 ? 2 : 1;
}
// Weights kept in one byte each have a scale an output.
constexpr bool IsScaled(DType type) { return SizeOf(type) == 1; }

// Row-major [rows, cols]; element (i, j) is at data[i * stride + j].
struct Matrix {
  void* data = nullptr;
  DType type = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;  // elements

  float* f32(std::int64_t row) const { return static_cast<float*>(data) + row * stride; }
  std::uint16_t* bf16(std::int64_t row) const {
    return static_cast<std::uint16_t*>(data) + row * stride;
  }

  std::int8_t* i8(std::int64_t row) const {
    return static_cast<std::int8_t*>(data) + row * stride;
  }

  // The first `count` rows.
  Matrix Rows(std::int64_t count) const {
    Matrix m = *this;
    m.rows = count;
    return m;
  }

  // Rows [begin, begin + count).
  Matrix RowsFrom(std::int64_t begin, std::int64_t count) const {
    Matrix m = Rows(count);
    m.data = static_cast<char*>(data) + begin * stride * SizeOf(type);
    return m;
  }

  // Columns [begin, begin + count) of every row.
  Matrix Cols(std::int64_t begin, std::int64_t count) const {
    Matrix m = *this;
    m.data = static_cast<char*>(data) + begin * SizeOf(type);
    m.cols = count;
    return m;
  }
};

}  // namespace goldfinch
