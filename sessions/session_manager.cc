#include "sessions/session_manager.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/request_limits.h"
#include "sessions/session_manager_impl.h"
#include "sessions/session_use.h"

namespace goldfinch {
namespace {

constexpr int kIoThreads = 4;

// What a snapshot has beside history, keys and state: the log-probabilities of a token
// and the most others, and sampling fields.
constexpr std::int64_t kLogprobBytes = 16 + kMaxLogprobs * 8;
constexpr std::int64_t kSnapshotSlack = 1 << 20;

// What a snapshot has beside what can be counted of a session: names, sums, and sampling
// fields of a fixed size.
constexpr std::int64_t kSnapshotHeadBytes = 4096;

std::int64_t SnapshotBytesAtMost(const EngineInfo& engine, const KeptPrefix& kept,
                                 const Turn* turn) {
  return kept.history_bytes() + kept.length() * engine.key_bytes +
         (kept.length() > 0 ? engine.state_bytes : 0) +
         (turn == nullptr ? 0 : turn->host_bytes()) + kSnapshotHeadBytes;
}

absl::Status Disowned() {
  return absl::UnavailableError("the session is being given up; try again");
}

// Of one that is not here, for the call that is to load it.
SessionPtr NameOf(const std::string& tenant, const std::string& id) {
  auto name = std::make_shared<HeldSession>(tenant, id);
  name->busy = true;
  return name;
}

// The same for the call that is to forget it. Nobody knows yet whether it is anywhere, so
// it counts in no limit.
SessionPtr PlacelessNameOf(const std::string& tenant, const std::string& id) {
  const SessionPtr name = NameOf(tenant, id);
  name->takes_place = false;
  return name;
}

SessionInfo InfoOf(const StoredSession& stored) {
  SessionInfo info;
  info.id = stored.id;
  info.place = SessionPlace::kParked;
  Fill(stored.info, info);
  info.bytes = static_cast<std::int64_t>(stored.bytes);
  return info;
}

}  // namespace

SnapshotInfo SnapshotInfoOf(const std::string& tenant, const KeptPrefix& kept,
                            const Turn* turn) {
  SnapshotInfo told{.tenant = tenant, .num_tokens = std::ssize(kept.history())};
  if (turn == nullptr) return told;
  told.num_generated = turn->num_generated;
  told.interrupted = !turn->end.has_value();
  return told;
}

void Fill(const SnapshotInfo& told, SessionInfo& info) {
  info.num_tokens = told.num_tokens;
  info.num_generated = told.num_generated;
  info.interrupted = told.interrupted;
}

SessionManager::Impl::Impl(Scheduler& scheduler, const Engine& engine,
                           SnapshotStore* store, const Clock& clock,
                           SessionOptions options)
    : scheduler_(scheduler),
      engine_(engine),
      store_(store),
      clock_(clock),
      options_(std::move(options)),
      next_park_(clock.Now()),
      io_(std::make_unique<IoPool>(kIoThreads)) {}

std::int64_t MaxSnapshotBytes(const EngineInfo& engine, std::int64_t max_context_tokens) {
  const auto token_bytes = engine.key_bytes + std::int64_t{sizeof(TokenId)};
  return max_context_tokens * (token_bytes + kLogprobBytes) + engine.state_bytes +
         kSnapshotSlack;
}

std::int64_t SessionManager::Impl::max_snapshot_bytes() const {
  return MaxSnapshotBytes(engine_.info(), options_.max_context_tokens);
}

void SessionManager::Impl::Async(const std::string& tenant, std::function<void()> work,
                                 Urgency urgency) {
  {
    const MutexLock lock(mu_);
    ++under_way_;
  }
  io_->Post(urgency, tenant, [this, work = std::move(work)]() mutable {
    work();
    work = nullptr;  // what it holds goes before Stop may return
    const MutexLock lock(mu_);
    --under_way_;
    changed_.NotifyAll();
  });
}

SessionInfo SessionManager::Impl::InfoOf(const HeldSession& session) const {
  SessionInfo info;
  info.id = session.id;
  info.busy = session.busy;
  info.numerics_changed = session.numerics_changed;
  info.idle = clock_.Now() - session.last_used;
  Fill(SnapshotInfoOf(session.tenant, *session.kept, session.turn.get()), info);
  info.place = session.kept->place() == KeptPrefix::Place::kDevice
                   ? SessionPlace::kAlive
                   : SessionPlace::kResting;
  info.bytes = session.host_bytes();
  return info;
}

void SessionManager::Impl::AddNew(std::string tenant, std::shared_ptr<KeptPrefix> kept,
                                  std::shared_ptr<const Turn> turn, bool numerics_changed,
                                  std::function<void(absl::StatusOr<SessionPtr>)> done) {
  auto session = std::make_shared<HeldSession>(std::move(tenant), NewSessionId());
  session->kept = std::move(kept);
  session->turn = std::move(turn);
  session->numerics_changed = numerics_changed;
  session->busy = true;
  session->last_used = clock_.Now();
  if (store_ == nullptr) {
    absl::Status room;
    {
      const MutexLock lock(mu_);
      room = CheckRoom(session->tenant);
      if (room.ok()) room = CheckResident(session->tenant);
      if (room.ok()) table_.Add(session);
    }
    return room.ok() ? done(session) : done(room);
  }
  absl::Status room;
  {
    const MutexLock lock(mu_);
    room = CheckRoom(session->tenant);
  }
  if (!room.ok()) return done(room);
  WithRoom(session->tenant, [this, session, done = std::move(done)](absl::Status status) {
    if (!status.ok()) return done(status);
    const auto claim = ClaimInStore(*session, AcquireMode::kNew);
    if (!claim.ok()) return done(claim.status());
    {
      const MutexLock lock(mu_);
      // Again: others came in meanwhile.
      status = CheckRoom(session->tenant);
      if (status.ok()) {
        session->claim = *claim;
        table_.Add(session);
      }
    }
    if (status.ok()) return done(session);
    GiveUp(session->id, *claim);
    done(status);
  });
}

void SessionManager::Impl::Create(std::string tenant, UseCallback done) {
  if (absl::Status queue = LockedCheckQueue(tenant); !queue.ok()) return done(queue);
  AddNew(std::move(tenant), KeptPrefix::Make({}, nullptr), nullptr,
         /*numerics_changed=*/false,
         [self = shared_from_this(), done = std::move(done)](auto session) {
           if (!session.ok()) return done(session.status());
           ++self->stats_.created;
           done(self->UseOf(*session));
         });
}

void SessionManager::Impl::Acquire(std::string tenant, std::string id, UseCallback done) {
  const absl::StatusOr<SessionPtr> taken = Take(tenant, id, TakeTo::kUse);
  if (absl::IsResourceExhausted(taken.status())) {
    return AcquireWithoutRoom(std::move(tenant), std::move(id), std::move(done));
  }
  if (!taken.ok()) return done(taken.status());
  bool here = false, at_once = false;
  {
    const MutexLock lock(mu_);
    here = (*taken)->kept != nullptr;
    at_once = here && HasGoodClaim(**taken);
  }
  if (at_once) return done(UseOf(*taken));
  const auto use = [this, session = *taken, done = std::move(done)](absl::Status room) {
    UseWithRoom(session, room, done);
  };
  here ? Async(tenant, [use] { use(absl::OkStatus()); }) : WithRoom(tenant, use);
}

// Nothing is moved, and nobody told of limits, for what is not there.
void SessionManager::Impl::AcquireWithoutRoom(std::string tenant, std::string id,
                                              UseCallback done) {
  if (absl::Status queue = LockedCheckQueue(tenant); !queue.ok()) return done(queue);
  Async(tenant, [this, tenant, id = std::move(id), done = std::move(done)] {
    const auto head = store_->Head(id, tenant);
    if (!head.ok()) return done(head.status());
    if (head->held_elsewhere) return done(HeldElsewhere());
    const SessionPtr name = NameOf(tenant, id);
    WithRoom(
        tenant, [this, name, done](absl::Status room) { UseWithRoom(name, room, done); },
        name);
  });
}

void SessionManager::Impl::UseWithRoom(const SessionPtr& session, absl::Status room,
                                       const UseCallback& done) {
  if (!room.ok()) {
    Forget(session);
    // Whoever is in the way is in use, and will not be for ever: it is worth another try,
    // whatever the status says of new sessions.
    return done(absl::Status(room.code(), room.message()));
  }
  const absl::Status claimed = ClaimForCall(session);
  claimed.ok() ? done(UseOf(session)) : done(claimed);
}

void SessionManager::Impl::Get(std::string tenant, std::string id, InfoCallback done) {
  if (absl::Status status = CheckSessionId(id); !status.ok()) return done(status);
  std::optional<SessionInfo> held;
  {
    const MutexLock lock(mu_);
    const SessionPtr found = table_.Find(tenant, id);
    if (found != nullptr && found->kept != nullptr) held = InfoOf(*found);
  }
  if (held.has_value()) return done(*std::move(held));
  if (store_ == nullptr) return done(NoSuchSession());
  if (absl::Status queue = LockedCheckQueue(tenant); !queue.ok()) return done(queue);
  Async(tenant, [this, tenant, id = std::move(id), done = std::move(done)] {
    const auto head = store_->Head(id, tenant);
    if (!head.ok()) return done(head.status());
    // What is stored may be less than what that server has by now.
    if (head->held_elsewhere) return done(HeldElsewhere());
    done(goldfinch::InfoOf(*head));
  });
}

void SessionManager::Impl::List(std::string tenant, std::string after, std::size_t limit,
                                ListCallback done) {
  if (!after.empty()) {
    if (absl::Status status = CheckSessionId(after); !status.ok()) return done(status);
  }
  const auto held = [this, tenant, after, limit] {
    std::vector<SessionInfo> infos;
    const MutexLock lock(mu_);
    for (const SessionPtr& session : table_.LoadedAfter(tenant, after, limit)) {
      infos.push_back(InfoOf(*session));
    }
    return infos;
  };
  if (store_ == nullptr) return done(held());
  if (absl::Status queue = LockedCheckQueue(tenant); !queue.ok()) return done(queue);
  Async(tenant, [this, held, tenant, after, limit, done = std::move(done)] {
    // Before the store's: one that is parked in between is then in both, not in neither.
    // One that is loaded in between stays in the store.
    std::vector<SessionInfo> all = held();
    const auto stored = store_->List(tenant, after, limit);
    if (!stored.ok()) return done(stored.status());
    const std::size_t num_held = all.size();
    for (const StoredSession& one : *stored) all.push_back(goldfinch::InfoOf(one));
    const auto by_id = [](const SessionInfo& a, const SessionInfo& b) {
      return a.id < b.id;
    };
    std::inplace_merge(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(num_held),
                       all.end(), by_id);
    // What is held comes first of two: merging is stable.
    const auto same_id = [](const SessionInfo& a, const SessionInfo& b) {
      return a.id == b.id;
    };
    all.erase(std::unique(all.begin(), all.end(), same_id), all.end());
    if (all.size() > limit) all.resize(limit);
    done(std::move(all));
  });
}

void SessionManager::Impl::Fork(std::string tenant, std::string id, InfoCallback done) {
  Acquire(tenant, std::move(id),
          [self = shared_from_this(), tenant, done = std::move(done)](auto use) {
            if (!use.ok()) return done(use.status());
            self->AddNew(tenant, (*use)->kept(), (*use)->turn(),
                         (*use)->numerics_changed(),
                         [self, done, use = *use](auto session) {
                           use->Release();
                           if (!session.ok()) return done(session.status());
                           ++self->stats_.forked;
                           self->Release(*session);
                           done(self->LockedInfoOf(**session));
                         });
          });
}

absl::StatusOr<SessionPtr> SessionManager::Impl::Take(const std::string& tenant,
                                                      const std::string& id,
                                                      TakeTo purpose) {
  if (absl::Status status = CheckSessionId(id); !status.ok()) return status;
  const MutexLock lock(mu_);
  SessionPtr session = table_.Find(tenant, id);
  if (session != nullptr) {
    if (session->disowned) return Disowned();
    if (session->busy) return SessionInUse();
  } else {
    if (store_ == nullptr) return NoSuchSession();
    if (absl::Status queue = CheckQueue(tenant); !queue.ok()) return queue;
    absl::Status room = purpose == TakeTo::kForget ? CheckOpen() : CheckRoom(tenant);
    if (room.ok() && purpose == TakeTo::kUse) room = CheckResident(tenant);
    if (!room.ok()) return room;
    session =
        purpose == TakeTo::kForget ? PlacelessNameOf(tenant, id) : NameOf(tenant, id);
    table_.Add(session);
  }
  session->busy = true;
  return session;
}

void SessionManager::Impl::Delete(std::string tenant, std::string id,
                                  StatusCallback done) {
  const absl::StatusOr<SessionPtr> taken = Take(tenant, id, TakeTo::kForget);
  taken.ok() ? DeleteTaken(*taken, std::move(done)) : done(taken.status());
}

void SessionManager::Impl::Discard(std::string tenant, std::string id) {
  SessionPtr session;
  {
    const MutexLock lock(mu_);
    session = table_.Find(tenant, id);
    if (session != nullptr && session->busy) {
      session->doomed = true;
      return;
    }
    if (session == nullptr) {
      if (store_ == nullptr || stopping_) return;
      session = PlacelessNameOf(tenant, id);  // parked
      table_.Add(session);
    }
    session->busy = true;
  }
  DeleteDoomed(session);
}

void SessionManager::Impl::DeleteTaken(const SessionPtr& session, StatusCallback done) {
  if (store_ == nullptr) {
    Forget(session);
    ++stats_.deleted;
    return done(absl::OkStatus());
  }
  Async(session->tenant, [this, session, done = std::move(done)] {
    const absl::Status deleted = DeleteStored(session);
    if (deleted.ok()) ++stats_.deleted;
    done(deleted);
  });
}

void SessionManager::Impl::Export(std::string tenant, std::string id,
                                  RoomCallback take_room, BytesCallback done) {
  Acquire(tenant, std::move(id),
          [self = shared_from_this(), tenant, take_room = std::move(take_room),
           done = std::move(done)](auto use) {
            if (!use.ok()) return done(use.status());
            const absl::Status room = take_room(SnapshotBytesAtMost(
                self->engine_.info(), *(*use)->kept(), (*use)->turn().get()));
            if (!room.ok()) {
              (*use)->Release();
              return done(room);
            }
            self->WithImage(
                tenant, (*use)->kept(),
                [self, done, use = *use](auto image) {
                  if (!image.ok()) {
                    use->Release();
                    return done(image.status());
                  }
                  const SessionPtr session = static_cast<Use&>(*use).session();
                  std::uint64_t generation = 0;
                  {
                    const MutexLock lock(self->mu_);
                    generation = session->generation;
                  }
                  std::string bytes = self->Encode(*session, *use->kept(),
                                                   use->turn().get(), generation, *image)
                                          .Join();
                  use->Release();
                  done(std::move(bytes));
                },
                Urgency::kCall, WithoutRoom::kRefuse);
          });
}

void SessionManager::Impl::Import(std::string tenant, std::string snapshot,
                                  InfoCallback done) {
  if (absl::Status queue = LockedCheckQueue(tenant); !queue.ok()) return done(queue);
  Async(tenant, [self = shared_from_this(), tenant,
                 snapshot = std::make_shared<const std::string>(std::move(snapshot)),
                 done = std::move(done)] {
    auto decoded = self->Decode(snapshot);
    if (!decoded.ok()) return done(decoded.status());
    if (decoded->tenant != tenant) {
      return done(absl::FailedPreconditionError(
          "the snapshot is of a session of another tenant"));
    }
    auto restored = RestoreSession(*std::move(decoded), self->engine_);
    if (!restored.ok()) return done(restored.status());
    self->AddNew(tenant, restored->kept, std::move(restored->turn),
                 restored->numerics_changed, [self, done](auto session) {
                   if (!session.ok()) return done(session.status());
                   ++self->stats_.created;
                   self->Release(*session);
                   done(self->LockedInfoOf(**session));
                 });
  });
}

SessionManager::SessionManager(Scheduler& scheduler, const Engine& engine,
                               SnapshotStore* store, const Clock& clock,
                               SessionOptions options)
    : impl_(std::make_shared<Impl>(scheduler, engine, store, clock, std::move(options))) {
  impl_->Start();
}

SessionManager::~SessionManager() { impl_->Stop(); }

void SessionManager::Create(std::string tenant, UseCallback done) {
  impl_->Create(std::move(tenant), std::move(done));
}
void SessionManager::Acquire(std::string tenant, std::string id, UseCallback done) {
  impl_->Acquire(std::move(tenant), std::move(id), std::move(done));
}
std::shared_ptr<SessionUse> SessionManager::Anonymous(std::string tenant) {
  return impl_->Anonymous(std::move(tenant));
}
void SessionManager::ParkInterrupted(std::shared_ptr<SessionUse> use,
                                     StatusCallback done) {
  impl_->ParkInterrupted(use, std::move(done));
}
void SessionManager::Get(std::string tenant, std::string id, InfoCallback done) {
  impl_->Get(std::move(tenant), std::move(id), std::move(done));
}
void SessionManager::List(std::string tenant, std::string after, std::size_t limit,
                          ListCallback done) {
  impl_->List(std::move(tenant), std::move(after), limit, std::move(done));
}
void SessionManager::Fork(std::string tenant, std::string id, InfoCallback done) {
  impl_->Fork(std::move(tenant), std::move(id), std::move(done));
}
void SessionManager::Park(std::string tenant, std::string id, InfoCallback done) {
  impl_->Park(std::move(tenant), std::move(id), std::move(done));
}
void SessionManager::Delete(std::string tenant, std::string id, StatusCallback done) {
  impl_->Delete(std::move(tenant), std::move(id), std::move(done));
}
void SessionManager::Discard(std::string tenant, std::string id) {
  impl_->Discard(std::move(tenant), std::move(id));
}
void SessionManager::Export(std::string tenant, std::string id, RoomCallback take_room,
                            BytesCallback done) {
  impl_->Export(std::move(tenant), std::move(id), std::move(take_room), std::move(done));
}
void SessionManager::Import(std::string tenant, std::string snapshot, InfoCallback done) {
  impl_->Import(std::move(tenant), std::move(snapshot), std::move(done));
}
std::int64_t SessionManager::ParkAll(std::chrono::steady_clock::time_point deadline) {
  return impl_->ParkAll(deadline);
}
void SessionManager::Sweep() { impl_->Sweep(); }
const SessionStats& SessionManager::stats() const { return impl_->stats(); }
void SessionManager::LetGoOfStore(std::chrono::steady_clock::time_point deadline) {
  impl_->LetGoOfStore(deadline);
}

bool SessionManager::has_store() const { return impl_->has_store(); }
std::int64_t SessionManager::max_snapshot_bytes() const {
  return impl_->max_snapshot_bytes();
}

}  // namespace goldfinch
