#include "server/metrics_process.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/metric_families.h"

namespace goldfinch {
namespace {

std::string ReadAll(const char* path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// proc(5) counts fields of /proc/self/stat from 1. The second one, the program's name in
// brackets, may hold anything; the third one follows the last bracket.
constexpr std::size_t kFirstField = 3;
constexpr std::size_t kUserTicks = 14, kSystemTicks = 15, kStartTicks = 22;
constexpr std::size_t kVirtualBytes = 23, kResidentPages = 24;

class Stat {
 public:
  Stat() {
    const std::string text = ReadAll("/proc/self/stat");
    const std::size_t bracket = text.rfind(')');
    if (bracket == std::string::npos) return;
    fields_ = absl::StrSplit(absl::string_view(text).substr(bracket + 1), ' ',
                             absl::SkipWhitespace());
  }
  std::optional<double> Get(std::size_t field) const {
    double value = 0;
    if (field - kFirstField >= fields_.size() ||
        !absl::SimpleAtod(fields_[field - kFirstField], &value))
      return std::nullopt;
    return value;
  }

 private:
  std::vector<std::string> fields_;
};

// Seconds since the epoch at which the machine started.
std::optional<double> BootTime() {
  const std::string text = ReadAll("/proc/stat");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds))
      return seconds;
  }
  return std::nullopt;
}

std::optional<double> OpenDescriptors() {
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc/self/fd", error);
  double count = 0;
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    ++count;
  if (error) return std::nullopt;
  return count - 1;  // the one that the loop itself reads from
}

std::optional<double> DescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return std::nullopt;
  return static_cast<double>(limit.rlim_cur);
}

}  // namespace

void CollectProcess(std::vector<prometheus::MetricFamily>& families) {
  const auto add = [&families](prometheus::MetricFamily family,
                               std::optional<double> value) {
    if (value.has_value()) AddOne(families, std::move(family), *value);
  };
  const Stat stat;
  const auto scaled = [&stat](std::size_t field, double unit) -> std::optional<double> {
    const std::optional<double> value = stat.Get(field);
    if (!value.has_value()) return std::nullopt;
    return *value * unit;
  };
  const auto sum = [](std::optional<double> a,
                      std::optional<double> b) -> std::optional<double> {
    if (!a.has_value() || !b.has_value()) return std::nullopt;
    return *a + *b;
  };
  const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));

  add(Counters("process_cpu_seconds_total", "Processor time, in user and system mode"),
      sum(scaled(kUserTicks, tick), scaled(kSystemTicks, tick)));
  add(Gauges("process_resident_memory_bytes", "Memory of the process that is in RAM"),
      scaled(kResidentPages, page));
  add(Gauges("process_virtual_memory_bytes", "Address space of the process"),
      stat.Get(kVirtualBytes));
  add(Gauges("process_open_fds", "Open file descriptors"), OpenDescriptors());
  add(Gauges("process_max_fds", "File descriptors that may be open"), DescriptorLimit());
  add(Gauges("process_start_time_seconds", "When the process started, since 1970"),
      sum(BootTime(), scaled(kStartTicks, tick)));
}

}  // namespace goldfinch
