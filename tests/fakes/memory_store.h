// A store in memory, shared by as many owners as a test has replicas, whose leases lapse
// by a clock that is moved by hand and which can be made to fail.
//
// Threads: any.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/sync/mutex.h"
#include "scheduler/clock.h"
#include "sessions/store.h"

namespace goldfinch {

// What the owners share.
class MemoryMedium {
 public:
  explicit MemoryMedium(const Clock& clock) : clock_(clock) {}

  // From now on every call gets UNAVAILABLE, or no longer.
  void Fail(bool fails);
  // The same of one kind of call, with a status of the test's choice; OK: no longer.
  void FailReleases(absl::Status status);
  void FailPuts(absl::Status status);
  void FailGets(absl::Status status);
  void FailClaims(absl::Status status);
  void FailDeletes(absl::Status status);
  void WaitForFailedDeletes(int count);
  // The next `count` renewals get UNAVAILABLE.
  void FailRenewals(int count);
  // Called once, when a claim has been given up.
  void AfterNextRelease(std::function<void()> then);
  // The next claim is given, and the answer lost.
  void LoseNextClaim();
  // The next delete is done, and the answer lost.
  void LoseNextDelete();
  // From now on claims are not answered, until they are let go.
  void HoldClaims();
  void WaitForHeldClaims(int count);
  void LetClaimsGo();
  // The next write is not begun before the one after it has been made, and that one is
  // not answered until it is let go.
  void CrossNextPuts();
  void WaitForFirstPut();
  void WaitForSecondPut();
  void LetSecondPutGo();
  // Changes what is stored, as damage would.
  void Spoil(const std::string& id, const std::function<void(std::string&)>& spoil);
  void Forget();  // everything, leases too
  // The next sweep says that it has removed so many.
  void Expire(std::int64_t count);
  std::string BytesOf(const std::string& id) const;
  std::uint64_t GenerationOf(const std::string& id) const;
  std::uint64_t EpochOf(const std::string& id) const;  // of its last claim
  std::size_t size() const;

 private:
  friend class MemoryStore;
  struct Entry {
    std::string owner;  // empty: nobody
    std::uint64_t epoch = 0;
    std::uint64_t generation = 0;
    SnapshotInfo info;  // its tenant from the first claim on
    std::string bytes;
    bool deleted = false;
    TimePoint deleted_until;  // known as such until then
    bool IsForeign(std::string_view tenant) const {
      return (generation > 0 || !owner.empty()) && info.tenant != tenant;
    }
  };

  const Clock& clock_;
  mutable Mutex mu_;
  bool fails_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status releases_ ABSL_GUARDED_BY(mu_);
  absl::Status puts_ ABSL_GUARDED_BY(mu_);
  absl::Status gets_ ABSL_GUARDED_BY(mu_);
  absl::Status claims_ ABSL_GUARDED_BY(mu_);
  absl::Status deletes_ ABSL_GUARDED_BY(mu_);
  int failed_deletes_ ABSL_GUARDED_BY(mu_) = 0;
  int failing_renewals_ ABSL_GUARDED_BY(mu_) = 0;
  std::int64_t expired_ ABSL_GUARDED_BY(mu_) = 0;
  enum class Crossing { kNo, kAwaitsFirst, kHasFirst, kHasBoth };
  Crossing crossing_ ABSL_GUARDED_BY(mu_) = Crossing::kNo;
  std::function<void()> after_release_ ABSL_GUARDED_BY(mu_);
  bool loses_claim_ ABSL_GUARDED_BY(mu_) = false;
  bool loses_delete_ ABSL_GUARDED_BY(mu_) = false;
  bool holds_claims_ ABSL_GUARDED_BY(mu_) = false;
  int held_claims_ ABSL_GUARDED_BY(mu_) = 0;
  CondVar changed_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, TimePoint> leases_ ABSL_GUARDED_BY(mu_);
};

class MemoryStore : public SnapshotStore {
 public:
  MemoryStore(MemoryMedium& medium, std::string owner, std::chrono::seconds lease);

  absl::Status Renew() override;
  bool lease_is_good() const override;
  bool is_good(const Claim& claim) const override;
  absl::StatusOr<Claim> Acquire(std::string_view id, std::string_view tenant,
                                AcquireMode mode) override;
  absl::Status Release(std::string_view id, const Claim& claim) override;
  absl::Status Disown(std::string_view id) override;
  absl::Status Put(std::string_view id, const Claim& claim, std::uint64_t generation,
                   const SnapshotInfo& info, std::span<const std::string_view> bytes,
                   std::int64_t max_tenant_bytes) override;
  absl::StatusOr<std::int64_t> TenantBytes(std::string_view tenant) override;
  absl::StatusOr<std::string> Get(std::string_view id, std::int64_t max_bytes) override;
  absl::StatusOr<StoredSession> Head(std::string_view id,
                                     std::string_view tenant) override;
  absl::Status Delete(std::string_view id, const Claim& claim) override;
  absl::StatusOr<std::vector<StoredSession>> List(std::string_view tenant,
                                                  std::string_view after,
                                                  std::size_t limit) override;
  absl::StatusOr<StoreUsage> RemoveExpired() override;
  void Abandon() override;

 private:
  std::string owner() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);
  absl::Status Check() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);
  bool IsLive(const std::string& owner) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);
  bool Holds(const MemoryMedium::Entry& entry, const Claim& claim) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);
  absl::Status PutNow(std::string_view id, const Claim& claim, std::uint64_t generation,
                      const SnapshotInfo& info, std::span<const std::string_view> bytes,
                      std::int64_t max_tenant_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);
  std::int64_t BytesOf(std::string_view tenant) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);
  StoredSession Describe(const std::string& id, const MemoryMedium::Entry& entry) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(medium_.mu_);

  MemoryMedium& medium_;
  const std::string name_;
  const std::chrono::seconds lease_;
  std::uint64_t lease_number_ ABSL_GUARDED_BY(medium_.mu_) = 1;
  bool abandoned_ ABSL_GUARDED_BY(medium_.mu_) = false;
};

}  // namespace goldfinch
