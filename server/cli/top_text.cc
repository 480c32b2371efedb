#include "server/cli/top_text.h"

#include <cmath>
#include <cstddef>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace goldfinch {
namespace {

constexpr char kNothing[] = "-";

// Above it a number is written with an exponent, not with hundreds of digits.
constexpr double kManyDigits = 1e15;

bool Is(std::optional<double> value) {
  return value.has_value() && std::isfinite(*value);
}

}  // namespace

std::string CountText(std::optional<double> value) {
  if (!Is(value)) return kNothing;
  if (std::abs(*value) >= kManyDigits) return absl::StrFormat("%.3e", *value);
  return absl::StrFormat("%.0f", *value);
}

std::string RateText(std::optional<double> value) {
  if (!Is(value)) return kNothing;
  if (std::abs(*value) < 99.95) return absl::StrFormat("%.1f", *value);
  return CountText(value);
}

std::string BytesText(std::optional<double> value) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (!Is(value)) return kNothing;
  std::size_t unit = 0;
  double left = *value;
  for (; std::abs(left) >= 1023.95 && unit + 1 < std::size(kUnits); ++unit) left /= 1024;
  if (unit == 0) return absl::StrFormat("%.0f B", left);
  const bool many = std::abs(left) >= kManyDigits;
  return (many ? CountText(left) : absl::StrFormat("%.1f", left)) + " " + kUnits[unit];
}

std::string SecondsText(std::optional<double> value) {
  if (!Is(value)) return kNothing;
  if (std::abs(*value) >= kManyDigits) return absl::StrFormat("%.3e s", *value);
  if (*value >= 0.9995) return absl::StrFormat("%.2f s", *value);
  if (*value >= 0.0095) return absl::StrFormat("%.1f ms", *value * 1e3);
  return absl::StrFormat("%.2f ms", *value * 1e3);
}

std::string AgeText(std::optional<double> seconds) {
  if (!Is(seconds) || std::abs(*seconds) >= kManyDigits) return kNothing;
  const auto all = static_cast<long long>(*seconds > 0 ? *seconds : 0);
  if (all < 60) return absl::StrFormat("%ds", all);
  if (all < 3600) return absl::StrFormat("%dm%02ds", all / 60, all % 60);
  if (all < 86400) return absl::StrFormat("%dh%02dm", all / 3600, all % 3600 / 60);
  return absl::StrFormat("%dd%02dh", all / 86400, all % 86400 / 3600);
}

std::string ShareText(std::optional<double> part, std::optional<double> whole) {
  if (!Is(part) || !Is(whole) || !(*whole > 0)) return kNothing;
  const double share = 100 * *part / *whole;
  return Is(share) ? CountText(share) + "%" : kNothing;
}

std::string Printable(absl::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return result;
}

}  // namespace goldfinch
