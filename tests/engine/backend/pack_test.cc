// Pack, seen through Gemm: rows of the identity read the packed weights back, exactly.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/bf16.h"
#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBf16};
constexpr StoredType kStored[] = {StoredType::kF32, StoredType::kBf16, StoredType::kF16};

// IEEE half of a value that one holds exactly: a multiple of 2^-10 below 2, or the
// smallest normal or subnormal.
std::uint16_t ExactHalf(double value) {
  const std::uint16_t sign = value < 0 ? 0x8000 : 0;
  const double magnitude = std::abs(value);
  if (magnitude < 0x1p-14)
    return static_cast<std::uint16_t>(sign | static_cast<int>(magnitude * 0x1p24));
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  const int bits = static_cast<int>((fraction * 2 - 1) * 1024);
  return static_cast<std::uint16_t>(sign | ((exponent + 14) << 10) | bits);
}

// Weights that all three stored types hold exactly, and bf16 as well.
Grid Weights(std::int64_t out, std::int64_t in) {
  const double few[] = {0.0, 1.0, -1.5, 0.375, -0x1p-14, 0x1p-24, 1.9921875, -0x1p-20};
  Grid w(out, in);
  for (std::int64_t i = 0; i < out; ++i)
    for (std::int64_t j = 0; j < in; ++j) w(i, j) = few[(i * 31 + j * 7 + i * j) % 8];
  return w;
}

void Append(double value, StoredType type, std::vector<std::byte>& bytes) {
  const auto f32 = static_cast<float>(value);
  const std::uint16_t half =
      type == StoredType::kF16 ? ExactHalf(value) : RoundToBf16(f32);
  const void* from = type == StoredType::kF32 ? static_cast<const void*>(&f32) : &half;
  const auto* begin = static_cast<const std::byte*>(from);
  bytes.insert(bytes.end(), begin, begin + StoredTypeBytes(type));
}

// Weights as a file would hold them, after `shift` bytes of something else. Transposed
// ones are [in, out].
struct Stored {
  Stored(const Grid& w, StoredType type, bool transposed, std::size_t shift)
      : bytes(shift, std::byte{0x5a}) {
    const std::int64_t rows = transposed ? w.cols() : w.rows();
    const std::int64_t cols = transposed ? w.rows() : w.cols();
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        Append(transposed ? w(j, i) : w(i, j), type, bytes);
    matrix = {.data = bytes.data() + shift,
              .stored = type,
              .rows = w.rows(),
              .cols = w.cols(),
              .row_stride = transposed ? 1 : cols,
              .col_stride = transposed ? cols : 1};
  }
  std::vector<std::byte> bytes;
  HostMatrix matrix;
};

class PackTest : public OpTest {
 protected:
  // [out, in]: the rows of the identity through Gemm.
  Grid Unpack(const PackedWeights& packed, DType type) {
    Grid identity(packed.in(), packed.in());
    for (std::int64_t i = 0; i < packed.in(); ++i) identity(i, i) = 1.0;
    const Tensor x(backend(), identity, type);
    const Tensor y(backend(), packed.in(), packed.out(), DType::kF32);
    backend().Gemm({*x, &packed, *y});
    const Grid transposed = y.Read();
    Grid w(packed.out(), packed.in());
    for (std::int64_t i = 0; i < w.rows(); ++i)
      for (std::int64_t j = 0; j < w.cols(); ++j) w(i, j) = transposed(j, i);
    return w;
  }
};

GOLDFINCH_ON_ALL_BACKENDS(PackTest);

TEST_P(PackTest, EveryStoredTypeAndStrideGivesTheSameWeights) {
  struct Shape {
    std::int64_t out, in;
  };
  for (const Shape shape : {Shape{1, 1}, Shape{33, 3}, Shape{64, 48}, Shape{130, 65}}) {
    const Grid w = Weights(shape.out, shape.in);
    for (const DType type : kTypes) {
      for (const StoredType stored : kStored) {
        for (const bool transposed : {false, true}) {
          // A header of odd length leaves the elements unaligned.
          for (const std::size_t shift : {0u, 1u, 3u}) {
            const Stored file(w, stored, transposed, shift);
            const auto packed = backend().Pack(file.matrix, type, type);
            EXPECT_EQ(packed->out(), shape.out);
            EXPECT_EQ(packed->in(), shape.in);
            ExpectClose(Unpack(*packed, type), w, Grid(shape.out, shape.in));
          }
        }
      }
    }
  }
}

TEST_P(PackTest, WiderWeightsAreRoundedToNearestEven) {
  const Grid w = RandomGrid(40, 17, 1);
  const Stored file(w, StoredType::kF32, false, 1);
  ExpectClose(
      Unpack(*backend().Pack(file.matrix, DType::kBf16, DType::kBf16), DType::kBf16),
      Rounded(w, DType::kBf16), Grid(40, 17));
}

// One of several matrices stored as one tensor, as maa_w2 is.
TEST_P(PackTest, PartOfALargerMatrixIsPackedByItsStrides) {
  const Grid all = Weights(60, 40);
  Stored file(all, StoredType::kBf16, false, 0);
  HostMatrix part = file.matrix;
  part.data += (10 * 40 + 5) * 2;
  part.rows = 33;
  part.cols = 7;
  Grid want(33, 7);
  for (std::int64_t i = 0; i < 33; ++i)
    for (std::int64_t j = 0; j < 7; ++j) want(i, j) = all(10 + i, 5 + j);
  for (const DType type : kTypes)
    ExpectClose(Unpack(*backend().Pack(part, type, type), type), want, Grid(33, 7));
}

}  // namespace
}  // namespace goldfinch
