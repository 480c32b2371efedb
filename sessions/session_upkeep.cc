// What the session manager does by itself: moving down what is not used, keeping the
// lease, and parking everything at the end.
#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions/session_manager_impl.h"

namespace goldfinch {
namespace {

constexpr auto kSweepEvery = std::chrono::seconds(1);
constexpr auto kRemoveExpiredEvery = std::chrono::minutes(1);

// Renewed so often within a lease, and looked at more often, so that calls are stopped
// soon after a lapse.
constexpr int kRenewals = 3;
constexpr int kLooks = 12;

bool Reached(std::chrono::nanoseconds idle, std::chrono::seconds limit) {
  return limit.count() > 0 && idle >= limit;
}

}  // namespace

void SessionManager::Impl::Start() {
  sweeper_ = std::thread([this] { RunSweeps(); });
  if (store_ == nullptr) return;
  // The store was opened before the model was loaded, which may take longer than a lease.
  Renew();  // tried again at the first look
  stats_.lease_good = store_->lease_is_good() ? 1 : 0;
  lease_keeper_ = std::thread([this] { RunLease(); });
  lapse_watch_ = std::thread([this] { RunLapses(); });
}

void SessionManager::Impl::Stop() {
  {
    const MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (sweeper_.joinable()) sweeper_.join();
  if (lease_keeper_.joinable()) lease_keeper_.join();
  if (lapse_watch_.joinable()) lapse_watch_.join();
  {
    const MutexLock lock(mu_);
    while (under_way_ > 0) changed_.Wait(mu_);
  }
  io_.reset();
}

void SessionManager::Impl::RunSweeps() {
  auto expire_at = std::chrono::steady_clock::now();
  while (true) {
    const auto until = std::chrono::steady_clock::now() + kSweepEvery;
    {
      const MutexLock lock(mu_);
      while (!stopping_ && !sweep_demand_.due()) {
        if (!changed_.WaitUntil(mu_, until)) break;
      }
      if (stopping_) return;
    }
    Sweep();
    if (store_ == nullptr || std::chrono::steady_clock::now() < expire_at) continue;
    expire_at = std::chrono::steady_clock::now() + kRemoveExpiredEvery;
    {
      // Of a large store it may take longer than until the next time.
      const MutexLock lock(mu_);
      if (std::exchange(removing_expired_, true)) continue;
    }
    Async([this] { RemoveExpired(); }, Urgency::kBackground);
  }
}

void SessionManager::Impl::RemoveExpired() {
  auto left = store_->RemoveExpired();
  {
    const MutexLock lock(mu_);
    removing_expired_ = false;
  }
  if (!left.ok()) return;
  stats_.stored = left->snapshots;
  if (left->expired > 0) {
    stats_.expired_stored += static_cast<std::uint64_t>(left->expired);
    Note(absl::StrCat(left->expired,
                      " sessions in the store were deleted: nobody called for them "
                      "within their time to live"));
  }
  stats_.tenant_stored_bytes.Set(std::move(left->tenant_bytes));
}

void SessionManager::Impl::Sweep() {
  DisownUnheard();
  std::vector<std::pair<std::string, Claim>> to_give_up;
  Moves moves;
  {
    const MutexLock lock(mu_);
    to_give_up.swap(to_give_up_);
    sweep_demand_.BeginSweep();
    moves = ChooseMoves(TakeStock());
  }
  for (auto& [id, claim] : to_give_up) {
    Async([this, id = std::move(id), claim = claim] { GiveUp(id, claim); },
          Urgency::kBackground);
  }
  for (const SessionPtr& session : moves.to_expire) Expire(session);
  for (const auto& [session, mode] : moves.to_park) {
    StartPark(session, mode, ParkLimit::kQuota,
              mode == ParkMode::kOfCall ? Urgency::kCall : Urgency::kBackground,
              [](const absl::Status&) {});
  }
  for (std::shared_ptr<KeptPrefix>& kept : moves.to_rest) {
    scheduler_.MoveToHost(std::move(kept));
  }
}

SessionManager::Impl::Stock SessionManager::Impl::TakeStock() {
  Stock stock;
  std::int64_t busy = 0, alive = 0, leaving = 0;
  std::map<std::string, std::int64_t> held, staying;  // bytes by tenant
  for (const SessionPtr& session : table_.All()) {
    busy += session->busy && session->takes_place ? 1 : 0;
    held[session->tenant] += session->host_bytes();
    if (session->parking > 0) {
      leaving += session->host_bytes();
    } else {
      staying[session->tenant] += session->host_bytes();
    }
    if (session->kept != nullptr &&
        session->kept->place() == KeptPrefix::Place::kDevice) {
      ++alive;
    }
    if (!session->busy && session->parking == 0) stock.idle.push_back(session);
  }
  const std::int64_t bytes = table_.CountAll();
  stats_.host_bytes = bytes;
  stats_.tenant_host_bytes.Set(std::move(held));
  stats_.busy = busy;
  stats_.alive = alive;
  stats_.resting = table_.num_places() - alive;

  stock.bytes = bytes - leaving;
  for (const auto& [tenant, mine] : staying) {
    const std::int64_t limit = QuotaOf(tenant).max_resident_bytes;
    if (mine > limit) stock.excess[tenant] = mine - SomeRoomIn(limit);
  }
  // The order matters where not all of them go.
  if (bytes > options_.host_bytes || !stock.excess.empty()) {
    std::ranges::sort(stock.idle, {}, [](const SessionPtr& s) { return s->last_used; });
  }
  return stock;
}

SessionManager::Impl::Moves SessionManager::Impl::ChooseMoves(Stock stock) {
  Moves moves;
  const TimePoint now = clock_.Now();
  const std::int64_t goal =
      stock.bytes > options_.host_bytes ? SomeRoomIn(options_.host_bytes) : stock.bytes;
  std::ptrdiff_t claiming = 0;
  for (const SessionPtr& session : stock.idle) {
    const auto unused = now - session->last_used;
    if (Reached(unused, options_.time_to_live)) {
      session->busy = true;
      moves.to_expire.push_back(session);
      continue;
    }
    const bool long_idle = store_ != nullptr && Reached(unused, options_.idle_to_park);
    const auto beyond = stock.excess.find(session->tenant);
    const bool too_much = beyond != stock.excess.end() && beyond->second > 0;
    const bool park = (stock.bytes > goal || too_much || long_idle) &&
                      session->retry_park <= std::chrono::steady_clock::now();
    if (park && Parks(session->tenant)) {
      const ParkMode mode = ModeFor(*session);
      if (mode == ParkMode::kOfCall && claiming++ >= kParksAtOnce) continue;
      if (mode == ParkMode::kBesideCalls && !sweep_demand_.MayPark()) break;
      stock.bytes -= session->host_bytes();
      if (too_much) beyond->second -= session->host_bytes();
      BeginPark(session, mode);
      moves.to_park.emplace_back(session, mode);
    } else if ((long_idle || Reached(unused, options_.idle_to_rest)) &&
               !session->resting) {
      // One that should be parked by its time, and cannot be, rests.
      session->resting = true;
      moves.to_rest.push_back(session->kept);
    }
  }
  return moves;
}

void SessionManager::Impl::Expire(const SessionPtr& session) {
  std::optional<Claim> claim;
  {
    const MutexLock lock(mu_);
    if (store_ != nullptr) claim = ClaimToDelete(*session);
  }
  // Without a good claim another may have gone on with what is stored; the store forgets
  // that in its own time.
  if (!claim.has_value()) {
    ++stats_.expired;
    return Forget(session);
  }
  Async(
      session->tenant,
      [this, session, claim = *claim] {
        const absl::Status deleted = store_->Delete(session->id, claim);
        const bool over = deleted.ok() || absl::IsNotFound(deleted) ||
                          absl::IsFailedPrecondition(deleted);
        if (over) {
          ++stats_.expired;
          return Forget(session);
        }
        bool doomed = false;
        {
          const MutexLock lock(mu_);
          session->claim_in_doubt = true;
          doomed = LetGo(*session);  // it was not used: the next sweep tries again
          changed_.NotifyAll();
        }
        if (doomed) DeleteDoomed(session);
      },
      Urgency::kBackground);
}

// False when the manager stops.
bool SessionManager::Impl::SleepUntil(std::chrono::steady_clock::time_point until) {
  const MutexLock lock(mu_);
  while (!stopping_) {
    if (!changed_.WaitUntil(mu_, until)) break;
  }
  return !stopping_;
}

void SessionManager::Impl::RunLease() {
  const auto look_every = std::chrono::nanoseconds(options_.lease) / kLooks;
  const auto renew_every = std::chrono::nanoseconds(options_.lease) / kRenewals;
  auto renew_at = std::chrono::steady_clock::now() + renew_every;
  while (SleepUntil(std::chrono::steady_clock::now() + look_every)) {
    const auto now = std::chrono::steady_clock::now();
    // Renewing a lease that lapsed may leave to others at once what it held, so calls that
    // run are interrupted before.
    const bool good = LookAtLease();
    if (good && now < renew_at) continue;
    // One that failed is tried again at the next look.
    if (Renew()) renew_at = now + renew_every;
    InterruptLost();  // if the store had lost the lease, this one is another
  }
}

bool SessionManager::Impl::Renew() {
  {
    const MutexLock lock(mu_);
    ++under_way_;
  }
  const absl::Status renewed = store_->Renew();
  bool news = false;
  {
    const MutexLock lock(mu_);
    --under_way_;
    changed_.NotifyAll();
    if (renewed.ok()) {
      renewal_errors_.clear();
    } else {
      news = renewal_errors_.insert(std::string(renewed.message())).second;
    }
  }
  // It is tried many times a minute, so each reason is told once.
  if (news) {
    Warn(absl::StrCat("the lease on sessions could not be renewed: ", renewed.message()));
  }
  return renewed.ok();
}

// Not on the thread that renews: a store that does not answer holds that one up.
void SessionManager::Impl::RunLapses() {
  const auto look_every = std::chrono::nanoseconds(options_.lease) / kLooks;
  while (SleepUntil(std::chrono::steady_clock::now() + look_every)) LookAtLease();
}

// Whether it is good. Of the two threads that look, whichever sees a change first counts
// and tells it.
bool SessionManager::Impl::LookAtLease() {
  bool good = false, changed = false;
  {
    const MutexLock lock(mu_);
    good = store_->lease_is_good();
    changed = std::exchange(lease_was_good_, good) != good;
    if (changed && !good) ++stats_.lease_lapses;
    stats_.lease_good = good ? 1 : 0;
  }
  if (changed) {
    Warn(good ? "the lease on sessions is good again"
              : "the lease on sessions lapsed; calls on them are refused");
  }
  InterruptLost();
  return good;
}

// Who may have lost a session stops at once; another replica may be going on with it.
void SessionManager::Impl::InterruptLost() {
  std::vector<RequestId> requests;
  {
    const MutexLock lock(mu_);
    for (const SessionPtr& session : table_.All()) {
      if (session->request.has_value() && !HasGoodClaim(*session)) {
        requests.push_back(*session->request);
        session->request.reset();
      }
    }
  }
  for (const RequestId id : requests) {
    scheduler_.Interrupt(
        id, absl::UnavailableError("this server's lease on the session lapsed"));
  }
}

std::int64_t SessionManager::Impl::ParkAll(
    std::chrono::steady_clock::time_point deadline) {
  const std::int64_t left = ParkUntil(deadline);
  std::int64_t failures = 0;
  {
    const MutexLock lock(mu_);
    failures = std::exchange(drain_failures_, 0);
  }
  if (failures > 0) {
    Warn(absl::StrCat(failures, " attempts to park sessions failed during the drain; ",
                      left, " sessions are left"));
  }
  return left;
}

std::int64_t SessionManager::Impl::ParkUntil(
    std::chrono::steady_clock::time_point deadline) {
  const MutexLock lock(mu_);
  draining_ = true;
  if (store_ == nullptr) return table_.size();
  std::vector<SessionPtr> queue;
  // Others can go on with a session when its claim is given up, too.
  while (table_.size() > 0 || releasing_ > 0) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) break;
    auto wake = deadline;
    if (queue.empty()) {
      for (const SessionPtr& session : table_.All()) {
        if (session->busy || session->parking > 0) continue;
        if (session->retry_park > now) {
          wake = std::min(wake, session->retry_park);
        } else {
          queue.push_back(session);
        }
      }
    }
    std::vector<SessionPtr> next;
    while (!queue.empty() && parking_all_ < kParksAtOnce) {
      const SessionPtr session = std::move(queue.back());
      queue.pop_back();
      // It may have been used, or gone, since it was queued.
      if (session->busy || session->parking > 0 ||
          table_.Find(session->tenant, session->id) != session) {
        continue;
      }
      BeginPark(session, ParkMode::kOfCall);
      ++parking_all_;
      next.push_back(session);
    }
    if (next.empty()) {
      changed_.WaitUntil(mu_, wake);
      continue;
    }
    mu_.Unlock();
    for (const SessionPtr& session : next) {
      StartPark(session, ParkMode::kOfCall, ParkLimit::kNone, Urgency::kCall,
                [this](const absl::Status&) {
                  const MutexLock ended(mu_);
                  --parking_all_;
                  changed_.NotifyAll();
                });
    }
    mu_.Lock();
  }
  return table_.size();
}

void SessionManager::Impl::LetGoOfStore(std::chrono::steady_clock::time_point deadline) {
  if (store_ == nullptr) return;
  {
    const MutexLock lock(mu_);
    while (under_way_ > 0 && changed_.WaitUntil(mu_, deadline)) {
    }
    if (under_way_ == 0) return;
  }
  store_->Abandon();
}

}  // namespace goldfinch
