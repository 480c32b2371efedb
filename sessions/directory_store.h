// Parked sessions as files in one directory, which the replicas on a machine share.
//
// A session is one file, so that one rename replaces it whole: at any moment, kill -9
// included, the old one or the new one is there. Its generation is in a header before the
// blob and not in the name: a name with it would leave two files between the rename and
// the removal of the old one.
//
// Who holds a session is in a small file beside it, and until when each owner's claims
// are good in one of the owner. Changes of these, and the moment in which a snapshot
// replaces an older one, are serialised among processes by a lock on one file, held for
// moments; snapshots are written and flushed before it is taken. So is the change of the
// tenants' totals (directory_totals.h): Put's limit holds exactly, across processes.
//
// In a full directory leases are renewed, and what is stored is claimed, given up and
// deleted (directory_spare.h); only snapshots and new claims need room.
//
// Leases run by the machine's uptime, which no change of the clock moves. Between
// machines (a network file system) and across a restart they run by the wall clock, so
// the clocks of machines that share a directory must agree within a tenth of a lease. For
// replicas on several machines there is redis_store.h.
//
// Any thread may call.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/file_descriptor.h"
#include "engine/sync/mutex.h"
#include "sessions/directory_format.h"
#include "sessions/directory_spare.h"
#include "sessions/directory_tenants.h"
#include "sessions/directory_totals.h"
#include "sessions/files.h"
#include "sessions/lease_clock.h"
#include "sessions/session_id.h"
#include "sessions/store.h"

namespace goldfinch {

struct DirectoryStoreOptions {
  std::string path;
  std::chrono::seconds lease{30};
  std::chrono::seconds time_to_live{0};  // of what is parked; 0: for ever
  FileCalls calls = {};
  std::shared_ptr<const LeaseClock> clock = std::make_shared<LeaseClock>();
};

class DirectoryStore final : public SnapshotStore {
 public:
  // The directory exists. FAILED_PRECONDITION when everybody may write to it. Removes
  // what interrupted writes of dead owners left, and where there is no room for a lease
  // then, what has expired; RESOURCE_EXHAUSTED when there is none even so.
  static absl::StatusOr<std::unique_ptr<DirectoryStore>> Open(
      DirectoryStoreOptions options);
  ~DirectoryStore() override;  // gives up the lease
  DirectoryStore(const DirectoryStore&) = delete;
  DirectoryStore& operator=(const DirectoryStore&) = delete;

  absl::Status Renew() override;
  bool lease_is_good() const override;
  bool is_good(const Claim& claim) const override;
  absl::StatusOr<Claim> Acquire(std::string_view session_id, std::string_view tenant,
                                AcquireMode mode) override;
  absl::Status Release(std::string_view session_id, const Claim& claim) override;
  absl::Status Disown(std::string_view session_id) override;
  absl::Status Put(std::string_view session_id, const Claim& claim,
                   std::uint64_t generation, const SnapshotInfo& info,
                   std::span<const std::string_view> bytes,
                   std::int64_t max_tenant_bytes) override;
  absl::StatusOr<std::int64_t> TenantBytes(std::string_view tenant) override;
  absl::StatusOr<std::string> Get(std::string_view session_id,
                                  std::int64_t max_bytes) override;
  absl::StatusOr<StoredSession> Head(std::string_view session_id,
                                     std::string_view tenant) override;
  absl::Status Delete(std::string_view session_id, const Claim& claim) override;
  absl::StatusOr<std::vector<StoredSession>> List(std::string_view tenant,
                                                  std::string_view after,
                                                  std::size_t limit) override;
  absl::StatusOr<StoreUsage> RemoveExpired() override;

 private:
  DirectoryStore(DirectoryStoreOptions options, FileDescriptor directory,
                 FileDescriptor lock);

  // All processes' lock on the directory; `status` says whether it was to be had.
  class Locked;

  absl::Status Count();
  absl::Status RemoveLeftOvers(const std::vector<std::string>& names);
  std::string owner() const;
  // Who has a session, as `owner` sees it.
  struct Holder {
    ClaimFile claim;
    bool live = false;       // his lease is good
    bool elsewhere = false;  // and he is another one
  };
  absl::StatusOr<Holder> HolderOf(const std::string& id, const std::string& owner) const;
  static StoredSession StoredOf(const std::string& id, const SnapshotHeader& header,
                                const Holder& holder);
  absl::StatusOr<StoredSession> Describe(const std::string& id,
                                         const std::string& owner) const;
  bool IsLive(const std::string& owner) const;
  // Was deleted not long ago.
  bool IsDeleted(const ClaimFile& claim) const;
  std::int64_t Seconds() const;  // since 1970
  // As the file has it; FAILED_PRECONDITION when the claim is not good, another error
  // when that cannot be told.
  absl::StatusOr<ClaimFile> Held(const std::string& id, const Claim& claim)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A damaged one is nobody's: whoever wrote it cannot prove that he holds it.
  absl::StatusOr<ClaimFile> ReadClaim(const std::string& id) const;
  absl::Status WriteClaim(const std::string& id, const ClaimFile& claim)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WriteLease() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Replace(const std::string& id, const Claim& claim,
                       const SnapshotHeader& header, const std::string& temporary,
                       std::int64_t max_tenant_bytes);
  absl::Status CheckReplace(const std::string& id, const Claim& claim,
                            const SnapshotHeader& header, std::int64_t max_tenant_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountOut(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool RemoveIfExpired(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RemoveIfLeftOver(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RemoveClaimIfLeftOver(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string TemporaryName(const std::string& stem) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const DirectoryStoreOptions options_;
  const FileDescriptor directory_;
  const FileDescriptor lock_;

  mutable Mutex mu_;  // with it, the lock of the directory
  // From the first on a name, which is that of temporary files, too.
  std::string owner_ ABSL_GUARDED_BY(mu_) = NewSessionId();
  std::uint64_t lease_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t last_temporary_ ABSL_GUARDED_BY(mu_) = 0;
  std::chrono::nanoseconds uptime_until_ ABSL_GUARDED_BY(mu_){0};  // as told to others
  DirectoryTotals totals_ ABSL_GUARDED_BY(mu_);
  DirectorySpare spare_ ABSL_GUARDED_BY(mu_);
  DirectoryTenants tenants_;

  mutable Mutex good_mu_;  // never held while a file is touched
  std::uint64_t good_lease_ ABSL_GUARDED_BY(good_mu_) = 0;
  std::chrono::nanoseconds good_until_ ABSL_GUARDED_BY(good_mu_){0};
};

}  // namespace goldfinch
