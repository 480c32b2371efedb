// The sessions a server holds in memory: plain bookkeeping, without stores, threads or
// requests.
//
// Threads: under the owner's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/clock.h"
#include "scheduler/kept_prefix.h"
#include "scheduler/scheduler.h"
#include "sessions/snapshot.h"
#include "sessions/store.h"

namespace goldfinch {

struct HeldSession {
  std::string id;
  std::string tenant;
  std::shared_ptr<KeptPrefix> kept;  // null while it is being loaded
  std::shared_ptr<const Turn> turn;  // the last one, if any
  std::optional<Claim> claim;
  std::uint64_t generation = 0;  // of the snapshot that is stored; 0: none
  std::uint64_t attempted = 0;   // highest that was tried: it may be stored as well
  bool numerics_changed = false;
  bool busy = false;                 // one call uses it
  bool parking = false;              // a snapshot is under way beside calls
  bool resting = false;              // was told to move to host memory since its last use
  std::optional<RequestId> request;  // that runs on it
  TimePoint last_used;
  std::chrono::steady_clock::time_point retry_park;  // after a failure

  // Host memory; 0 while it is being loaded.
  std::int64_t host_bytes() const {
    const std::int64_t told = turn == nullptr ? 0 : turn->host_bytes();
    return kept == nullptr ? 0 : kept->host_bytes() + told;
  }
};

using SessionPtr = std::shared_ptr<HeldSession>;

class SessionTable {
 public:
  // Null when it is not here.
  SessionPtr Find(const std::string& id) const;
  // NOT_FOUND for none and for another tenant's alike; null when it is not here.
  absl::StatusOr<SessionPtr> FindFor(const std::string& tenant,
                                     const std::string& id) const;
  void Add(SessionPtr session);
  // No more than this very one: another may have come under its id.
  bool Remove(const SessionPtr& session);

  // One tenant's; in a time that grows with its own.
  struct Holding {
    std::int64_t sessions = 0;
    std::int64_t host_bytes = 0;
  };
  Holding HoldingOf(const std::string& tenant) const;

  std::int64_t size() const { return std::ssize(sessions_); }
  std::vector<SessionPtr> All() const;
  // Up to `limit` of `tenant`, with ids above `after`, ascending.
  std::vector<SessionPtr> After(const std::string& tenant, const std::string& after,
                                std::size_t limit) const;

  // Host memory; what several have in common counts once.
  std::int64_t HostBytes() const;

 private:
  std::map<std::string, SessionPtr> sessions_;
  // The same by (tenant, id).
  std::map<std::pair<std::string, std::string>, SessionPtr> by_tenant_;
};

}  // namespace goldfinch
