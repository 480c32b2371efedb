#include "sessions/directory_store.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions/directory_files.h"
#include "sessions/directory_lock.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

absl::Status CheckTenant(std::string_view tenant) {
  if (tenant.size() <= kMaxTenantName) return absl::OkStatus();
  return absl::InvalidArgumentError("the tenant's name is too long to be stored");
}

// Of another tenant than `tenant`, as far as can be known of what is damaged.
bool IsForeign(const absl::StatusOr<SnapshotHeader>& header, const ClaimFile& claim,
               std::string_view tenant) {
  if (header.ok()) return header->info.tenant != tenant;
  return claim.epoch > 0 && claim.tenant != tenant;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DirectoryStore>> DirectoryStore::Open(
    DirectoryStoreOptions options) {
  FileDescriptor directory(
      open(options.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return FileError("opening", errno);
  struct stat info;
  if (fstat(directory.get(), &info) != 0 || (info.st_mode & S_IWOTH) != 0) {
    return absl::FailedPreconditionError(
        "the session directory is writable by everybody; remove that permission");
  }
  FileDescriptor lock(openat(directory.get(), kLockName,
                             O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return FileError("opening", errno);
  std::unique_ptr<DirectoryStore> store(
      new DirectoryStore(std::move(options), std::move(directory), std::move(lock)));
  // First, since in a full directory it makes the room that a lease needs. What is old
  // stays if it can: a machine's clock may be wrong until some time after its start.
  const auto names = FileNames(store->directory_.get());
  absl::Status status = names.ok() ? store->RemoveLeftOvers(*names) : names.status();
  if (status.ok()) status = store->Renew();
  if (absl::IsResourceExhausted(status)) {
    status = store->RemoveExpired().status();
    if (status.ok()) status = store->Renew();
  }
  if (status.ok()) status = store->Count();
  if (!status.ok()) return status;
  return store;
}

DirectoryStore::DirectoryStore(DirectoryStoreOptions options, FileDescriptor directory,
                               FileDescriptor lock)
    : options_(std::move(options)),
      directory_(std::move(directory)),
      lock_(std::move(lock)),
      totals_(options_.calls, directory_.get(),
              [this]()
                  ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return TemporaryName(owner_); }),
      spare_(options_.calls, directory_.get()),
      tenants_([this](const std::string& id) -> absl::StatusOr<std::string> {
        auto header = ReadSnapshotHeader(directory_.get(), id);
        if (!header.ok()) return header.status();
        return std::move(header->info.tenant);
      }) {}

DirectoryStore::~DirectoryStore() {
  const MutexLock lock(mu_);
  RemoveFile(directory_.get(), FileName(owner_, kOwnerSuffix));
  spare_.Remove();
}

// Twice: the first time without the lock, so that under it no disk is waited for.
absl::Status DirectoryStore::Count() {
  if (auto counted = CountAll(directory_.get()); !counted.ok()) return counted.status();
  const MutexLock lock(mu_);
  const Locked locked(*this);
  return locked.status().ok() ? totals_.Count() : locked.status();
}

std::string DirectoryStore::TemporaryName(const std::string& stem) {
  return absl::StrCat(stem, ".", owner_, "-", ++last_temporary_,
                      std::string(kTemporarySuffix));
}

absl::Status DirectoryStore::WriteLease() {
  const auto now = options_.clock->Uptime();
  const auto until = now + options_.lease;
  const std::string bytes =
      EncodeLease({.boot_id = options_.clock->BootId(),
                   .uptime_until = until.count(),
                   .world_until = (options_.clock->World() + options_.lease).count()});
  const absl::Status status =
      spare_.Replace(TemporaryName(owner_), FileName(owner_, kOwnerSuffix), bytes);
  if (!status.ok()) return status;
  spare_.Keep(FileName(owner_, kSpareSuffix));
  uptime_until_ = until;
  const MutexLock lock(good_mu_);
  good_lease_ = lease_;
  good_until_ = now + options_.lease - options_.lease / kLeaseMarginPart;
  return absl::OkStatus();
}

// Under the directory's lock, as is whoever would take over: of two, one comes first. A
// lapsed lease is never revived; a new owner begins, whose claims are new ones.
absl::Status DirectoryStore::Renew() {
  const MutexLock lock(mu_);
  const Locked locked(*this);
  if (!locked.status().ok()) return locked.status();
  if (lease_ == 0) {
    lease_ = 1;
  } else if (options_.clock->Uptime() >= uptime_until_) {
    const std::string before = std::exchange(owner_, NewSessionId());
    ++lease_;
    // The file stays for the new one, which a full directory would have no room for; what
    // is in it has ended.
    RenameOrRemove(options_.calls, directory_.get(), FileName(before, kOwnerSuffix),
                   FileName(owner_, kOwnerSuffix))
        .IgnoreError();
  }
  return WriteLease();
}

bool DirectoryStore::lease_is_good() const {
  const MutexLock lock(good_mu_);
  return options_.clock->Uptime() < good_until_;
}

bool DirectoryStore::is_good(const Claim& claim) const {
  const MutexLock lock(good_mu_);
  return claim.lease == good_lease_ && options_.clock->Uptime() < good_until_;
}

bool DirectoryStore::IsLive(const std::string& owner) const {
  if (owner.empty()) return false;
  const auto bytes =
      ReadSmallFile(directory_.get(), FileName(owner, kOwnerSuffix), kMaxSmallFileBytes);
  if (!bytes.ok()) return !absl::IsNotFound(bytes.status());  // unreadable: be careful
  const auto lease = DecodeLease(*bytes);
  // Written whole and renamed: damage is an accident after which nobody can hold it.
  if (!lease.ok()) return false;
  if (lease->boot_id == options_.clock->BootId()) {
    return options_.clock->Uptime().count() < lease->uptime_until;
  }
  return options_.clock->World().count() < lease->world_until;
}

bool DirectoryStore::IsDeleted(const ClaimFile& claim) const {
  const std::int64_t remembered = kDeletedLeases * options_.lease.count();
  return claim.deleted_at.has_value() && Seconds() - *claim.deleted_at < remembered;
}

std::int64_t DirectoryStore::Seconds() const {
  return std::chrono::duration_cast<std::chrono::seconds>(options_.clock->World())
      .count();
}

absl::StatusOr<ClaimFile> DirectoryStore::ReadClaim(const std::string& id) const {
  const auto bytes =
      ReadSmallFile(directory_.get(), FileName(id, kClaimSuffix), kMaxSmallFileBytes);
  if (absl::IsNotFound(bytes.status())) return ClaimFile{};
  if (!bytes.ok()) return bytes.status();
  auto claim = DecodeClaim(*bytes);
  return claim.ok() ? *std::move(claim) : ClaimFile{};
}

absl::Status DirectoryStore::WriteClaim(const std::string& id, const ClaimFile& claim) {
  return spare_.Replace(TemporaryName(id), FileName(id, kClaimSuffix),
                        EncodeClaim(claim));
}

// Under the directory's lock. A claim that cannot be read may be good still.
absl::StatusOr<ClaimFile> DirectoryStore::Held(const std::string& id,
                                               const Claim& claim) {
  if (claim.lease != lease_ || options_.clock->Uptime() >= uptime_until_) {
    return ClaimLost();
  }
  auto held = ReadClaim(id);
  if (!held.ok()) return held.status();
  if (held->owner != owner_ || held->epoch != claim.epoch) return ClaimLost();
  return *std::move(held);
}

absl::StatusOr<Claim> DirectoryStore::Acquire(std::string_view session_id,
                                              std::string_view tenant, AcquireMode mode) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  if (auto status = CheckTenant(tenant); !status.ok()) return status;
  const std::string id(session_id);
  const MutexLock lock(mu_);
  const Locked locked(*this);
  if (!locked.status().ok()) return locked.status();
  if (options_.clock->Uptime() >= uptime_until_) {
    return LeaseLapsed();
  }
  const auto holder = HolderOf(id, owner_);
  if (!holder.ok()) return holder.status();
  const auto header = ReadSnapshotHeader(directory_.get(), id);
  if (IsForeign(header, holder->claim, tenant)) return NoSuchSession();
  if (holder->elsewhere) return HeldElsewhere();
  if (IsDeleted(holder->claim)) return NoSuchSession();
  // What is damaged is in the way of nobody who has the session himself.
  const bool damaged = absl::IsDataLoss(header.status()) && mode == AcquireMode::kNew;
  if (!header.ok() && !damaged && !absl::IsNotFound(header.status())) {
    return header.status();
  }
  if (!header.ok() && mode == AcquireMode::kStored) return NoSuchSession();
  const Claim claim{.epoch = holder->claim.epoch + 1,
                    .generation = header.ok() ? header->generation : 0,
                    .lease = lease_};
  const absl::Status status = WriteClaim(
      id, {.owner = owner_, .epoch = claim.epoch, .tenant = std::string(tenant)});
  if (!status.ok()) return status;
  return claim;
}

absl::Status DirectoryStore::Release(std::string_view session_id, const Claim& claim) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const std::string id(session_id);
  const MutexLock lock(mu_);
  const Locked locked(*this);
  if (!locked.status().ok()) return locked.status();
  auto held = Held(id, claim);
  if (absl::IsFailedPrecondition(held.status())) return absl::OkStatus();
  if (!held.ok()) return held.status();
  // The epoch stays: a late write under this claim must not pass for one under the next.
  held->owner = "";
  return WriteClaim(id, *held);
}

absl::Status DirectoryStore::Disown(std::string_view session_id) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const std::string id(session_id);
  const MutexLock lock(mu_);
  const Locked locked(*this);
  if (!locked.status().ok()) return locked.status();
  auto claim = ReadClaim(id);
  if (!claim.ok()) return claim.status();
  if (claim->owner != owner_) return absl::OkStatus();
  claim->owner = "";
  return WriteClaim(id, *claim);
}

absl::Status DirectoryStore::Put(std::string_view session_id, const Claim& claim,
                                 std::uint64_t generation, const SnapshotInfo& info,
                                 std::span<const std::string_view> bytes,
                                 std::int64_t max_tenant_bytes) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  if (auto status = CheckTenant(info.tenant); !status.ok()) return status;
  const std::string id(session_id);
  std::string temporary;
  {
    const MutexLock lock(mu_);
    if (claim.lease != lease_) return ClaimLost();
    temporary = TemporaryName(id);
  }
  SnapshotHeader header;
  header.generation = generation;
  for (const std::string_view piece : bytes) header.length += piece.size();
  header.stored_at = Seconds();
  header.info = info;
  const std::string head = EncodeHeader(header);
  std::vector<std::string_view> pieces = {head};
  pieces.insert(pieces.end(), bytes.begin(), bytes.end());
  absl::Status status = WriteFile(options_.calls, directory_.get(), temporary, pieces,
                                  Durability::kFlushed);
  if (!status.ok()) return status;
  status = Replace(id, claim, header, temporary, max_tenant_bytes);
  if (!status.ok()) return status;
  return options_.calls.fsync(directory_.get()) == 0 ? absl::OkStatus()
                                                     : FileError("flushing", errno);
}

absl::Status DirectoryStore::Replace(const std::string& id, const Claim& claim,
                                     const SnapshotHeader& header,
                                     const std::string& temporary,
                                     std::int64_t max_tenant_bytes) {
  const MutexLock lock(mu_);
  const Locked locked(*this);
  absl::Status status = locked.status();
  if (status.ok()) status = CheckReplace(id, claim, header, max_tenant_bytes);
  if (!status.ok()) {
    RemoveFile(directory_.get(), temporary);
    return status;
  }
  return RenameOrRemove(options_.calls, directory_.get(), temporary,
                        FileName(id, kSnapshotSuffix));
}

// Under the directory's lock.
absl::Status DirectoryStore::CheckReplace(const std::string& id, const Claim& claim,
                                          const SnapshotHeader& header,
                                          std::int64_t max_tenant_bytes) {
  const auto held = Held(id, claim);
  if (!held.ok()) return held.status();
  if (held->tenant != header.info.tenant) return ClaimLost();
  const auto stored = ReadSnapshotHeader(directory_.get(), id);
  if (!stored.ok() && !absl::IsNotFound(stored.status()) &&
      !absl::IsDataLoss(stored.status())) {
    return stored.status();
  }
  if (stored.ok() && header.generation <= stored->generation) {
    return absl::FailedPreconditionError(
        absl::StrCat("the snapshot has generation ", header.generation,
                     "; the store already holds ", stored->generation));
  }
  const auto others = totals_.BeforeChange(id, header.info.tenant);
  if (!others.ok()) return others.status();
  const std::int64_t bytes = *others + static_cast<std::int64_t>(header.length);
  const bool grows = !stored.ok() || header.length > stored->length;
  if (grows && bytes > max_tenant_bytes) return OverTenantLimit(bytes, max_tenant_bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::int64_t> DirectoryStore::TenantBytes(std::string_view tenant) {
  const MutexLock lock(mu_);
  const Locked locked(*this);
  if (!locked.status().ok()) return locked.status();
  return totals_.Of(std::string(tenant));
}

// The length is what the file says of itself: a sparse one may say anything.
absl::StatusOr<std::string> DirectoryStore::Get(std::string_view session_id,
                                                std::int64_t max_bytes) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  FileDescriptor file;
  const auto header =
      ReadSnapshotHeader(directory_.get(), std::string(session_id), &file);
  if (!header.ok()) return header.status();
  if (header->length > static_cast<std::uint64_t>(max_bytes)) {
    return OverReadersLimit(max_bytes);
  }
  if (lseek(file.get(), static_cast<off_t>(header->header_bytes), SEEK_SET) < 0) {
    return FileError("reading", errno);
  }
  auto bytes = ReadUpTo(file.get(), header->length);
  if (bytes.ok() && bytes->size() != header->length) {
    return absl::DataLossError("a stored snapshot is shorter than it says");
  }
  return bytes;
}

absl::StatusOr<StoredSession> DirectoryStore::Head(std::string_view session_id,
                                                   std::string_view tenant) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const std::string id(session_id);
  const auto holder = HolderOf(id, owner());
  if (!holder.ok()) return holder.status();
  const auto header = ReadSnapshotHeader(directory_.get(), id);
  if (IsForeign(header, holder->claim, tenant)) return NoSuchSession();
  if (holder->claim.deleted_at.has_value()) return NoSuchSession();
  if (absl::IsNotFound(header.status()) && holder->elsewhere) return HeldElsewhere();
  if (!header.ok()) return header.status();
  return StoredOf(id, *header, *holder);
}

std::string DirectoryStore::owner() const {
  const MutexLock lock(mu_);
  return owner_;
}

// Asked before what is stored is read: who gives a session up in between has put it. One
// whose claim cannot be read may be anybody's.
absl::StatusOr<DirectoryStore::Holder> DirectoryStore::HolderOf(
    const std::string& id, const std::string& owner) const {
  auto claim = ReadClaim(id);
  if (!claim.ok()) return claim.status();
  Holder holder;
  holder.live = IsLive(claim->owner);
  holder.elsewhere = holder.live && claim->owner != owner;
  holder.claim = *std::move(claim);
  return holder;
}

StoredSession DirectoryStore::StoredOf(const std::string& id,
                                       const SnapshotHeader& header,
                                       const Holder& holder) {
  StoredSession stored;
  stored.id = id;
  stored.info = header.info;
  stored.generation = header.generation;
  stored.bytes = header.length;
  stored.stored_at =
      std::chrono::system_clock::time_point(std::chrono::seconds(header.stored_at));
  stored.claimed = holder.live;
  stored.held_elsewhere = holder.elsewhere;
  return stored;
}

absl::StatusOr<StoredSession> DirectoryStore::Describe(const std::string& id,
                                                       const std::string& owner) const {
  const auto holder = HolderOf(id, owner);
  if (!holder.ok()) return holder.status();
  if (holder->claim.deleted_at.has_value()) return NoSuchSession();
  const auto header = ReadSnapshotHeader(directory_.get(), id);
  if (!header.ok()) return header.status();
  return StoredOf(id, *header, *holder);
}

// What says that it was deleted comes first: once that is there, nobody finds the
// snapshot, which the sweep removes if this process does not live to.
absl::Status DirectoryStore::Delete(std::string_view session_id, const Claim& claim) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const std::string id(session_id);
  const std::string name = FileName(id, kSnapshotSuffix);
  {
    const MutexLock lock(mu_);
    const Locked locked(*this);
    if (!locked.status().ok()) return locked.status();
    auto held = Held(id, claim);
    if (!held.ok()) return held.status();
    if (faccessat(directory_.get(), name.c_str(), F_OK, 0) != 0 && errno == ENOENT) {
      // Nobody else can have had it.
      RemoveFile(directory_.get(), FileName(id, kClaimSuffix));
      return NoSuchSession();
    }
    held->owner = "";
    held->deleted_at = Seconds();
    const absl::Status written = WriteClaim(id, *held);
    if (!written.ok() && !absl::IsResourceExhausted(written)) return written;
    CountOut(id);
    if (unlinkat(directory_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return FileError("deleting", errno);
    }
    // Deleting is what makes room; where there is none for so little even then, it goes
    // before remembering.
    if (!written.ok() && !WriteClaim(id, *held).ok()) {
      RemoveFile(directory_.get(), FileName(id, kClaimSuffix));
    }
  }
  return options_.calls.fsync(directory_.get()) == 0 ? absl::OkStatus()
                                                     : FileError("flushing", errno);
}

// Before it is deleted, which needs no room and shall not fail for want of it: without
// the file the next one counts.
void DirectoryStore::CountOut(const std::string& id) {
  if (!totals_.BeforeChange(id, "").ok()) RemoveFile(directory_.get(), kTotalsName);
}

absl::StatusOr<std::vector<StoredSession>> DirectoryStore::List(std::string_view tenant,
                                                                std::string_view after,
                                                                std::size_t limit) {
  if (!after.empty()) {
    if (auto status = CheckSessionId(after); !status.ok()) return status;
  }
  const auto files = FilesIn(directory_.get());
  if (!files.ok()) return files.status();
  const std::string own = owner();
  std::vector<StoredSession> found;
  for (const std::string& id : tenants_.IdsOf(tenant, after, *files)) {
    if (found.size() == limit) break;
    // One that is damaged, or has just gone, is nobody's to list.
    auto stored = Describe(id, own);
    if (stored.ok() && stored->info.tenant == tenant) found.push_back(*std::move(stored));
  }
  return found;
}

}  // namespace goldfinch
