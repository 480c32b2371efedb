// Rounding to e4m3 against the nearest of all its values.
#include "engine/backend/fp8.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"
#include "tests/reference/fp8_reference.h"

namespace goldfinch {
namespace {

using reference::Fp8Value;
using reference::NearestFp8;

TEST(Fp8Test, TheReferenceHasTheFormatsLandmarks) {
  EXPECT_EQ(Fp8Value(0x00), 0.0);
  EXPECT_EQ(Fp8Value(0x01), 0x1p-9);
  EXPECT_EQ(Fp8Value(0x07), 0.875 * 0x1p-6);
  EXPECT_EQ(Fp8Value(0x08), 0x1p-6);
  EXPECT_EQ(Fp8Value(0x38), 1.0);
  EXPECT_EQ(Fp8Value(0x7e), 448.0);
  EXPECT_EQ(Fp8Value(0xfe), -448.0);
  EXPECT_TRUE(std::isnan(Fp8Value(0x7f)) && std::isnan(Fp8Value(0xff)));
}

TEST(Fp8Test, EveryValueIsItself) {
  for (int code = 0; code < 256; ++code) {
    if (std::isnan(Fp8Value(code))) continue;
    EXPECT_EQ(RoundToFp8(static_cast<float>(Fp8Value(code))), code);
  }
}

// The float32 numbers around each boundary between two values, and the boundary.
TEST(Fp8Test, BetweenValuesTheNearestIsTakenAndHalfwayTheEven) {
  for (int code = 0; code < 126; ++code) {
    const double middle = (Fp8Value(code) + Fp8Value(code + 1)) / 2;
    const auto at = static_cast<float>(middle);
    ASSERT_EQ(double{at}, middle);
    for (const float value : {std::nextafter(at, 0.0f), at, std::nextafter(at, 1e9f)})
      for (const float signed_value : {value, -value})
        EXPECT_EQ(RoundToFp8(signed_value), NearestFp8(double{signed_value}))
            << signed_value;
  }
}

TEST(Fp8Test, BeyondTheLargestIsTheLargest) {
  for (const float value : {448.5f, 463.9f, 464.0f, 480.0f, 1e6f, 3e38f}) {
    EXPECT_EQ(RoundToFp8(value), 0x7e);
    EXPECT_EQ(RoundToFp8(-value), 0xfe);
  }
}

TEST(Fp8Test, RandomFloatsGoToTheNearestValue) {
  std::mt19937 random(1);
  for (int i = 0; i < 200'000; ++i) {
    // Any exponent from far below the smallest value to above the largest.
    const auto bits = static_cast<std::uint32_t>((random() & 0x807fffffu) |
                                                 (100u + random() % 40u) << 23);
    const auto value = std::bit_cast<float>(bits);
    ASSERT_EQ(RoundToFp8(value), NearestFp8(double{value})) << value;
  }
  EXPECT_EQ(RoundToFp8(1e-44f), 0x00);
  EXPECT_EQ(RoundToFp8(-1e-44f), 0x80);
}

}  // namespace
}  // namespace goldfinch
