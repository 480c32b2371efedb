#include "server/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace goldfinch {
namespace {

// A test may register one of this name with a sink of its own.
constexpr char kLoggerName[] = "goldfinch";

std::shared_ptr<spdlog::logger> MakeLogger() {
  auto logger = std::make_shared<spdlog::logger>(
      kLoggerName, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})",
                      spdlog::pattern_time_type::utc);
  return logger;
}

std::shared_ptr<spdlog::logger> Logger() {
  static const std::shared_ptr<spdlog::logger> own = MakeLogger();
  std::shared_ptr<spdlog::logger> registered = spdlog::get(kLoggerName);
  return registered != nullptr ? registered : own;
}

// The members of a JSON object, without its braces.
void LogMembers(spdlog::level::level_enum level, std::string_view members) {
  // An argument and never a format: it may hold braces.
  Logger()->log(level, spdlog::string_view_t(members.data(), members.size()));
}

void Log(spdlog::level::level_enum level, std::string_view line) {
  if (!Logger()->should_log(level)) return;
  const nlohmann::json message(line);
  LogMembers(level, "\"message\":" + message.dump(-1, ' ', /*ensure_ascii=*/true,
                                                  nlohmann::json::error_handler_t::replace));
}

}  // namespace

bool SetLogLevel(std::string_view level) {
  const spdlog::level::level_enum parsed = spdlog::level::from_str(std::string(level));
  // from_str answers "off" to what it does not know.
  if (parsed == spdlog::level::off && level != "off") return false;
  Logger()->set_level(parsed);
  return true;
}

std::string LogLevel() {
  const spdlog::string_view_t name = spdlog::level::to_string_view(Logger()->level());
  return std::string(name.data(), name.size());
}

void LogDebug(std::string_view line) { Log(spdlog::level::debug, line); }
void LogInfo(std::string_view line) { Log(spdlog::level::info, line); }
void LogWarning(std::string_view line) { Log(spdlog::level::warn, line); }
void LogError(std::string_view line) { Log(spdlog::level::err, line); }

void LogFields(std::string_view object) {
  LogMembers(spdlog::level::info, object.substr(1, object.size() - 2));
}

}  // namespace goldfinch
