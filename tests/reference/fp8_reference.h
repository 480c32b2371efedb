// e4m3 of OFP8 from its definition: what each code is worth, and which code is nearest to
// a value by looking at all of them. Slow, and with nothing to go wrong.
#pragma once

#include <cmath>
#include <limits>

namespace goldfinch::reference {

// Codes are sign, exponent and mantissa, s eeee mmm: (-1)^s 2^(e - 7) (1 + m / 8), or with
// e = 0 (-1)^s 2^-6 m / 8. e = 15 with m = 7 is NaN.
inline double Fp8Value(int code) {
  const int exponent = code / 8 % 16, mantissa = code % 8;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double magnitude = exponent == 0
                               ? std::ldexp(mantissa / 8.0, -6)
                               : std::ldexp(1.0 + mantissa / 8.0, exponent - 7);
  return code >= 128 ? -magnitude : magnitude;
}

// Halfway the even code; beyond the largest the largest.
inline int NearestFp8(double value) {
  const int sign = std::signbit(value) ? 128 : 0;
  const double magnitude = std::abs(value);
  int nearest = 0;
  for (int code = 1; code < 127; ++code) {
    const double now = std::abs(Fp8Value(code) - magnitude);
    const double best = std::abs(Fp8Value(nearest) - magnitude);
    if (now < best || (now == best && code % 2 == 0)) nearest = code;
  }
  return sign + nearest;
}

}  // namespace goldfinch::reference
