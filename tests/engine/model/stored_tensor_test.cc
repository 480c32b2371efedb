// Reading stored elements: exact for every bit pattern, at every alignment.
#include "engine/model/stored_tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {
namespace {

constexpr std::uint32_t kNumPatterns = 1u << 16;

// The value of 1 sign, `exponent_bits` and the rest fraction bits, from its definition.
// Not for NaN.
float ValueOf(std::uint32_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int largest = (1 << exponent_bits) - 1;
  const int bias = largest / 2;
  const int exponent = static_cast<int>(bits >> fraction_bits) & largest;
  const int fraction = static_cast<int>(bits) & ((1 << fraction_bits) - 1);
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  if (exponent == largest) {
    return static_cast<float>(sign * std::numeric_limits<double>::infinity());
  }
  const int with_leading_one = exponent == 0 ? fraction : fraction + (1 << fraction_bits);
  return static_cast<float>(
      sign * std::ldexp(with_leading_one, std::max(exponent, 1) - bias - fraction_bits));
}

bool IsNan(std::uint32_t bits, int exponent_bits) {
  const std::uint32_t infinity = ((1u << exponent_bits) - 1) << (15 - exponent_bits);
  return (bits & 0x7fffu) > infinity;
}

// All 65536 patterns in one tensor that starts `shift` bytes off.
std::vector<float> ConvertAllPatterns(StoredType type, std::size_t shift) {
  std::string bytes(shift, '\0');
  for (std::uint32_t pattern = 0; pattern < kNumPatterns; ++pattern) {
    bytes.push_back(static_cast<char>(pattern & 0xff));
    bytes.push_back(static_cast<char>(pattern >> 8));
  }
  const TensorToWrite whole{.name = "", .type = type, .bytes = bytes};
  StoredTensor tensor = ViewOf(whole);
  tensor.data += shift;
  tensor.size -= shift;
  std::vector<float> values(kNumPatterns);
  CopyToF32(tensor, values);
  return values;
}

void ExpectAllPatterns(StoredType type, int exponent_bits) {
  for (const std::size_t shift : {0, 1, 3}) {
    const std::vector<float> values = ConvertAllPatterns(type, shift);
    for (std::uint32_t pattern = 0; pattern < kNumPatterns; ++pattern) {
      const auto bits = std::bit_cast<std::uint32_t>(values[pattern]);
      if (!IsNan(pattern, exponent_bits)) {
        ASSERT_EQ(bits, std::bit_cast<std::uint32_t>(ValueOf(pattern, exponent_bits)))
            << "pattern " << pattern;
        continue;
      }
      const std::uint32_t fraction_mask = (1u << (15 - exponent_bits)) - 1;
      ASSERT_TRUE(std::isnan(values[pattern])) << "pattern " << pattern;
      ASSERT_EQ(bits >> 31, pattern >> 15) << "sign of pattern " << pattern;
      ASSERT_EQ(bits & 0x7fffffu, (pattern & fraction_mask) << (8 + exponent_bits))
          << "payload of pattern " << pattern;
    }
  }
}

TEST(StoredTensorTest, EveryBf16PatternConvertsExactly) {
  ExpectAllPatterns(StoredType::kBf16, 8);
}

TEST(StoredTensorTest, EveryF16PatternConvertsExactly) {
  ExpectAllPatterns(StoredType::kF16, 5);
}

TEST(StoredTensorTest, F32AndI32AreCopiedFromAnyAlignment) {
  const std::vector<float> floats = {1.5f, -0.0f, 1e-42f, -3e38f};
  const std::vector<std::int32_t> ints = {0, -1, 1 << 30, -2147483647};
  for (std::size_t shift = 0; shift < 8; ++shift) {
    const std::string prefix(shift, 'x');
    const TensorToWrite f32{.name = "",
                            .type = StoredType::kF32,
                            .bytes = prefix + EncodeFloats(StoredType::kF32, floats)};
    const TensorToWrite i32{
        .name = "", .type = StoredType::kI32, .bytes = prefix + EncodeInts(ints)};
    StoredTensor view = ViewOf(f32);
    view.data += shift;
    view.size -= shift;
    std::vector<float> read_floats(floats.size());
    CopyToF32(view, read_floats);
    EXPECT_EQ(std::memcmp(read_floats.data(), floats.data(), view.size), 0);
    view.data = ViewOf(i32).data + shift;
    view.type = StoredType::kI32;
    std::vector<std::int32_t> read_ints(ints.size());
    CopyToI32(view, read_ints);
    EXPECT_EQ(read_ints, ints);
  }
}

// Bits of NaN, infinities and the largest finite value of a type.
struct Extremes {
  StoredType type;
  std::vector<std::uint32_t> non_finite;
  std::vector<std::uint32_t> finite;
};

const Extremes kExtremes[] = {
    {StoredType::kBf16, {0x7f80, 0xff80, 0x7f81, 0xffff}, {0x7f7f, 0xff7f, 0x8000}},
    {StoredType::kF16, {0x7c00, 0xfc00, 0x7c01, 0xffff}, {0x7bff, 0xfbff, 0x8000}},
    {StoredType::kF32,
     {0x7f800000, 0xff800000, 0x7f800001, 0xffffffff},
     {0x7f7fffff, 0xff7fffff, 0x80000000}},
};

TEST(StoredTensorTest, TheFirstNonFiniteElementIsFoundWhereverItIs) {
  constexpr std::size_t kElements = 9001;  // two whole blocks of the scan and a rest
  for (const Extremes& extremes : kExtremes) {
    const std::size_t bytes = StoredTypeBytes(extremes.type);
    // One byte off, so that no element is aligned.
    TensorToWrite tensor{.name = "",
                         .type = extremes.type,
                         .bytes = std::string(kElements * bytes + 1, '\0')};
    const auto set = [&tensor, bytes](std::size_t element, std::uint32_t bits) {
      std::memcpy(tensor.bytes.data() + 1 + element * bytes, &bits, bytes);
    };
    const auto find = [&tensor] {
      StoredTensor view = ViewOf(tensor);
      ++view.data;
      --view.size;
      return FirstNonFinite(view);
    };
    for (std::size_t i = 0; i < kElements; ++i) {
      set(i, extremes.finite[i % extremes.finite.size()]);
    }
    EXPECT_EQ(find(), -1) << StoredTypeName(extremes.type);
    set(kElements - 1, extremes.non_finite[0]);
    for (const std::size_t element : {9000, 8999, 8192, 8191, 4096, 4095, 17, 1, 0}) {
      for (const std::uint32_t bits : extremes.non_finite) {
        set(element, bits);
        EXPECT_EQ(find(), static_cast<std::int64_t>(element))
            << StoredTypeName(extremes.type) << " " << bits;
      }
    }
  }
}

TEST(StoredTensorTest, AnEmptyTensorHasNothingToReadOrFind) {
  const StoredTensor empty{.type = StoredType::kBf16, .shape = {0, 4}};
  EXPECT_EQ(empty.num_elements(), 0);
  EXPECT_EQ(FirstNonFinite(empty), -1);
  CopyToF32(empty, {});
}

}  // namespace
}  // namespace goldfinch
