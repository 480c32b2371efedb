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

bool SessionTable::Remove(const SessionPtr& session) {
  const auto it = sessions_.find(session->id);
  if (it == sessions_.end() || it->second != session) return false;
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
  for (auto it = sessions_.upper_bound(after);
       it != sessions_.end() && found.size() < limit; ++it) {
    if (it->second->tenant == tenant) found.push_back(it->second);
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
  for (const auto& [id, session] : sessions_) {
    if (session->tenant != tenant) continue;
    ++holding.sessions;
    holding.host_bytes += session->host_bytes();
  }
  return holding;
}

}  // namespace goldfinch
