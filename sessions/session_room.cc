// Whether there is room for a session, and what moves to the store to make some.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/retry_after.h"
#include "sessions/session_manager_impl.h"

namespace goldfinch {
namespace {

// Of one tenant's sessions, parked at once to make room for its next one.
constexpr std::int64_t kLeavingAtOnce = 4;

}  // namespace

absl::Status SessionManager::Impl::CheckOpen() const {
  if (!draining_ && !stopping_) return absl::OkStatus();
  return ShuttingDown();
}

bool SessionManager::Impl::Parks(const std::string& tenant) const {
  if (store_ == nullptr || clock_.Now() < next_park_ || stopping_) return false;
  const auto full = store_full_.find(tenant);
  return full == store_full_.end() || clock_.Now() >= full->second;
}

absl::Status SessionManager::Impl::CheckQueue(const std::string& tenant) const {
  const auto waiting = waiting_.find(tenant);
  const std::int64_t num = io_->NumWaiting(tenant) +
                           (waiting == waiting_.end() ? 0 : std::ssize(waiting->second));
  if (num < options_.max_waiting_calls) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(num, " calls of this tenant wait for the session store; the limit is ",
                   options_.max_waiting_calls));
}

absl::Status SessionManager::Impl::CheckRoom(const std::string& tenant) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (table_.num_places() >= options_.max_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the server holds ", table_.num_places(), " sessions; the limit is ",
                     options_.max_sessions));
  }
  // With a store that takes them, the sweep makes room.
  std::int64_t bytes = table_.host_bytes();
  const bool full = bytes >= options_.host_bytes && !Parks(tenant);
  // Forks that came since the last sweep count each for itself; nobody is refused for
  // that. Those who are refused change nothing, so that a flood of them is not counted
  // for.
  if (full && !table_.exact()) bytes = table_.CountAll();
  if (full && bytes >= options_.host_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "sessions take ", bytes, " bytes of memory; the limit is ", options_.host_bytes));
  }
  const SessionQuota quota = QuotaOf(tenant);
  const std::int64_t held = table_.NumOf(tenant);
  if (held >= quota.max_sessions) {
    return ForCallerToClear(absl::ResourceExhaustedError(absl::StrCat(
        "this tenant holds ", held, " sessions; the limit is ", quota.max_sessions)));
  }
  return absl::OkStatus();
}

absl::Status SessionManager::Impl::CheckResident(const std::string& tenant) const {
  const std::int64_t held = table_.HostBytesOf(tenant);
  const std::int64_t limit = QuotaOf(tenant).max_resident_bytes;
  if (held < limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "this tenant's sessions take ", held, " bytes of memory; the limit is ", limit));
}

absl::Status SessionManager::Impl::GiveRoom(const std::string& tenant,
                                            const SessionPtr& name) {
  absl::Status room = CheckResident(tenant);
  if (name == nullptr || !room.ok()) return room;
  room = CheckRoom(tenant);
  if (room.ok()) table_.Add(name);
  return room;
}

void SessionManager::Impl::WithRoom(const std::string& tenant, RoomWork work,
                                    SessionPtr name) {
  Async(tenant, [this, tenant, wait = RoomWait{std::move(work), std::move(name)}] {
    {
      const MutexLock lock(mu_);
      waiting_[tenant].push_back(wait);
    }
    MakeRoom(tenant);
  });
}

// Runs what waits first, if there is room, or refuses it when none can be made; the next
// one comes in its tenant's next turn. What is parked meanwhile comes here at its end.
void SessionManager::Impl::MakeRoom(const std::string& tenant) {
  RoomWait next;
  absl::Status room;
  Leaving leaving;
  bool more = false;
  {
    const MutexLock lock(mu_);
    const auto queue = waiting_.find(tenant);
    if (queue == waiting_.end()) return;
    const SessionPtr& name = queue->second.front().name;
    room = CheckOpen();
    if (room.ok() && name != nullptr && table_.Find(tenant, name->id) != nullptr) {
      room = SessionInUse();  // another call came first
    } else if (room.ok()) {
      room = GiveRoom(tenant, name);
      if (!room.ok()) leaving = PickLeaving(tenant);
    }
    if (!leaving.any) {
      next = std::move(queue->second.front());
      queue->second.pop_front();
      more = !queue->second.empty();
      if (!more) waiting_.erase(queue);
    }
  }
  for (const auto& [session, mode] : leaving.next) {
    StartPark(session, mode, ParkLimit::kQuota, Urgency::kCall,
              [](const absl::Status&) {});
  }
  if (leaving.any) return;
  if (more) Async(tenant, [this, tenant] { MakeRoom(tenant); });
  next.work(room);
}

std::vector<std::string> SessionManager::Impl::WaitingFor(
    const std::string& parked) const {
  std::vector<std::string> tenants;
  for (const auto& [tenant, queue] : waiting_) {
    const bool any_place = std::ranges::any_of(
        queue, [](const RoomWait& wait) { return wait.name != nullptr; });
    if (any_place || tenant == parked) tenants.push_back(tenant);
  }
  return tenants;
}

// Its own, until what stays leaves some room in its memory and a place for each of its
// names that wait; then anybody's, until the server has these places too.
SessionManager::Impl::Leaving SessionManager::Impl::PickLeaving(
    const std::string& tenant) {
  Leaving leaving;
  const SessionQuota quota = QuotaOf(tenant);
  const std::int64_t num_waiting = std::ranges::count_if(
      waiting_[tenant], [](const RoomWait& wait) { return wait.name != nullptr; });
  std::int64_t places = std::min(num_waiting, quota.max_sessions);
  const std::int64_t goal = CheckResident(tenant).ok()
                                ? kNoQuota.max_resident_bytes
                                : SomeRoomIn(quota.max_resident_bytes);
  const std::int64_t num_staying = PickOldest(
      table_.AllOf(tenant), kLeavingAtOnce,
      [&](const HeldSession& session, std::int64_t num, std::int64_t bytes) {
        const bool too_many = places > 0 && num > quota.max_sessions - places;
        return too_many || (bytes > goal && session.host_bytes() > 0);
      },
      leaving);
  places = std::min(places, quota.max_sessions - num_staying);
  const std::int64_t others = options_.max_sessions - places;
  // Who cannot give up places takes none of others'.
  if (places <= 0 || table_.num_places() <= others || !Parks(tenant)) return leaving;
  PickOldest(
      table_.All(), kParksAtOnce,
      [&](const HeldSession&, std::int64_t num, std::int64_t) { return num > others; },
      leaving);
  return leaving;
}

std::int64_t SessionManager::Impl::PickOldest(std::vector<SessionPtr> sessions,
                                              std::int64_t at_once, const Goes& goes,
                                              Leaving& leaving) {
  std::vector<SessionPtr> idle;
  std::int64_t num_staying = 0, bytes_staying = 0, num_leaving = 0;
  const auto now = std::chrono::steady_clock::now();
  for (SessionPtr& session : sessions) {
    if (!session->takes_place) continue;
    if (session->parking > 0) {
      ++num_leaving;
      continue;
    }
    ++num_staying;
    bytes_staying += session->host_bytes();
    const bool movable =
        !session->busy && session->retry_park <= now && Parks(session->tenant);
    if (movable) idle.push_back(std::move(session));
  }
  // A heap: few of many are wanted.
  const auto younger = [](const SessionPtr& a, const SessionPtr& b) {
    return a->last_used > b->last_used;
  };
  std::ranges::make_heap(idle, younger);
  for (; !idle.empty() && num_leaving < at_once; idle.pop_back()) {
    std::ranges::pop_heap(idle, younger);
    SessionPtr& session = idle.back();
    if (!goes(*session, num_staying, bytes_staying)) continue;
    --num_staying;
    bytes_staying -= session->host_bytes();
    ++num_leaving;
    const ParkMode mode = ModeFor(*session);
    BeginPark(session, mode);
    leaving.next.emplace_back(std::move(session), mode);
  }
  leaving.any = leaving.any || num_leaving > 0;
  return num_staying;
}

}  // namespace goldfinch
