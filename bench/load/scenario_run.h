// Runs a scenario against a server.
//
// Threads: one calls.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/load/scenario.h"
#include "bench/load/tally.h"
#include "server/cli/commands.h"

namespace goldfinch {

struct ScenarioResult {
  double window_seconds = 0;
  std::vector<TenantResult> tenants;  // as in the scenario
  std::vector<TenantResult> groups;   // by name
};

// A few words for who waits or follows.
using TellProgress = std::function<void(const char* what)>;

// `connection` says where and how; keys are the scenario's. Tells when the window begins
// and when it ends. An error when a key cannot be sent, or nobody answers.
absl::StatusOr<ScenarioResult> RunScenario(const Scenario& scenario,
                                           const ConnectionFlags& connection,
                                           const TellProgress& tell);

}  // namespace goldfinch
