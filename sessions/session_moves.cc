// The session manager's moves to and from the store.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/retry_after.h"
#include "sessions/session_manager_impl.h"

namespace goldfinch {
namespace {

// Between attempts to park by itself, after the store failed.
constexpr auto kParkPause = std::chrono::seconds(5);
// The same at the end, when there is no other time.
constexpr auto kRetryPause = std::chrono::milliseconds(250);

std::string NameForLog(const HeldSession& session) {
  return absl::StrCat("session ", session.id, " of tenant ", session.tenant);
}

}  // namespace

absl::Status SessionManager::Impl::ClaimForCall(const SessionPtr& session) {
  const TimePoint began = clock_.Now();
  bool here = false;
  {
    const MutexLock lock(mu_);
    here = session->kept != nullptr;
    if (here && HasGoodClaim(*session)) return absl::OkStatus();
  }
  const auto claim =
      ClaimInStore(*session, here ? AcquireMode::kNew : AcquireMode::kStored);
  if (!claim.ok()) {
    // What another server has deleted meanwhile is not brought back.
    const bool deleted = here && absl::IsNotFound(claim.status());
    if (deleted) ++stats_.stale;
    if (!here || deleted) {
      Forget(session);
      return claim.status();
    }
    {
      const MutexLock lock(mu_);
      session->retry_park = std::chrono::steady_clock::now() + kRetryPause;
    }
    Release(session);
    return claim.status();
  }
  if (here && TakeOver(session, *claim)) return absl::OkStatus();
  if (here) ++stats_.stale;
  absl::Status loaded = Load(session, *claim);
  if (loaded.ok()) {
    stats_.loads.done.ObserveSeconds(clock_.Now() - began);
    return loaded;
  }
  // Nor is it a failure of this kind that the store does not answer: trying again helps.
  if (!absl::IsNotFound(loaded) && !absl::IsUnavailable(loaded)) {
    ++stats_.load_failures;
    stats_.loads.failed.ObserveSeconds(clock_.Now() - began);
    Warn(absl::StrCat(NameForLog(*session), " could not be loaded: ", loaded.message()));
  }
  Forget(session);
  // What is damaged stays claimable by others, who may have the means to read it.
  GiveUp(session->id, *claim);
  return loaded;
}

absl::Status SessionManager::Impl::Load(const SessionPtr& session, const Claim& claim) {
  auto bytes = store_->Get(session->id, max_snapshot_bytes());
  if (!bytes.ok()) return bytes.status();
  const std::int64_t size = std::ssize(*bytes);
  auto snapshot = Decode(std::make_shared<const std::string>(*std::move(bytes)));
  if (!snapshot.ok()) return snapshot.status();
  if (snapshot->session_id != session->id || snapshot->generation != claim.generation) {
    return absl::DataLossError("the stored snapshot is not that of the session");
  }
  if (snapshot->tenant != session->tenant) return NoSuchSession();
  auto restored = RestoreSession(*std::move(snapshot), engine_);
  if (!restored.ok()) return restored.status();
  const MutexLock lock(mu_);
  session->kept = std::move(restored->kept);
  session->turn = std::move(restored->turn);
  session->numerics_changed = restored->numerics_changed;
  session->claim = claim;
  session->claim_in_doubt = false;
  session->generation = claim.generation;
  session->attempted = claim.generation;
  session->stored_bytes = size;
  table_.Count(session);
  SweepIfFull();
  ++stats_.loaded;
  stats_.loads.bytes += static_cast<std::uint64_t>(size);
  changed_.NotifyAll();
  return absl::OkStatus();
}

void SessionManager::Impl::Forget(const SessionPtr& session) {
  const MutexLock lock(mu_);
  table_.Remove(session);
  changed_.NotifyAll();
}

// For the call that has the session; lets go of it, or forgets it.
absl::Status SessionManager::Impl::DeleteStored(const SessionPtr& session) {
  bool here = false;
  std::optional<Claim> held;
  {
    const MutexLock lock(mu_);
    here = session->kept != nullptr;
    held = ClaimToDelete(*session);
  }
  absl::Status deleted;
  if (!here) deleted = store_->Head(session->id, session->tenant).status();
  // Under the claim there is: a store that is full may have no room for another one.
  if (held.has_value()) deleted = store_->Delete(session->id, *held);
  const bool is_void = held.has_value() && absl::IsFailedPrecondition(deleted);
  if (is_void || (!held.has_value() && deleted.ok())) deleted = ClaimAndDelete(session);
  // Never parked: there is nothing in the store to delete.
  if (here && absl::IsNotFound(deleted)) deleted = absl::OkStatus();
  deleted.ok() || !here ? Forget(session) : ReleaseInDoubt(session);
  return deleted;
}

void SessionManager::Impl::ReleaseInDoubt(const SessionPtr& session) {
  {
    const MutexLock lock(mu_);
    session->claim_in_doubt = true;
  }
  Release(session);
}

absl::Status SessionManager::Impl::ClaimAndDelete(const SessionPtr& session) {
  const auto claim = ClaimInStore(*session, AcquireMode::kNew);
  if (!claim.ok()) return claim.status();
  const absl::Status deleted = store_->Delete(session->id, *claim);
  if (deleted.ok() || absl::IsNotFound(deleted)) return deleted;
  bool here = false;
  {
    const MutexLock lock(mu_);
    here = session->kept != nullptr;
  }
  // What is here may be older than what is stored, and is not the session then.
  if (!here || !TakeOver(session, *claim)) GiveUp(session->id, *claim);
  return deleted;
}

SnapshotBytes SessionManager::Impl::Encode(
    const HeldSession& session, const KeptPrefix& kept, const Turn* turn,
    std::uint64_t generation, std::shared_ptr<const PrefixImage> image) const {
  const SessionIdentity identity{
      .tenant = session.tenant, .id = session.id, .generation = generation};
  return EncodeSnapshot(
      MakeSnapshot(identity, engine_.info(), kept, std::move(image), turn), key());
}

absl::StatusOr<Snapshot> SessionManager::Impl::Decode(
    std::shared_ptr<const std::string> bytes) const {
  return DecodeSnapshot(
      std::move(bytes), key(),
      {.max_bytes = static_cast<std::size_t>(max_snapshot_bytes()),
       .max_tokens = static_cast<std::size_t>(options_.max_context_tokens)});
}

void SessionManager::Impl::Park(std::string tenant, std::string id, InfoCallback done) {
  if (store_ == nullptr) {
    return done(absl::FailedPreconditionError(
        "the server has no session store (--session_store)"));
  }
  bool parked = false;
  {
    const MutexLock lock(mu_);
    parked = table_.Find(tenant, id) == nullptr;
  }
  if (parked) return Get(std::move(tenant), std::move(id), std::move(done));
  const absl::StatusOr<SessionPtr> taken = Take(tenant, id, TakeTo::kForget);
  if (!taken.ok()) return done(taken.status());
  {
    const MutexLock lock(mu_);
    parked = (*taken)->kept == nullptr;
    if (!parked) BeginPark(*taken, ParkMode::kOfCall);
  }
  if (parked) {  // in between
    Forget(*taken);
    return Get(std::move(tenant), std::move(id), std::move(done));
  }
  StartPark(*taken, ParkMode::kOfCall, ParkLimit::kQuota, Urgency::kCall,
            [self = shared_from_this(), session = *taken,
             done = std::move(done)](absl::Status status) {
              if (!status.ok()) return done(status);
              done(self->ParkedInfoOf(*session));
            });
}

// Of what was written, not of what the store says: another server may have the session
// by now, and this call's work is done all the same.
SessionInfo SessionManager::Impl::ParkedInfoOf(const HeldSession& session) const {
  const MutexLock lock(mu_);
  SessionInfo info;
  info.id = session.id;
  info.place = SessionPlace::kParked;
  Fill(SnapshotInfoOf(session.tenant, *session.kept, session.turn.get()), info);
  info.bytes = session.stored_bytes;
  return info;
}

void SessionManager::Impl::BeginPark(const SessionPtr& session, ParkMode mode) {
  ++session->parking;
  if (mode == ParkMode::kOfCall) {
    session->busy = true;
  } else {
    sweep_demand_.BeginPark();
  }
}

void SessionManager::Impl::EndPark(const SessionPtr& session, ParkMode mode) {
  --session->parking;
  if (mode == ParkMode::kBesideCalls) sweep_demand_.EndPark();
  changed_.NotifyAll();
}

void SessionManager::Impl::StartPark(const SessionPtr& session, ParkMode mode,
                                     ParkLimit limit, Urgency urgency,
                                     StatusCallback done) {
  Parked parked{.session = session,
                .mode = mode,
                .limit = limit,
                .began = clock_.Now(),
                .kept = {},
                .turn = {}};
  {
    const MutexLock lock(mu_);
    parked.kept = session->kept;
    parked.turn = session->turn;
  }
  const auto end = [this, parked, done = std::move(done)](const absl::Status& status,
                                                          bool let_go) {
    AfterPark(parked, status, let_go);
    // Told to the call that asked for it as any other quota is.
    done(absl::IsOutOfRange(status)
             ? ForCallerToClear(absl::ResourceExhaustedError(status.message()))
             : status);
  };
  const auto put = [this, parked, end](auto image) {
    absl::Status status = image.status();
    const bool of_call = parked.mode == ParkMode::kOfCall;
    // No room to copy it: not a failure of the store, and the next sweep tries again.
    if (absl::IsResourceExhausted(status)) status = absl::AbortedError(status.message());
    // A second time if the claim turns out to be void.
    for (int attempt = 0; attempt < (of_call ? 2 : 1) && image.ok(); ++attempt) {
      if (of_call) {
        status = ClaimForCall(parked.session);
        if (!status.ok()) return end(status, /*let_go=*/true);
      }
      status = Put(parked, *image);
      if (!absl::IsFailedPrecondition(status)) break;
    }
    end(status, /*let_go=*/false);
  };
  const WithoutRoom otherwise =
      urgency == Urgency::kCall ? WithoutRoom::kWait : WithoutRoom::kRefuse;
  if (limit == ParkLimit::kNone || !options_.quota_of) {
    return WithImage(session->tenant, parked.kept, put, urgency, otherwise);
  }
  Async(
      session->tenant,
      [this, parked, urgency, otherwise, put, end] {
        const absl::Status room = CheckParkLimit(parked);
        room.ok()
            ? WithImage(parked.session->tenant, parked.kept, put, urgency, otherwise)
            : end(room, /*let_go=*/false);
      },
      urgency);
}

absl::Status SessionManager::Impl::CheckParkLimit(const Parked& parked) {
  const EngineInfo& info = engine_.info();
  const std::int64_t length = parked.kept->length();
  const std::int64_t least =
      std::ssize(parked.kept->history()) * std::int64_t{sizeof(TokenId)} +
      length * info.key_bytes + (length > 0 ? info.state_bytes : 0);
  const std::string& tenant = parked.session->tenant;
  std::int64_t limit = 0, grown = 0;
  {
    const MutexLock lock(mu_);
    // How large the stored one is, is not known: the store will say.
    if (parked.session->attempted != parked.session->generation) return absl::OkStatus();
    grown = least - parked.session->stored_bytes;
    limit = QuotaOf(tenant).max_parked_bytes;
  }
  const auto stored = store_->TenantBytes(tenant);
  if (!stored.ok() || grown <= 0 || *stored <= limit - grown) return absl::OkStatus();
  return OverTenantLimit(*stored + grown, limit);
}

absl::Status SessionManager::Impl::Put(const Parked& parked,
                                       std::shared_ptr<const PrefixImage> image) {
  const SessionPtr& session = parked.session;
  std::optional<Claim> claim;
  std::uint64_t generation = 0;
  std::int64_t limit = kUnlimitedBytes;
  {
    const MutexLock lock(mu_);
    // It went on meanwhile, here or, before it was claimed again, elsewhere.
    if (session->kept != parked.kept) return absl::AbortedError("the session went on");
    if (!HasGoodClaim(*session)) {
      return absl::UnavailableError("this server's lease on the session has lapsed");
    }
    claim = session->claim;
    session->attempted = std::max(session->attempted, session->generation) + 1;
    generation = session->attempted;
    if (parked.limit == ParkLimit::kQuota) {
      limit = QuotaOf(session->tenant).max_parked_bytes;
    }
  }
  const SnapshotBytes bytes =
      Encode(*session, *parked.kept, parked.turn.get(), generation, std::move(image));
  const SnapshotInfo info =
      SnapshotInfoOf(session->tenant, *parked.kept, parked.turn.get());
  const absl::Status put =
      store_->Put(session->id, *claim, generation, info, bytes.pieces(), limit);
  if (put.ok()) stats_.parks.bytes += bytes.size();
  const MutexLock lock(mu_);
  if (put.ok() && generation > session->generation) {
    session->generation = generation;
    session->stored_bytes = static_cast<std::int64_t>(bytes.size());
  }
  // Nothing was written, so nothing newer than before may be there.
  if (absl::IsOutOfRange(put) && session->attempted == generation) {
    session->attempted = generation - 1;
  }
  // Nor does a store that does not answer take others.
  if (absl::IsUnavailable(put)) next_park_ = clock_.Now() + kParkPause;
  if (!absl::IsFailedPrecondition(put)) return put;
  // Another park of this session was begun later and stored first, or has given it up:
  // what came late is old, and the claim, if it is still here, as good as before.
  const bool overtaken = session->attempted != generation ||
                         table_.Find(session->tenant, session->id) != session;
  if (overtaken && parked.mode == ParkMode::kBesideCalls) {
    return absl::AbortedError("the session was parked by another call");
  }
  // Void, though the lease is good: the next attempt claims anew.
  if (!overtaken && session->claim.has_value() && session->claim->epoch == claim->epoch) {
    session->claim.reset();
  }
  return put;
}

void SessionManager::Impl::NoteParkFailure(const Parked& parked,
                                           const absl::Status& status) {
  // Nor is the limit of a tenant a failure, or that the session was deleted elsewhere.
  if (absl::IsAborted(status) || absl::IsOutOfRange(status) || absl::IsNotFound(status)) {
    return;
  }
  bool told = false;
  {
    const MutexLock lock(mu_);
    // A drain tries all of them again and again, and says at its end what came of it.
    if (draining_) {
      ++drain_failures_;
      told = !drain_errors_.insert(status.code()).second;
    }
    ++stats_.park_failures;
    stats_.parks.failed.ObserveSeconds(clock_.Now() - parked.began);
    // Not for one that another server holds, or whose claim is void.
    if (!store_->lease_is_good() || absl::IsResourceExhausted(status)) {
      next_park_ = clock_.Now() + kParkPause;
    }
  }
  if (told) return;
  Warn(absl::StrCat(NameForLog(*parked.session),
                    " could not be parked: ", status.message()));
}

// A call of its own forgets the session; beside calls it is forgotten only if nothing has
// happened to it since. The claim is given up last: who calls meanwhile, on this server,
// claims it anew, which makes giving up the old one harmless. One that was let go of
// already may be another call's by now.
void SessionManager::Impl::AfterPark(const Parked& parked, const absl::Status& status,
                                     bool let_go) {
  const SessionPtr& session = parked.session;
  std::optional<Claim> claim;
  std::vector<std::string> awaiting;
  bool doomed = false;
  {
    const MutexLock lock(mu_);
    EndPark(session, parked.mode);
    if (parked.mode == ParkMode::kOfCall && !let_go) doomed = LetGo(*session);
    if (!status.ok()) {
      session->retry_park = std::chrono::steady_clock::now() + kRetryPause;
      if (absl::IsOutOfRange(status)) {
        ++stats_.over_quota;
        store_full_[session->tenant] = clock_.Now() + kParkPause;
      }
    } else {
      ++stats_.parked;
      stats_.parks.done.ObserveSeconds(clock_.Now() - parked.began);
      store_full_.erase(session->tenant);
      if (!session->busy && session->kept == parked.kept && table_.Remove(session)) {
        claim = session->claim;
        releasing_ += claim.has_value() ? 1 : 0;
      }
    }
    awaiting = WaitingFor(session->tenant);
  }
  if (!status.ok()) NoteParkFailure(parked, status);
  if (doomed) DeleteDoomed(session);
  for (const std::string& tenant : awaiting) {
    Async(tenant, [this, tenant] { MakeRoom(tenant); });
  }
  if (!claim.has_value()) return;
  GiveUp(session->id, *claim);
  const MutexLock lock(mu_);
  --releasing_;
  changed_.NotifyAll();
}

}  // namespace goldfinch
