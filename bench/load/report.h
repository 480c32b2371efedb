// What goldfinch-load prints: tables for people, one JSON object for programs. Keys are
// in neither.
//
// Threads: pure functions.
#pragma once

#include <string>

#include "bench/load/connections.h"
#include "bench/load/scenario_run.h"

namespace goldfinch {

std::string ReportText(const ScenarioResult& result);
std::string ReportJson(const ScenarioResult& result);

std::string ReportText(const ConnectionsResult& result);
std::string ReportJson(const ConnectionsResult& result);

}  // namespace goldfinch
