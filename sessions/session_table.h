// The sessions a server holds in memory: plain bookkeeping, without stores, threads or
// requests. By tenant and id: what one tenant looks for under an id is not in the way of
// the tenant whose session it is.
//
// Threads: under the owner's lock, but for a session's id and tenant.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/clock.h"
#include "scheduler/kept_prefix.h"
#include "scheduler/scheduler.h"
#include "sessions/snapshot.h"
#include "sessions/store.h"

namespace goldfinch {

struct HeldSession {
  HeldSession(std::string of_tenant, std::string its_id)
      : id(std::move(its_id)), tenant(std::move(of_tenant)) {}

  const std::string id;
  const std::string tenant;
  std::shared_ptr<KeptPrefix> kept;  // null while it is being loaded
  std::shared_ptr<const Turn> turn;  // the last one, if any
  std::optional<Claim> claim;
  std::uint64_t generation = 0;   // of the snapshot that is stored; 0: none
  std::uint64_t attempted = 0;    // highest that was tried: it may be stored as well
  std::int64_t stored_bytes = 0;  // of that snapshot
  bool numerics_changed = false;
  // A delete failed, or was done and its answer lost: another may have the session by
  // now, or nobody. It is claimed anew before it is used.
  bool claim_in_doubt = false;
  bool busy = false;                 // one call uses it
  bool doomed = false;               // to be deleted by whoever makes it busy no more
  bool disowned = false;             // only a name, while a claim on it is given up
  bool takes_place = true;           // false: only a name, of one that will not be here
  int parking = 0;                   // snapshots of it that are under way
  bool resting = false;              // was told to move to host memory since its last use
  std::optional<RequestId> request;  // that runs on it
  TimePoint last_used;
  std::chrono::steady_clock::time_point retry_park;  // after a failure

  std::int64_t counted_bytes = 0;  // of these, in the table's sum

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
  SessionPtr Find(const std::string& tenant, const std::string& id) const;
  void Add(SessionPtr session);
  // No more than this very one: another may have come under its id.
  bool Remove(const SessionPtr& session);

  // Of those that take a place, which limits are of; names come and go as calls do.
  std::int64_t NumOf(const std::string& tenant) const;
  std::int64_t num_places() const { return num_places_; }
  // In a time that grows with their number.
  std::int64_t HostBytesOf(const std::string& tenant) const;

  std::int64_t size() const { return std::ssize(sessions_); }
  std::vector<SessionPtr> All() const;
  std::vector<SessionPtr> AllOf(const std::string& tenant) const;
  // Up to `limit` of `tenant` that are not just being loaded, with ids above `after`,
  // ascending.
  std::vector<SessionPtr> LoadedAfter(const std::string& tenant, const std::string& after,
                                      std::size_t limit) const;

  // Host memory of all. It is exact after CountAll, which counts what several have in
  // common once and takes a time that grows with their number. Between two of those it
  // follows what is added, removed and counted anew, each for itself.
  std::int64_t host_bytes() const { return host_bytes_; }
  bool exact() const { return exact_; }  // nothing has come or gone since CountAll
  std::int64_t CountAll();
  // After it has become another value.
  void Count(const SessionPtr& session);

 private:
  // It comes (1) or goes (-1).
  void CountPlace(const HeldSession& session, std::int64_t sign);
  void SetCounted(HeldSession& session, std::int64_t bytes) {
    host_bytes_ += bytes - session.counted_bytes;
    session.counted_bytes = bytes;
    exact_ = false;
  }

  std::map<std::pair<std::string, std::string>, SessionPtr> sessions_;  // by tenant, id
  std::map<std::string, std::int64_t> num_of_;                          // none is 0
  std::int64_t num_places_ = 0;                                         // their sum
  std::int64_t host_bytes_ = 0;  // the sum of counted_bytes
  bool exact_ = true;
};

}  // namespace goldfinch
