// Whether there is room for a session, and what moves to the store to make some.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions/session_manager_impl.h"

namespace goldfinch {
namespace {

// Of one tenant's sessions, parked at once to make room for its next one.
constexpr std::ptrdiff_t kLeavingAtOnce = 4;

}  // namespace

absl::Status SessionManager::Impl::CheckOpen() const {
  if (!draining_ && !stopping_) return absl::OkStatus();
  return absl::UnavailableError("the server is shutting down");
}

bool SessionManager::Impl::Parks(const std::string& tenant) const {
  if (store_ == nullptr || clock_.Now() < next_park_ || stopping_) return false;
  const auto full = store_full_.find(tenant);
  return full == store_full_.end() || clock_.Now() >= full->second;
}

absl::Status SessionManager::Impl::CheckRoom(const std::string& tenant) const {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  if (table_.size() >= options_.max_sessions) {
    return absl::ResourceExhaustedError(absl::StrCat("the server holds ", table_.size(),
                                                     " sessions; the limit is ",
                                                     options_.max_sessions));
  }
  // With a store that takes them, the sweep makes room.
  if (host_bytes_ >= options_.host_bytes && !Parks(tenant)) {
    return absl::ResourceExhaustedError(absl::StrCat("sessions take ", host_bytes_.load(),
                                                     " bytes of memory; the limit is ",
                                                     options_.host_bytes));
  }
  const SessionQuota quota = QuotaOf(tenant);
  const std::int64_t held = table_.NumOf(tenant);
  if (held >= quota.max_sessions) {
    return absl::ResourceExhaustedError(absl::StrCat("this tenant holds ", held,
                                                     " sessions; the limit is ",
                                                     quota.max_sessions));
  }
  return absl::OkStatus();
}

absl::Status SessionManager::Impl::CheckResident(const std::string& tenant) const {
  const std::int64_t held = table_.HostBytesOf(tenant);
  const std::int64_t limit = QuotaOf(tenant).max_resident_bytes;
  if (held < limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("this tenant's sessions take ", held,
                   " bytes of memory; the limit is ", limit));
}

void SessionManager::Impl::WithRoom(const std::string& tenant, RoomWork work) {
  Async([this, tenant, work = std::move(work)] {
    bool room = false;
    {
      const MutexLock lock(mu_);
      room = !waiting_.contains(tenant) && CheckResident(tenant).ok();
      if (!room) waiting_[tenant].push_back(work);
    }
    room ? work(absl::OkStatus()) : MakeRoom(tenant);
  });
}

// Runs what waits, one after the other, as long as there is room, and refuses it when
// none can be made. What is parked meanwhile comes here at its end.
void SessionManager::Impl::MakeRoom(const std::string& tenant) {
  while (true) {
    RoomWork next;
    absl::Status room;
    Leaving leaving;
    {
      const MutexLock lock(mu_);
      const auto queue = waiting_.find(tenant);
      if (queue == waiting_.end()) return;
      room = CheckOpen();
      if (room.ok()) {
        room = CheckResident(tenant);
        if (!room.ok()) leaving = PickLeaving(tenant);
      }
      if (!leaving.any) {
        next = std::move(queue->second.front());
        queue->second.pop_front();
        if (queue->second.empty()) waiting_.erase(queue);
      }
    }
    for (const auto& [session, mode] : leaving.next) {
      StartPark(session, mode, ParkLimit::kQuota, Urgency::kCall,
                [](const absl::Status&) {});
    }
    if (leaving.any) return;
    next(room);
  }
}

// The tenant's own, used longest ago, until what stays leaves some room.
SessionManager::Impl::Leaving SessionManager::Impl::PickLeaving(
    const std::string& tenant) {
  Leaving leaving;
  std::vector<SessionPtr> idle;
  std::int64_t staying = 0;
  std::ptrdiff_t under_way = 0;
  const auto now = std::chrono::steady_clock::now();
  for (SessionPtr& session : table_.AllOf(tenant)) {
    if (session->parking > 0) {
      ++under_way;
      continue;
    }
    const std::int64_t bytes = session->host_bytes();
    staying += bytes;
    const bool movable = !session->busy && bytes > 0 && session->retry_park <= now;
    if (movable) idle.push_back(std::move(session));
  }
  leaving.any = under_way > 0;
  if (!Parks(tenant)) return leaving;
  std::ranges::sort(idle, {}, [](const SessionPtr& s) { return s->last_used; });
  const std::int64_t goal = SomeRoomIn(QuotaOf(tenant).max_resident_bytes);
  for (SessionPtr& session : idle) {
    if (staying <= goal || under_way == kLeavingAtOnce) break;
    staying -= session->host_bytes();
    ++under_way;
    const ParkMode mode = ModeFor(*session);
    BeginPark(session, mode);
    leaving.next.emplace_back(std::move(session), mode);
    leaving.any = true;
  }
  return leaving;
}

}  // namespace goldfinch
