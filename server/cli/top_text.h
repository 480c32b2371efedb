// Numbers as `goldfinch top` writes them; "-" for one that is not there or is no number.
// Any double is safe.
//
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace goldfinch {

std::string CountText(std::optional<double> value);    // "1024"
std::string RateText(std::optional<double> value);     // "3.2", "1024"
std::string BytesText(std::optional<double> value);    // "12.5 MiB"
std::string SecondsText(std::optional<double> value);  // "12.3 ms", "4.56 s"
std::string AgeText(std::optional<double> seconds);  // "59s", "2m05s", "3h07m", "12d04h"
std::string ShareText(std::optional<double> part, std::optional<double> whole);  // "98%"

// With ? for whatever is not printable ASCII: a terminal takes the rest for commands.
std::string Printable(absl::string_view text);

}  // namespace goldfinch
