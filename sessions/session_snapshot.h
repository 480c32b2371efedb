// A session's history and state to a snapshot and back, checked against this engine.
//
// Threads: pure functions; any.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "scheduler/kept_prefix.h"
#include "sessions/snapshot.h"

namespace goldfinch {

// What a snapshot carries beside history and state.
struct SessionIdentity {
  std::string tenant;
  std::string id;
  std::uint64_t generation = 0;
};

// `image` is that of `kept`; null when nothing of it has run.
Snapshot MakeSnapshot(const SessionIdentity& identity, const EngineInfo& engine,
                      const KeptPrefix& kept, std::shared_ptr<const PrefixImage> image,
                      const Turn* turn);

struct RestoredSession {
  std::shared_ptr<KeptPrefix> kept;  // in host memory
  std::shared_ptr<const Turn> turn;  // null: none
  bool numerics_changed = false;
};

// FAILED_PRECONDITION for a snapshot of another model or another type of cache; DATA_LOSS
// for one that no server of ours can have made.
absl::StatusOr<RestoredSession> RestoreSession(Snapshot snapshot, const Engine& engine);

}  // namespace goldfinch
