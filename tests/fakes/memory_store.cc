#include "tests/fakes/memory_store.h"

#include <utility>

#include "absl/status/status.h"
#include "engine/check.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

// One that shares nothing: ThreadSanitizer does not see how the packaged Abseil counts
// the owners of a status.
absl::Status Again(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

}  // namespace

void MemoryMedium::Fail(bool fails) {
  const MutexLock lock(mu_);
  fails_ = fails;
}

void MemoryMedium::FailReleases(absl::Status status) {
  const MutexLock lock(mu_);
  releases_ = std::move(status);
}

void MemoryMedium::FailPuts(absl::Status status) {
  const MutexLock lock(mu_);
  puts_ = std::move(status);
}

void MemoryMedium::FailGets(absl::Status status) {
  const MutexLock lock(mu_);
  gets_ = std::move(status);
}

void MemoryMedium::FailClaims(absl::Status status) {
  const MutexLock lock(mu_);
  claims_ = std::move(status);
}

void MemoryMedium::FailDeletes(absl::Status status) {
  const MutexLock lock(mu_);
  deletes_ = std::move(status);
}

void MemoryMedium::WaitForFailedDeletes(int count) {
  const MutexLock lock(mu_);
  while (failed_deletes_ < count) changed_.Wait(mu_);
}

void MemoryMedium::FailRenewals(int count) {
  const MutexLock lock(mu_);
  failing_renewals_ = count;
}

void MemoryMedium::CrossNextPuts() {
  const MutexLock lock(mu_);
  crossing_ = Crossing::kAwaitsFirst;
}

void MemoryMedium::WaitForFirstPut() {
  const MutexLock lock(mu_);
  while (crossing_ == Crossing::kAwaitsFirst) changed_.Wait(mu_);
}

void MemoryMedium::WaitForSecondPut() {
  const MutexLock lock(mu_);
  while (crossing_ != Crossing::kHasBoth) changed_.Wait(mu_);
}

void MemoryMedium::LetSecondPutGo() {
  const MutexLock lock(mu_);
  crossing_ = Crossing::kNo;
  changed_.NotifyAll();
}

void MemoryMedium::AfterNextRelease(std::function<void()> then) {
  const MutexLock lock(mu_);
  after_release_ = std::move(then);
}

void MemoryMedium::LoseNextClaim() {
  const MutexLock lock(mu_);
  loses_claim_ = true;
}

void MemoryMedium::LoseNextDelete() {
  const MutexLock lock(mu_);
  loses_delete_ = true;
}

void MemoryMedium::HoldClaims() {
  const MutexLock lock(mu_);
  holds_claims_ = true;
}

void MemoryMedium::WaitForHeldClaims(int count) {
  const MutexLock lock(mu_);
  while (held_claims_ < count) changed_.Wait(mu_);
}

void MemoryMedium::LetClaimsGo() {
  const MutexLock lock(mu_);
  holds_claims_ = false;
  changed_.NotifyAll();
}

void MemoryMedium::Spoil(const std::string& id,
                         const std::function<void(std::string&)>& spoil) {
  const MutexLock lock(mu_);
  spoil(entries_.at(id).bytes);
}

void MemoryMedium::Forget() {
  const MutexLock lock(mu_);
  entries_.clear();
  leases_.clear();
}

void MemoryMedium::Expire(std::int64_t count) {
  const MutexLock lock(mu_);
  expired_ = count;
}

std::string MemoryMedium::BytesOf(const std::string& id) const {
  const MutexLock lock(mu_);
  const auto it = entries_.find(id);
  return it == entries_.end() ? "" : it->second.bytes;
}

std::uint64_t MemoryMedium::GenerationOf(const std::string& id) const {
  const MutexLock lock(mu_);
  const auto it = entries_.find(id);
  return it == entries_.end() ? 0 : it->second.generation;
}

std::uint64_t MemoryMedium::EpochOf(const std::string& id) const {
  const MutexLock lock(mu_);
  const auto it = entries_.find(id);
  return it == entries_.end() ? 0 : it->second.epoch;
}

std::size_t MemoryMedium::size() const {
  const MutexLock lock(mu_);
  std::size_t stored = 0;
  for (const auto& [id, entry] : entries_) stored += entry.generation > 0 ? 1 : 0;
  return stored;
}

MemoryStore::MemoryStore(MemoryMedium& medium, std::string owner,
                         std::chrono::seconds lease)
    : medium_(medium), name_(std::move(owner)), lease_(lease) {
  GOLDFINCH_CHECK(Renew().ok());
}

std::string MemoryStore::owner() const {
  return name_ + "." + std::to_string(lease_number_);
}

bool MemoryStore::IsLive(const std::string& owner) const {
  const auto it = medium_.leases_.find(owner);
  return it != medium_.leases_.end() && it->second > medium_.clock_.Now();
}

absl::Status MemoryStore::Check() const {
  return medium_.fails_ || abandoned_
             ? absl::UnavailableError("the store does not answer")
             : absl::OkStatus();
}

bool MemoryStore::Holds(const MemoryMedium::Entry& entry, const Claim& claim) const {
  return claim.lease == lease_number_ && IsLive(owner()) && entry.owner == owner() &&
         entry.epoch == claim.epoch;
}

StoredSession MemoryStore::Describe(const std::string& id,
                                    const MemoryMedium::Entry& entry) const {
  StoredSession stored;
  stored.id = id;
  stored.info = entry.info;
  stored.generation = entry.generation;
  stored.bytes = entry.bytes.size();
  stored.claimed = IsLive(entry.owner);
  stored.held_elsewhere = stored.claimed && entry.owner != owner();
  return stored;
}

absl::StatusOr<StoreUsage> MemoryStore::RemoveExpired() {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  StoreUsage left;
  left.expired = std::exchange(medium_.expired_, 0);
  for (const auto& [id, entry] : medium_.entries_) {
    if (entry.generation == 0) continue;
    ++left.snapshots;
    left.tenant_bytes[entry.info.tenant] += std::ssize(entry.bytes);
  }
  return left;
}

absl::Status MemoryStore::Renew() {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  if (medium_.failing_renewals_ > 0) {
    --medium_.failing_renewals_;
    return absl::UnavailableError("no answer");
  }
  if (medium_.leases_.contains(owner()) && !IsLive(owner())) ++lease_number_;
  medium_.leases_[owner()] = medium_.clock_.Now() + lease_;
  return absl::OkStatus();
}

bool MemoryStore::lease_is_good() const {
  const MutexLock lock(medium_.mu_);
  return IsLive(owner());
}

bool MemoryStore::is_good(const Claim& claim) const {
  const MutexLock lock(medium_.mu_);
  return claim.lease == lease_number_ && IsLive(owner());
}

void MemoryStore::Abandon() {
  const MutexLock lock(medium_.mu_);
  abandoned_ = true;
  medium_.changed_.NotifyAll();
}

absl::StatusOr<Claim> MemoryStore::Acquire(std::string_view id, std::string_view tenant,
                                           AcquireMode mode) {
  const MutexLock lock(medium_.mu_);
  ++medium_.held_claims_;
  medium_.changed_.NotifyAll();
  while (medium_.holds_claims_ && !abandoned_) medium_.changed_.Wait(medium_.mu_);
  --medium_.held_claims_;
  if (absl::Status status = Check(); !status.ok()) return status;
  if (!medium_.claims_.ok()) return Again(medium_.claims_);
  if (!IsLive(owner())) return absl::UnavailableError("the lease has lapsed");
  const auto it = medium_.entries_.find(std::string(id));
  const bool stored = it != medium_.entries_.end() && it->second.generation > 0;
  if (it != medium_.entries_.end() && it->second.IsForeign(tenant)) {
    return NoSuchSession();
  }
  if (it != medium_.entries_.end() && it->second.owner != owner() &&
      IsLive(it->second.owner)) {
    return HeldElsewhere();
  }
  if (!stored && mode == AcquireMode::kStored) {
    return NoSuchSession();
  }
  if (it != medium_.entries_.end() && it->second.deleted &&
      medium_.clock_.Now() < it->second.deleted_until) {
    return NoSuchSession();
  }
  MemoryMedium::Entry& entry = medium_.entries_[std::string(id)];
  entry.owner = owner();
  entry.info.tenant = tenant;
  entry.deleted = false;
  ++entry.epoch;
  if (std::exchange(medium_.loses_claim_, false)) {
    return absl::UnavailableError("no answer");
  }
  return Claim{
      .epoch = entry.epoch, .generation = entry.generation, .lease = lease_number_};
}

absl::Status MemoryStore::Release(std::string_view id, const Claim& claim) {
  std::function<void()> then;
  {
    const MutexLock lock(medium_.mu_);
    if (absl::Status status = Check(); !status.ok()) return status;
    if (!medium_.releases_.ok()) return Again(medium_.releases_);
    const auto it = medium_.entries_.find(std::string(id));
    if (it != medium_.entries_.end() && Holds(it->second, claim)) it->second.owner = "";
    then = std::exchange(medium_.after_release_, nullptr);
  }
  if (then != nullptr) then();
  return absl::OkStatus();
}

absl::Status MemoryStore::Disown(std::string_view id) {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  const auto it = medium_.entries_.find(std::string(id));
  if (it != medium_.entries_.end() && it->second.owner == owner()) it->second.owner = "";
  return absl::OkStatus();
}

absl::Status MemoryStore::Put(std::string_view id, const Claim& claim,
                              std::uint64_t generation, const SnapshotInfo& info,
                              std::span<const std::string_view> bytes,
                              std::int64_t max_tenant_bytes) {
  using Crossing = MemoryMedium::Crossing;
  const MutexLock lock(medium_.mu_);
  if (medium_.crossing_ == Crossing::kAwaitsFirst) {
    medium_.crossing_ = Crossing::kHasFirst;
    medium_.changed_.NotifyAll();
    while (medium_.crossing_ == Crossing::kHasFirst) medium_.changed_.Wait(medium_.mu_);
  } else if (medium_.crossing_ == Crossing::kHasFirst) {
    absl::Status put = PutNow(id, claim, generation, info, bytes, max_tenant_bytes);
    medium_.crossing_ = Crossing::kHasBoth;
    medium_.changed_.NotifyAll();
    while (medium_.crossing_ == Crossing::kHasBoth) medium_.changed_.Wait(medium_.mu_);
    return put;
  }
  return PutNow(id, claim, generation, info, bytes, max_tenant_bytes);
}

absl::Status MemoryStore::PutNow(std::string_view id, const Claim& claim,
                                 std::uint64_t generation, const SnapshotInfo& info,
                                 std::span<const std::string_view> bytes,
                                 std::int64_t max_tenant_bytes) {
  if (absl::Status status = Check(); !status.ok()) return status;
  if (!medium_.puts_.ok()) return Again(medium_.puts_);
  const auto it = medium_.entries_.find(std::string(id));
  if (it == medium_.entries_.end() || !Holds(it->second, claim) ||
      generation <= it->second.generation || info.tenant != it->second.info.tenant) {
    return absl::FailedPreconditionError("the claim is lost, or the snapshot is old");
  }
  std::int64_t size = 0;
  for (const std::string_view piece : bytes) size += std::ssize(piece);
  const std::int64_t grown = size - std::ssize(it->second.bytes);
  const std::int64_t total = BytesOf(info.tenant) + grown;
  if (total > max_tenant_bytes && (grown > 0 || it->second.generation == 0)) {
    return OverTenantLimit(total, max_tenant_bytes);
  }
  it->second.generation = generation;
  it->second.info = info;
  it->second.bytes.clear();
  for (const std::string_view piece : bytes) it->second.bytes.append(piece);
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryStore::Get(std::string_view id,
                                             std::int64_t max_bytes) {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  if (!medium_.gets_.ok()) return Again(medium_.gets_);
  const auto it = medium_.entries_.find(std::string(id));
  if (it == medium_.entries_.end() || it->second.generation == 0) {
    return NoSuchSession();
  }
  if (std::ssize(it->second.bytes) > max_bytes) return OverReadersLimit(max_bytes);
  return it->second.bytes;
}

std::int64_t MemoryStore::BytesOf(std::string_view tenant) const {
  std::int64_t bytes = 0;
  for (const auto& [id, entry] : medium_.entries_) {
    if (entry.info.tenant == tenant) bytes += std::ssize(entry.bytes);
  }
  return bytes;
}

absl::StatusOr<std::int64_t> MemoryStore::TenantBytes(std::string_view tenant) {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  return BytesOf(tenant);
}

absl::StatusOr<StoredSession> MemoryStore::Head(std::string_view id,
                                                std::string_view tenant) {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  const auto it = medium_.entries_.find(std::string(id));
  if (it == medium_.entries_.end() || it->second.info.tenant != tenant) {
    return NoSuchSession();
  }
  StoredSession stored = Describe(it->first, it->second);
  if (stored.generation > 0) return stored;
  return stored.held_elsewhere ? HeldElsewhere() : NoSuchSession();
}

absl::Status MemoryStore::Delete(std::string_view id, const Claim& claim) {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  if (!medium_.deletes_.ok()) {
    ++medium_.failed_deletes_;
    medium_.changed_.NotifyAll();
    return Again(medium_.deletes_);
  }
  const auto it = medium_.entries_.find(std::string(id));
  if (it == medium_.entries_.end()) return absl::NotFoundError("not stored");
  if (!Holds(it->second, claim)) return absl::FailedPreconditionError("not claimed");
  const bool stored = it->second.generation > 0;
  // The epoch stays, so that old claims stay void.
  const std::uint64_t epoch = it->second.epoch;
  it->second = MemoryMedium::Entry();
  it->second.epoch = epoch;
  it->second.deleted = stored;
  it->second.deleted_until = medium_.clock_.Now() + kDeletedLeases * lease_;
  if (std::exchange(medium_.loses_delete_, false)) {
    return absl::UnavailableError("no answer");
  }
  return stored ? absl::OkStatus() : absl::NotFoundError("not stored");
}

absl::StatusOr<std::vector<StoredSession>> MemoryStore::List(std::string_view tenant,
                                                             std::string_view after,
                                                             std::size_t limit) {
  const MutexLock lock(medium_.mu_);
  if (absl::Status status = Check(); !status.ok()) return status;
  std::vector<StoredSession> found;
  for (auto it = medium_.entries_.upper_bound(std::string(after));
       it != medium_.entries_.end() && found.size() < limit; ++it) {
    if (it->second.generation > 0 && it->second.info.tenant == tenant) {
      found.push_back(Describe(it->first, it->second));
    }
  }
  return found;
}

}  // namespace goldfinch
