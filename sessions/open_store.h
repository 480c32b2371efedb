// A session store from what an operator names it.
//
// Threads: a pure function.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "sessions/store.h"

namespace goldfinch {

struct StoreOptions {
  std::chrono::seconds lease{30};
  std::chrono::seconds time_to_live{0};  // of what is parked; 0: for ever
};

// In the environment: the password for a URL that has none. Who can see the processes of
// a machine sees their command lines.
inline constexpr const char* kRedisPasswordVariable = "GOLDFINCH_REDIS_PASSWORD";

// `name` is a directory, redis://[:PASSWORD@]HOST[:PORT][/DATABASE] or unix://PATH of a
// Redis. INVALID_ARGUMENT for what is none of them; else what opening it says.
absl::StatusOr<std::unique_ptr<SnapshotStore>> OpenStore(const std::string& name,
                                                         const StoreOptions& options);

}  // namespace goldfinch
