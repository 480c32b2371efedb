#include "sessions/session_table.h"

#include <unordered_set>

#include "absl/status/status.h"

namespace goldfinch {

SessionPtr SessionTable::Find(const std::string& id) const {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second;
}

absl::StatusOr<SessionPtr> SessionTable::FindFor(const std::string& tenant,
                                                 const std::string& id) const {
  SessionPtr session = Find(id);
  if (session != nullptr && session->tenant != tenant) {
    return NoSuchSession();
  }
  return session;
}

void SessionTable::Add(SessionPtr session) {
  if (const SessionPtr old = Find(session->id); old != nullptr) Remove(old);
  by_tenant_[{session->tenant, session->id}] = session;
  sessions_[session->id] = std::move(session);
}

bool SessionTable::Remove(const SessionPtr& session) {
  const auto it = sessions_.find(session->id);
  if (it == sessions_.end() || it->second != session) return false;
  by_tenant_.erase({session->tenant, session->id});
  sessions_.erase(it);
  return true;
}

std::vector<SessionPtr> SessionTable::All() const {
  std::vector<SessionPtr> all;
  all.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) all.push_back(session);
  return all;
}

std::vector<SessionPtr> SessionTable::After(const std::string& tenant,
                                            const std::string& after,
                                            std::size_t limit) const {
  std::vector<SessionPtr> found;
  for (auto it = by_tenant_.upper_bound({tenant, after});
       it != by_tenant_.end() && it->first.first == tenant && found.size() < limit;
       ++it) {
    found.push_back(it->second);
  }
  return found;
}

std::int64_t SessionTable::HostBytes() const {
  std::unordered_set<const KeptPrefix*> seen;
  std::int64_t bytes = 0;
  for (const auto& [id, session] : sessions_) {
    const KeptPrefix* kept = session->kept.get();
    if (kept != nullptr && seen.insert(kept).second) bytes += session->host_bytes();
  }
  return bytes;
}

SessionTable::Holding SessionTable::HoldingOf(const std::string& tenant) const {
  Holding holding;
  for (auto it = by_tenant_.lower_bound({tenant, ""});
       it != by_tenant_.end() && it->first.first == tenant; ++it) {
    ++holding.sessions;
    holding.host_bytes += it->second->host_bytes();
  }
  return holding;
}

}  // namespace goldfinch
