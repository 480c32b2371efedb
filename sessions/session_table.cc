#include "sessions/session_table.h"

#include <unordered_set>

namespace goldfinch {

SessionPtr SessionTable::Find(const std::string& tenant, const std::string& id) const {
  const auto it = sessions_.find({tenant, id});
  return it == sessions_.end() ? nullptr : it->second;
}

void SessionTable::Add(SessionPtr session) {
  SessionPtr& held = sessions_[{session->tenant, session->id}];
  if (held != nullptr) {
    CountPlace(*held, -1);
    SetCounted(*held, 0);
  }
  held = std::move(session);
  CountPlace(*held, +1);
  SetCounted(*held, held->host_bytes());
}

bool SessionTable::Remove(const SessionPtr& session) {
  const auto it = sessions_.find({session->tenant, session->id});
  if (it == sessions_.end() || it->second != session) return false;
  SetCounted(*session, 0);
  CountPlace(*session, -1);
  sessions_.erase(it);
  return true;
}

void SessionTable::CountPlace(const HeldSession& session, std::int64_t sign) {
  if (!session.takes_place) return;
  num_places_ += sign;
  const auto num = num_of_.try_emplace(session.tenant).first;
  num->second += sign;
  if (num->second == 0) num_of_.erase(num);
}

std::vector<SessionPtr> SessionTable::All() const {
  std::vector<SessionPtr> all;
  all.reserve(sessions_.size());
  for (const auto& [key, session] : sessions_) all.push_back(session);
  return all;
}

std::vector<SessionPtr> SessionTable::AllOf(const std::string& tenant) const {
  std::vector<SessionPtr> all;
  for (auto it = sessions_.lower_bound({tenant, ""});
       it != sessions_.end() && it->first.first == tenant; ++it) {
    all.push_back(it->second);
  }
  return all;
}

std::vector<SessionPtr> SessionTable::LoadedAfter(const std::string& tenant,
                                                  const std::string& after,
                                                  std::size_t limit) const {
  std::vector<SessionPtr> found;
  for (auto it = sessions_.upper_bound({tenant, after});
       it != sessions_.end() && it->first.first == tenant && found.size() < limit; ++it) {
    if (it->second->kept != nullptr) found.push_back(it->second);
  }
  return found;
}

std::int64_t SessionTable::CountAll() {
  std::unordered_set<const KeptPrefix*> seen;
  for (const auto& [key, session] : sessions_) {
    const bool first = seen.insert(session->kept.get()).second;
    SetCounted(*session, first ? session->host_bytes() : 0);
  }
  exact_ = true;
  return host_bytes_;
}

void SessionTable::Count(const SessionPtr& session) {
  if (Find(session->tenant, session->id) != session) return;
  SetCounted(*session, session->host_bytes());
}

std::int64_t SessionTable::NumOf(const std::string& tenant) const {
  const auto it = num_of_.find(tenant);
  return it == num_of_.end() ? 0 : it->second;
}

std::int64_t SessionTable::HostBytesOf(const std::string& tenant) const {
  std::int64_t bytes = 0;
  for (auto it = sessions_.lower_bound({tenant, ""});
       it != sessions_.end() && it->first.first == tenant; ++it) {
    bytes += it->second->host_bytes();
  }
  return bytes;
}

}  // namespace goldfinch
