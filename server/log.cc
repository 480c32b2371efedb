#include "server/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

namespace goldfinch {
namespace {

// Looked up by name each time, so that a test can put its own sink there.
constexpr char kLoggerName[] = "goldfinch";

std::shared_ptr<spdlog::logger> Logger() {
  static const std::shared_ptr<spdlog::logger> fallback = [] {
    std::shared_ptr<spdlog::logger> logger = spdlog::get(kLoggerName);
    if (logger == nullptr) logger = spdlog::stderr_logger_mt(kLoggerName);
    return logger;
  }();
  std::shared_ptr<spdlog::logger> logger = spdlog::get(kLoggerName);
  return logger != nullptr ? logger : fallback;
}

void Log(spdlog::level::level_enum level, std::string_view line) {
  // The line is an argument and never a format: it may hold braces.
  Logger()->log(level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

bool SetLogLevel(std::string_view level) {
  const spdlog::level::level_enum parsed = spdlog::level::from_str(std::string(level));
  // from_str answers "off" to what it does not know.
  if (parsed == spdlog::level::off && level != "off") return false;
  Logger()->set_level(parsed);
  return true;
}

void LogDebug(std::string_view line) { Log(spdlog::level::debug, line); }
void LogInfo(std::string_view line) { Log(spdlog::level::info, line); }
void LogWarning(std::string_view line) { Log(spdlog::level::warn, line); }
void LogError(std::string_view line) { Log(spdlog::level::err, line); }

}  // namespace goldfinch
