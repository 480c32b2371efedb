// Inside of the session manager (session_manager.h), shared by its source files: calls in
// session_manager.cc, what calls do to the session they hold in session_use.cc, limits
// and what moves for them in session_room.cc, copies of what a session is in
// session_images.cc, moves to and from the store in session_moves.cc and the claims they
// need in session_claims.cc, what happens by itself in session_upkeep.cc.
//
// Locking: mu_ guards the table and everything in its sessions; it is held for moments,
// never while the scheduler, a callback or a store that may wait is called: of a store
// only whether a lease or a claim is good is asked under it, and of callbacks only
// SessionOptions::quota_of is called. A session that is busy belongs to one call, which
// alone claims, loads or forgets it; parking beside calls only reads it, and forgets it
// only if nothing has happened to it meanwhile.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/sync/mutex.h"
#include "sessions/io_pool.h"
#include "sessions/session_manager.h"
#include "sessions/session_snapshot.h"
#include "sessions/session_table.h"
#include "sessions/sweep_demand.h"

namespace goldfinch {

inline absl::Status SessionInUse() {
  return absl::FailedPreconditionError("the session is in use by another call");
}

// What is told of a history and its last generation, in the store as by this server.
SnapshotInfo SnapshotInfoOf(const std::string& tenant, const KeptPrefix& kept,
                            const Turn* turn);
void Fill(const SnapshotInfo& told, SessionInfo& info);

class SessionManager::Impl : public std::enable_shared_from_this<SessionManager::Impl> {
 public:
  Impl(Scheduler& scheduler, const Engine& engine, SnapshotStore* store,
       const Clock& clock, SessionOptions options);

  // Starts and stops what happens by itself; Stop waits for all that is under way.
  void Start();
  void Stop();

  // session_manager.cc: calls.
  void Create(std::string tenant, UseCallback done);
  void Acquire(std::string tenant, std::string id, UseCallback done);
  std::shared_ptr<SessionUse> Anonymous(std::string tenant);
  void Get(std::string tenant, std::string id, InfoCallback done);
  void List(std::string tenant, std::string after, std::size_t limit, ListCallback done);
  void Fork(std::string tenant, std::string id, InfoCallback done);
  void Delete(std::string tenant, std::string id, StatusCallback done);
  void Discard(std::string tenant, std::string id);
  void Export(std::string tenant, std::string id, RoomCallback take_room,
              BytesCallback done);
  void Import(std::string tenant, std::string snapshot, InfoCallback done);
  const SessionStats& stats() const { return stats_; }
  bool has_store() const { return store_ != nullptr; }
  std::int64_t max_snapshot_bytes() const;

  void ParkInterrupted(const std::shared_ptr<SessionUse>& use, StatusCallback done);

  // session_moves.cc.
  void Park(std::string tenant, std::string id, InfoCallback done);

  // session_upkeep.cc.
  void Sweep();
  std::int64_t ParkAll(std::chrono::steady_clock::time_point deadline);
  std::int64_t ParkUntil(std::chrono::steady_clock::time_point deadline);
  void LetGoOfStore(std::chrono::steady_clock::time_point deadline);

  // What uses do; any thread.
  void Release(const SessionPtr& session);
  // The session after a request that ran on it; null makes one of what was interrupted.
  SessionPtr Finish(SessionPtr session, const std::string& tenant,
                    std::optional<Turn> turn, RequestEnd end);
  void SetRequest(const SessionPtr& session, RequestId id);

 private:
  class Use;

  // Parked at once: each may have a copy of its image in memory meanwhile.
  static constexpr std::int64_t kParksAtOnce = 16;

  // Runs on a thread of the pool, in the tenant's turn; Stop waits for it.
  void Async(const std::string& tenant, std::function<void()> work,
             Urgency urgency = Urgency::kCall);
  // The same of what is no tenant's.
  void Async(std::function<void()> work, Urgency urgency) {
    Async("", std::move(work), urgency);
  }
  // RESOURCE_EXHAUSTED when as many calls of the tenant as may wait do: for what begins a
  // call. What goes on with one, or with a session that is held, is not refused.
  absl::Status CheckQueue(const std::string& tenant) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status LockedCheckQueue(const std::string& tenant) const {
    const MutexLock lock(mu_);
    return CheckQueue(tenant);
  }
  // session_images.cc. The same, with the image of `kept`; a failure when the scheduler
  // has stopped. When too much is being copied already it is RESOURCE_EXHAUSTED, or waits
  // until there is room.
  using ImageWork =
      std::function<void(absl::StatusOr<std::shared_ptr<const PrefixImage>>)>;
  enum class WithoutRoom { kRefuse, kWait };
  void WithImage(const std::string& tenant, std::shared_ptr<KeptPrefix> kept,
                 ImageWork work, Urgency urgency, WithoutRoom otherwise);
  struct ImageCopy {
    std::string tenant;
    std::shared_ptr<KeptPrefix> kept;
    std::int64_t bytes;
    ImageWork work;
    Urgency urgency;
  };
  bool HasImageRoom(std::int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CopyImage(ImageCopy copy);  // which has room
  void FreeImageRoom(std::int64_t bytes);

  // A sweep, if memory is full and sessions can be parked.
  void SweepIfFull() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (store_ == nullptr || clock_.Now() < next_park_) return;
    if (table_.host_bytes() > options_.host_bytes) sweep_demand_.NoteFull();
  }
  // Of one that is not just being loaded.
  SessionInfo InfoOf(const HeldSession& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  SessionInfo LockedInfoOf(const HeldSession& session) const {
    const MutexLock lock(mu_);
    return InfoOf(session);
  }
  // Makes it busy for one call. One that is not here comes as a name only, to be loaded
  // or forgotten by that call; what is to be loaded takes a place from then on.
  enum class TakeTo { kUse, kForget };
  absl::StatusOr<SessionPtr> Take(const std::string& tenant, const std::string& id,
                                  TakeTo purpose);
  // For the call that has it, which lets go of it so.
  void DeleteTaken(const SessionPtr& session, StatusCallback done);
  // It is busy no more; unless it was to be deleted, which is then the caller's to begin,
  // with DeleteDoomed, when it has no lock.
  [[nodiscard]] static bool LetGo(HeldSession& session) {
    session.busy = std::exchange(session.doomed, false);
    return session.busy;
  }
  void DeleteDoomed(const SessionPtr& session) {
    DeleteTaken(session, [](const absl::Status&) {});
  }
  void AcquireWithoutRoom(std::string tenant, std::string id, UseCallback done);
  // For the call that has it; on a thread of the pool.
  void UseWithRoom(const SessionPtr& session, absl::Status room, const UseCallback& done);
  // Adds a busy session under a new id, claimed if there is a store.
  void AddNew(std::string tenant, std::shared_ptr<KeptPrefix> kept,
              std::shared_ptr<const Turn> turn, bool numerics_changed,
              std::function<void(absl::StatusOr<SessionPtr>)> done);
  std::shared_ptr<SessionUse> UseOf(const SessionPtr& session);

  // session_claims.cc.
  // Whether it can be gone on with, for all that is known here.
  bool HasGoodClaim(const HeldSession& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The claim to delete it under, if the store may take it: one in doubt does, as it is
  // the store that looks whether it is void, and needs no room for it.
  std::optional<Claim> ClaimToDelete(const HeldSession& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsOurs(const HeldSession& session, const Claim& claim) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Of a session that is here: false, and it keeps the claim it had, when what is here is
  // stale.
  bool TakeOver(const SessionPtr& session, const Claim& claim);
  absl::StatusOr<Claim> ClaimInStore(const HeldSession& session, AcquireMode mode);
  void GiveUp(const std::string& id, const Claim& claim);
  void DisownUnheard();
  bool DisownOne();

  // session_moves.cc. On a thread of the pool, for the call that has the session.
  // Here, and with a good claim; else it is released, or forgotten if it was not here.
  absl::Status ClaimForCall(const SessionPtr& session);
  absl::Status Load(const SessionPtr& session, const Claim& claim);
  absl::Status DeleteStored(const SessionPtr& session);
  // After a delete that failed.
  void ReleaseInDoubt(const SessionPtr& session);
  absl::Status ClaimAndDelete(const SessionPtr& session);
  // For the call that has just parked it.
  SessionInfo ParkedInfoOf(const HeldSession& session) const;
  SnapshotBytes Encode(const HeldSession& session, const KeptPrefix& kept,
                       const Turn* turn, std::uint64_t generation,
                       std::shared_ptr<const PrefixImage> image) const;
  absl::StatusOr<Snapshot> Decode(std::shared_ptr<const std::string> bytes) const;
  const SnapshotKey* key() const {
    return options_.key.has_value() ? &*options_.key : nullptr;
  }
  enum class ParkMode { kOfCall, kBesideCalls };
  // What is interrupted or drained is parked whatever its tenant may have in the store:
  // it would be lost, and that was not the tenant's doing.
  enum class ParkLimit { kQuota, kNone };
  // After a lapse it may be stale, which only a call of its own finds out.
  ParkMode ModeFor(const HeldSession& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return HasGoodClaim(session) ? ParkMode::kBesideCalls : ParkMode::kOfCall;
  }
  // Marks it as leaving, before StartPark.
  void BeginPark(const SessionPtr& session, ParkMode mode)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndPark(const SessionPtr& session, ParkMode mode)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StartPark(const SessionPtr& session, ParkMode mode, ParkLimit limit,
                 Urgency urgency, StatusCallback done);
  // What is parked, as it was when that began.
  struct Parked {
    SessionPtr session;
    ParkMode mode;
    ParkLimit limit;
    TimePoint began;
    std::shared_ptr<KeptPrefix> kept;
    std::shared_ptr<const Turn> turn;
  };
  // OUT_OF_RANGE when the store will not take it for its tenant's limit, as far as is
  // known before it is copied.
  absl::Status CheckParkLimit(const Parked& parked);
  absl::Status Put(const Parked& parked, std::shared_ptr<const PrefixImage> image);
  void AfterPark(const Parked& parked, const absl::Status& status, bool let_go);
  void NoteParkFailure(const Parked& parked, const absl::Status& status);
  void Forget(const SessionPtr& session);

  // session_room.cc.
  SessionQuota QuotaOf(const std::string& tenant) const {
    return options_.quota_of ? options_.quota_of(tenant) : kNoQuota;
  }
  // What to leave of a limit that was reached: some room at once, or every new session
  // would park one.
  static std::int64_t SomeRoomIn(std::int64_t limit) { return limit / 10 * 9; }
  absl::Status CheckOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether its sessions can be parked: there is a store that answers and has room for
  // the tenant, as of its last answers.
  bool Parks(const std::string& tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // For one more session, but for its tenant's memory.
  absl::Status CheckRoom(const std::string& tenant)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckResident(const std::string& tenant) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Runs `work` on a thread of the pool once the tenant is below its limit of memory,
  // which its idle sessions are parked for, or with RESOURCE_EXHAUSTED when they cannot
  // be. As many as there are threads may pass the limit at once, each by its session.
  // `name`, which may be null, is of one that is to come back, when there were too many
  // for it: for its place in the table sessions are parked as well.
  using RoomWork = std::function<void(absl::Status)>;
  struct RoomWait {
    RoomWork work;
    SessionPtr name;
  };
  void WithRoom(const std::string& tenant, RoomWork work, SessionPtr name = nullptr);
  void MakeRoom(const std::string& tenant);
  // Whom the end of a park of a session of `parked` may concern: that tenant, and those
  // who wait for a place in the server, for which anybody's sessions are parked. The
  // others wait for parks of their own (PickLeaving).
  std::vector<std::string> WaitingFor(const std::string& parked) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // If there is room, `name` has its place when this returns.
  absl::Status GiveRoom(const std::string& tenant, const SessionPtr& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  struct Leaving {
    bool any = false;  // these or others, which are under way
    std::vector<std::pair<SessionPtr, ParkMode>> next;
  };
  Leaving PickLeaving(const std::string& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Of the idle ones, used longest ago first, those of which `goes` is true, told the
  // number and bytes of what stays, itself included. No more than `at_once` leave at a
  // time. Gives the number that stays.
  using Goes = std::function<bool(const HeldSession& session, std::int64_t num,
                                  std::int64_t bytes)>;
  std::int64_t PickOldest(std::vector<SessionPtr> sessions, std::int64_t at_once,
                          const Goes& goes, Leaving& leaving)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // session_upkeep.cc.
  void Warn(const std::string& message) const {
    if (options_.warn != nullptr) options_.warn(message);
  }
  void Note(const std::string& message) const {
    if (options_.note != nullptr) options_.note(message);
  }
  void RunSweeps();
  void RemoveExpired();
  // What the sessions take, and which of them may go.
  struct Stock {
    std::int64_t bytes = 0;                      // of those that are not being parked
    std::map<std::string, std::int64_t> excess;  // of tenants that have grown too large
    std::vector<SessionPtr> idle;  // those used longest ago first, if there is too much
  };
  Stock TakeStock() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Those that are parked, deleted or moved to host memory now; marked as such.
  struct Moves {
    std::vector<std::pair<SessionPtr, ParkMode>> to_park;
    std::vector<SessionPtr> to_expire;
    std::vector<std::shared_ptr<KeptPrefix>> to_rest;
  };
  Moves ChooseMoves(Stock stock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool SleepUntil(std::chrono::steady_clock::time_point until);
  void RunLease();
  bool Renew();
  void RunLapses();
  bool LookAtLease();
  void InterruptLost();
  void Expire(const SessionPtr& session);

  Scheduler& scheduler_;
  const Engine& engine_;
  SnapshotStore* const store_;
  const Clock& clock_;
  const SessionOptions options_;
  SessionStats stats_;

  mutable Mutex mu_;
  CondVar changed_;  // the table, or what is under way
  SessionTable table_ ABSL_GUARDED_BY(mu_);
  std::int64_t under_way_ ABSL_GUARDED_BY(mu_) = 0;
  // Claims that the store did not hear of; tried again by the sweep.
  std::vector<std::pair<std::string, Claim>> to_give_up_ ABSL_GUARDED_BY(mu_);
  // By tenant and id: what the store may have given without our having heard of it.
  std::set<std::pair<std::string, std::string>> unheard_ ABSL_GUARDED_BY(mu_);
  bool disowning_ ABSL_GUARDED_BY(mu_) = false;
  bool lease_was_good_ ABSL_GUARDED_BY(mu_) = true;  // when it was last looked at
  // Of renewals since the last good one; all were told of.
  std::set<std::string> renewal_errors_ ABSL_GUARDED_BY(mu_);
  std::int64_t image_bytes_ ABSL_GUARDED_BY(mu_) = 0;  // see WithImage
  std::deque<ImageCopy> waiting_copies_ ABSL_GUARDED_BY(mu_);
  std::int64_t releasing_ ABSL_GUARDED_BY(mu_) = 0;  // claims of what is parked
  bool draining_ ABSL_GUARDED_BY(mu_) = false;       // nothing new
  // Of parks since then, until ParkAll has told of them; and those that were told of.
  std::int64_t drain_failures_ ABSL_GUARDED_BY(mu_) = 0;
  std::set<absl::StatusCode> drain_errors_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool removing_expired_ ABSL_GUARDED_BY(mu_) = false;  // from the store
  std::int64_t parking_all_ ABSL_GUARDED_BY(mu_) = 0;
  SweepDemand sweep_demand_ ABSL_GUARDED_BY(mu_){kParksAtOnce};  // parks beside calls
  // After the store failed, parking by itself waits until then.
  TimePoint next_park_ ABSL_GUARDED_BY(mu_);
  // The same for tenants whose limit the store has reached.
  std::map<std::string, TimePoint> store_full_ ABSL_GUARDED_BY(mu_);
  // By tenant: what waits for room. None is empty.
  std::map<std::string, std::deque<RoomWait>> waiting_ ABSL_GUARDED_BY(mu_);

  std::unique_ptr<IoPool> io_;  // its lock is taken after mu_
  std::thread sweeper_, lease_keeper_, lapse_watch_;
};

}  // namespace goldfinch
