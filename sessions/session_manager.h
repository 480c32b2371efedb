// The conversations a server holds: which there are, whose, who uses them, and where each
// of them is.
//
// A session is a kept prefix (scheduler/kept_prefix.h) with an owner and a name. Alive,
// it is on the device; resting, in host memory; parked, in the store, and then this
// server knows nothing of it. The scheduler moves between the first two; the manager
// parks what was used longest ago when memory or time says so, and brings back what is
// called for. Since the value never changes, parking goes on beside calls and never holds
// one up.
//
// With a store, this server claims what it holds (store.h), from a session's creation on,
// so that of several replicas one continues it. When the lease lapses, calls that run on
// sessions are interrupted, and each session is claimed anew before its next call; if
// another replica has written it meanwhile, what is here is stale, and what is stored
// takes its place.
//
// Invariants: one call at a time uses a session. A session is forgotten only when the
// store has acknowledged it, at its owner's request, after its time to live, or when it
// is stale. What the store refuses stays where it is. No tenant's call changes anything
// about another's session, or tells whether there is one; none is parked to make room for
// another tenant's, but for the memory and the number of the whole server.
//
// Threads: any. Callbacks run on the calling thread or on one of the manager's own, never
// under a lock; they do not block. All that is borrowed outlives the manager, whose
// destructor waits for what is under way; the scheduler still runs then.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "scheduler/clock.h"
#include "scheduler/scheduler.h"
#include "sessions/session_quota.h"
#include "sessions/session_stats.h"
#include "sessions/snapshot.h"
#include "sessions/store.h"

namespace goldfinch {

struct SessionOptions {
  // Held at once. New ones beyond it are refused; one to be loaded takes the place of the
  // one used longest ago, which is parked.
  std::int64_t max_sessions = 100000;
  // Host memory of sessions, alive ones' states included. Beyond it the ones used longest
  // ago are parked; without a store, new ones are refused.
  std::int64_t host_bytes = std::int64_t{4} << 30;
  // Of one tenant, for the store or for room; more are refused. Tenants take turns.
  std::int64_t max_waiting_calls = 1024;
  // Of what is copied out to be parked or exported, all together; one always has room.
  std::int64_t max_image_bytes = std::int64_t{1} << 30;
  // Without a call for so long, a session is moved down, or forgotten. 0: never.
  std::chrono::seconds idle_to_rest{0};
  std::chrono::seconds idle_to_park{0};
  std::chrono::seconds time_to_live{0};
  std::chrono::seconds lease{30};  // as the store's
  std::int64_t max_context_tokens = 1048576;
  std::optional<SnapshotKey> key;
  // Of one tenant; called under a lock: quick, and calls nothing of the manager. Empty:
  // no limits but those above.
  std::function<SessionQuota(const std::string& tenant)> quota_of;
  // What an operator should hear of; any thread, without locks. May be null.
  void (*warn)(const std::string& message) = nullptr;
  // The same of what is as it should be.
  void (*note)(const std::string& message) = nullptr;
};

enum class SessionPlace { kAlive, kResting, kParked };

struct SessionInfo {
  std::string id;
  SessionPlace place = SessionPlace::kParked;
  std::int64_t num_tokens = 0;
  std::int64_t bytes = 0;
  std::int64_t num_generated = 0;  // by the last generation
  bool interrupted = false;        // the last generation can be resumed
  // Not of parked ones.
  bool busy = false;
  bool numerics_changed = false;
  std::chrono::nanoseconds idle{0};
};

// One call's hold on a session: the session is busy until this is gone, or until the end
// of the request it was used for.
class SessionUse {
 public:
  virtual ~SessionUse() = default;

  // Empty until a call without a session was interrupted.
  virtual std::string id() const = 0;
  // Lets go of the session at once, if no request was accepted for it.
  virtual void Release() = 0;
  // As found; `kept` is never null, `turn` is when there was none.
  virtual const std::shared_ptr<KeptPrefix>& kept() const = 0;
  virtual const std::shared_ptr<const Turn>& turn() const = 0;
  virtual bool numerics_changed() const = 0;

  // For Request::on_end: what the request leaves becomes the session. `turn` is the
  // generation it runs, nullopt for one that generates nothing.
  virtual std::function<void(RequestEnd)> OnEnd(std::optional<Turn> turn) = 0;
  // The request, so that it can be interrupted if the lease lapses. After Submit.
  virtual void SetRequest(RequestId id) = 0;
  // The request was interrupted and left something to resume. After its end.
  virtual bool interrupted() const = 0;
};

// Bytes a snapshot may have, by the longest history there may be.
std::int64_t MaxSnapshotBytes(const EngineInfo& engine, std::int64_t max_context_tokens);

class SessionManager {
 public:
  using InfoCallback = std::function<void(absl::StatusOr<SessionInfo>)>;
  using UseCallback = std::function<void(absl::StatusOr<std::shared_ptr<SessionUse>>)>;
  using ListCallback = std::function<void(absl::StatusOr<std::vector<SessionInfo>>)>;
  using BytesCallback = std::function<void(absl::StatusOr<std::string>)>;
  using RoomCallback = std::function<absl::Status(std::int64_t bytes)>;
  using StatusCallback = std::function<void(absl::Status)>;

  // `store` may be null: sessions then live in memory only.
  SessionManager(Scheduler& scheduler, const Engine& engine, SnapshotStore* store,
                 const Clock& clock, SessionOptions options);
  ~SessionManager();
  SessionManager(const SessionManager&) = delete;
  SessionManager& operator=(const SessionManager&) = delete;

  // All methods that may wait for the store give RESOURCE_EXHAUSTED when too many calls
  // of the tenant do.

  // A new session without history, already in use. RESOURCE_EXHAUSTED when there are too
  // many, or too much memory is taken and nothing that would make room can be parked;
  // UNAVAILABLE when the store does not answer.
  void Create(std::string tenant, UseCallback done);

  // For one call. NOT_FOUND; FAILED_PRECONDITION when another call uses it; UNAVAILABLE
  // when another replica holds it or the store does not answer; RESOURCE_EXHAUSTED when
  // it has to be loaded and nothing that makes room can be parked; DATA_LOSS. All methods
  // below that name a session give these, and INVALID_ARGUMENT for what is no id.
  void Acquire(std::string tenant, std::string id, UseCallback done);

  // For a call without a session: if it is interrupted, what it left becomes one.
  std::shared_ptr<SessionUse> Anonymous(std::string tenant);

  // Parks what an interrupted request left; OK when the store has it, and whoever resumes
  // it anywhere goes on with the very next token.
  void ParkInterrupted(std::shared_ptr<SessionUse> use, StatusCallback done);

  void Get(std::string tenant, std::string id, InfoCallback done);
  // Up to `limit` with ids above `after`, ascending: those held here and those stored.
  void List(std::string tenant, std::string after, std::size_t limit, ListCallback done);
  void Fork(std::string tenant, std::string id, InfoCallback done);
  // FAILED_PRECONDITION when there is no store. RESOURCE_EXHAUSTED, and the session stays
  // where it is, when it does not fit what the tenant may have there.
  void Park(std::string tenant, std::string id, InfoCallback done);
  void Delete(std::string tenant, std::string id, StatusCallback done);
  // For a session whose maker left before it was told: nobody else knows of it. It is
  // deleted once what it is busy with is over, be it a park, also while everything is
  // parked; if the store does not answer then, it stays until its time to live.
  void Discard(std::string tenant, std::string id);
  // The whole snapshot. First asks `take_room` for as much as it may have, once and
  // before anything is copied; what that refuses is the end.
  void Export(std::string tenant, std::string id, RoomCallback take_room,
              BytesCallback done);
  void Import(std::string tenant, std::string snapshot, InfoCallback done);

  // Parks all that is held until `deadline` passes, and gives the number that is left.
  // Nothing new comes meanwhile. Blocks.
  std::int64_t ParkAll(std::chrono::steady_clock::time_point deadline);

  // Moves down what was not used for long, by the clock; the manager does it by itself
  // once a second. For tests.
  void Sweep();

  const SessionStats& stats() const;
  bool has_store() const;
  // Waits until `deadline` for what is under way with the store, then breaks it off: the
  // process ends. After ParkAll.
  void LetGoOfStore(std::chrono::steady_clock::time_point deadline);
  std::int64_t max_snapshot_bytes() const;  // MaxSnapshotBytes

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;  // shared with what is under way on other threads
};

}  // namespace goldfinch
