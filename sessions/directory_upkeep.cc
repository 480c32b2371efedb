// What a DirectoryStore removes by itself: expired snapshots, and what servers that are
// gone have left.
#include <utility>

#include "sessions/directory_files.h"
#include "sessions/directory_lock.h"
#include "sessions/directory_store.h"
#include "sessions/session_id.h"

namespace goldfinch {

bool DirectoryStore::RemoveIfExpired(const std::string& id) {
  const auto stored = Describe(id, owner_);
  if (!stored.ok() || stored->claimed) return false;
  const auto age = options_.clock->World() - stored->stored_at.time_since_epoch();
  if (age < options_.time_to_live) return false;
  CountOut(id);
  RemoveFile(directory_.get(), FileName(id, kSnapshotSuffix));
  RemoveFile(directory_.get(), FileName(id, kClaimSuffix));
  return true;
}

// Temporary and spare files, claims of nothing, and leases, whose owner is gone.
void DirectoryStore::RemoveIfLeftOver(const std::string& name) {
  if (name.ends_with(kTemporarySuffix)) {
    // STEM.OWNER-NUMBER.tmp
    const std::size_t dot = name.find('.');
    const std::string owner = name.substr(dot + 1, 32);
    if (IsSessionId(owner) && !IsLive(owner)) RemoveFile(directory_.get(), name);
    return;
  }
  for (const std::string_view suffix : {kOwnerSuffix, kSpareSuffix}) {
    const std::string owner = StemOf(name, suffix);
    if (!owner.empty() && !IsLive(owner)) RemoveFile(directory_.get(), name);
  }
  const std::string id = StemOf(name, kClaimSuffix);
  if (!id.empty()) RemoveClaimIfLeftOver(id);
}

void DirectoryStore::RemoveClaimIfLeftOver(const std::string& id) {
  const std::string snapshot = FileName(id, kSnapshotSuffix);
  const auto claim = ReadClaim(id);
  if (!claim.ok()) return;
  bool stored = faccessat(directory_.get(), snapshot.c_str(), F_OK, 0) == 0;
  if (stored && claim->deleted_at.has_value()) {
    CountOut(id);
    RemoveFile(directory_.get(), snapshot);
    stored = false;
  }
  if (stored || IsLive(claim->owner) || IsDeleted(*claim)) return;
  RemoveFile(directory_.get(), FileName(id, kClaimSuffix));
}

// One at a time, here and below, so that nobody waits for all of them.
absl::Status DirectoryStore::RemoveLeftOvers(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (!StemOf(name, kSnapshotSuffix).empty()) continue;
    const MutexLock lock(mu_);
    const Locked locked(*this);
    if (!locked.status().ok()) return locked.status();
    RemoveIfLeftOver(name);
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreUsage> DirectoryStore::RemoveExpired() {
  const auto names = FileNames(directory_.get());
  if (!names.ok()) return names.status();
  const absl::Status status = RemoveLeftOvers(*names);
  if (!status.ok()) return status;
  StoreUsage left;
  for (const std::string& name : *names) {
    const std::string id = StemOf(name, kSnapshotSuffix);
    if (id.empty()) continue;
    if (options_.time_to_live.count() == 0) {
      ++left.snapshots;
      continue;
    }
    const MutexLock lock(mu_);
    const Locked locked(*this);
    if (!locked.status().ok()) return locked.status();
    ++(RemoveIfExpired(id) ? left.expired : left.snapshots);
  }
  const MutexLock lock(mu_);
  const Locked locked(*this);
  if (!locked.status().ok()) return locked.status();
  auto totals = totals_.OfAll();
  if (!totals.ok()) return totals.status();
  left.tenant_bytes = *std::move(totals);
  return left;
}

}  // namespace goldfinch
