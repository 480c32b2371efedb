// The server's log: one JSON object a line, to stderr, with time (UTC), level, and either
// a message or the fields of an event.
//
// Lines carry lengths, ids and statuses, never text, tokens or keys: whoever reads the
// log must not learn what was asked or answered.
//
// A thin front so that the logging library's headers are compiled once.
//
// Threads: any.
#pragma once

#include <string>
#include <string_view>

namespace goldfinch {

// "debug", "info", "warning", "error" or "off"; false for anything else.
bool SetLogLevel(std::string_view level);
std::string LogLevel();

void LogDebug(std::string_view line);
void LogInfo(std::string_view line);
void LogWarning(std::string_view line);
void LogError(std::string_view line);
// At level info: an event as a JSON object, whose members join time and level.
void LogFields(std::string_view object);

}  // namespace goldfinch
