// Where parked sessions rest, and who may continue them: snapshots under a session id,
// and claims on them.
//
// Several replicas share a store. A replica is an owner: it keeps one lease alive
// (Renew) and claims each session it holds. Its claims are good while its lease is; once
// that lapsed, another owner may claim what it held. A claim has an epoch, raised by
// every Acquire, so that whoever lost a session can no longer write it, however late its
// write arrives.
//
// Invariants: of all owners at most one has a good claim on a session. A Put or Delete
// without one changes nothing. An older generation never replaces a newer one. An
// acknowledged Put survives the end of the process, kill -9 included. To all tenants but
// its own a session does not exist, whether it is stored or only claimed: their calls
// change nothing of it and get what an unknown id gets.
//
// Threads: any; calls block for as long as the medium takes, which is bounded.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace goldfinch {

inline constexpr std::int64_t kUnlimitedBytes = std::numeric_limits<std::int64_t>::max();

// The right to continue and to write one session.
struct Claim {
  std::uint64_t epoch = 0;
  std::uint64_t generation = 0;  // of what was stored when it was given; 0: nothing
  std::uint64_t lease = 0;       // which of the owner's leases; raised after each lapse
};

// What is known of a snapshot without reading it.
struct SnapshotInfo {
  std::string tenant;
  std::int64_t num_tokens = 0;
  std::int64_t num_generated = 0;  // by the last generation
  bool interrupted = false;        // that can be resumed
};

// A lease ends this part of it earlier for its owner than for others.
inline constexpr int kLeaseMarginPart = 10;

// A deletion is remembered for so many leases: an owner that had the session before has
// given it up by then, or has been away for longer.
inline constexpr int kDeletedLeases = 20;

struct StoredSession {
  std::string id;
  SnapshotInfo info;
  std::uint64_t generation = 0;
  std::uint64_t bytes = 0;
  std::chrono::system_clock::time_point stored_at;  // when it was last put
  bool claimed = false;                             // by an owner whose lease is good
  bool held_elsewhere = false;  // by another owner, which may have gone on from it
};

// What is stored, whoever put it, and what has just gone.
struct StoreUsage {
  std::int64_t snapshots = 0;
  std::int64_t expired = 0;                          // removed for their age by this call
  std::map<std::string, std::int64_t> tenant_bytes;  // as TenantBytes; none is 0
};

enum class AcquireMode {
  kStored,  // NOT_FOUND when nothing is stored under the id
  kNew,     // the id may be new; what is stored is claimed just the same
};

// An id that is not 32 lowercase hex digits is INVALID_ARGUMENT everywhere. UNAVAILABLE
// when the medium fails or takes too long; RESOURCE_EXHAUSTED when it is full.
class SnapshotStore {
 public:
  virtual ~SnapshotStore() = default;

  // Makes this owner's lease last from now. After it had lapsed, earlier claims stay
  // lost and Acquire works again.
  virtual absl::Status Renew() = 0;
  // By this process's own steady clock, at once: false from the moment another owner
  // may have taken over.
  virtual bool lease_is_good() const = 0;
  // The same of a claim, which is lost with the lease it was made under. (Whether it was
  // given up or voided by a later one is not asked.)
  virtual bool is_good(const Claim& claim) const = 0;

  // For a session of `tenant`; of another one's it is NOT_FOUND in either mode, whoever
  // holds it, and so is what was deleted, for kDeletedLeases. UNAVAILABLE while another
  // owner has a good claim (then it is HeldElsewhere), or when the medium fails: the
  // claim may be given all the same then. Claiming what one holds already raises the
  // epoch: the older claim is void.
  virtual absl::StatusOr<Claim> Acquire(std::string_view session_id,
                                        std::string_view tenant, AcquireMode mode) = 0;
  // Others may claim it. No error when the claim was lost before.
  virtual absl::Status Release(std::string_view session_id, const Claim& claim) = 0;
  // Gives up whatever claim this owner has on it, also one that it was never told of.
  // None of this owner's calls has the session or claims it meanwhile. A claim made after
  // this has returned stays, however late the medium does what it was asked for.
  virtual absl::Status Disown(std::string_view session_id) = 0;

  // OK only when durable. FAILED_PRECONDITION, and nothing is changed, when the claim is
  // not good any more, is of another tenant than `info`, or `generation` is not above the
  // stored one. After UNAVAILABLE the new one may be there all the same, so a retry takes
  // a higher generation. The snapshot comes in pieces that belong one behind the other.
  // OUT_OF_RANGE, and nothing is changed, when TenantBytes would become more than
  // `max_tenant_bytes` and more than it is. That is looked at together with the change,
  // so owners that write at once do not exceed it together, not even by one snapshot.
  virtual absl::Status Put(std::string_view session_id, const Claim& claim,
                           std::uint64_t generation, const SnapshotInfo& info,
                           std::span<const std::string_view> bytes,
                           std::int64_t max_tenant_bytes) = 0;
  // What the snapshots of `tenant` take together, whoever put them; a moment ago.
  virtual absl::StatusOr<std::int64_t> TenantBytes(std::string_view tenant) = 0;
  // Needs no claim. NOT_FOUND when there is none, DATA_LOSS when it is damaged. Of more
  // than `max_bytes`, which whoever can write to the medium may claim, it is
  // FAILED_PRECONDITION, and no memory is taken for it.
  virtual absl::StatusOr<std::string> Get(std::string_view session_id,
                                          std::int64_t max_bytes) = 0;
  // Needs no claim. Where nothing is stored, UNAVAILABLE while another owner has a good
  // claim, else NOT_FOUND.
  virtual absl::StatusOr<StoredSession> Head(std::string_view session_id,
                                             std::string_view tenant) = 0;
  // With the claim, which ends. NOT_FOUND when nothing is stored (the claim ends too);
  // FAILED_PRECONDITION when the claim is not good. Like giving a claim up and claiming
  // what is stored, it needs no room.
  virtual absl::Status Delete(std::string_view session_id, const Claim& claim) = 0;

  // Up to `limit` sessions of `tenant` with ids above `after` (empty: from the first),
  // in ascending order of id.
  virtual absl::StatusOr<std::vector<StoredSession>> List(std::string_view tenant,
                                                          std::string_view after,
                                                          std::size_t limit) = 0;

  // The process is about to end. Whatever waits for the medium, now or later, gets
  // UNAVAILABLE soon, where waiting can be broken off; the lease is left to lapse.
  virtual void Abandon() {}

  // Forgets what was stored longer ago than the store's time to live and is not claimed;
  // gives what is left. Called now and then.
  virtual absl::StatusOr<StoreUsage> RemoveExpired() = 0;
};

// FAILED_PRECONDITION, for what Get says of a snapshot that is larger than its reader
// takes.
absl::Status OverReadersLimit(std::int64_t limit);

// OUT_OF_RANGE, for what Put says of a tenant whose snapshots would take `bytes`.
absl::Status OverTenantLimit(std::int64_t bytes, std::int64_t limit);

}  // namespace goldfinch
