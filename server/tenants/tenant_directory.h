// Who calls: finds the tenant of a key.
//
// Invariant: there is always a complete set of tenants. Reload replaces it in one piece,
// or, when the file is bad, not at all; a call keeps the tenant it began with.
//
// A key is looked for by its SHA-256 among all hashes, in a time that depends on how many
// there are and on nothing else.
//
// Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sync/mutex.h"
#include "server/tenants/tenant.h"

namespace goldfinch {

// What meters show at one moment.
struct TenantReading {
  // Now.
  std::int64_t running = 0, waiting = 0;
  // Counted.
  std::int64_t prompt = 0, generated = 0, service = 0, put_aside = 0, refused = 0;

  // Adds `sign` times what is counted.
  void AddCounts(const TenantReading& other, std::int64_t sign);
};
TenantReading Read(const TenantMeter& meter);

class TenantDirectory {
 public:
  // Shared with the calls of a tenant that a reload takes away.
  using TenantPtr = std::shared_ptr<const Tenant>;

  // Everybody is the one tenant kAnonymousTenant, an admin with no limits but those of
  // the whole server; no key is asked for.
  static std::unique_ptr<TenantDirectory> Anonymous();
  // INVALID_ARGUMENT with one line when the file is bad.
  static absl::StatusOr<std::unique_ptr<TenantDirectory>> Load(const std::string& path);

  bool anonymous() const { return path_.empty(); }
  // As the file lists them.
  std::vector<TenantPtr> tenants() const;
  // What the tenant of this name may hold; the default for one that is there no more.
  SessionQuota QuotaOf(const std::string& name) const;
  // Of those that a reload took away, together: they may still have requests. Their
  // counts are what came since, and stay when a tenant returns, so none ever goes down.
  TenantReading ReadFormer() const;

  // `authorization` is the value of that header, empty when there is none.
  // UNAUTHENTICATED in the same words whatever is wrong.
  absl::StatusOr<TenantPtr> Authenticate(std::string_view authorization) const;

  // Reads the file again. On an error all is as it was.
  absl::Status Reload();

 private:
  struct Entries;

  TenantDirectory(std::string path, std::vector<Tenant> tenants);
  std::shared_ptr<const Entries> entries() const;
  // Makes the tenants those that are there.
  void Install(std::vector<Tenant> tenants);

  const std::string path_;  // empty: anonymous
  Mutex reload_mu_;         // one at a time, so that the last one asked for stays
  mutable Mutex mu_;        // after it
  // Of all that ever were.
  struct Known {
    std::shared_ptr<TenantMeter> meter;
    // What it had counted when a reload took the tenant away; nullopt: it is there.
    std::optional<TenantReading> when_taken;
  };
  std::map<std::string, Known> known_ ABSL_GUARDED_BY(mu_);  // by name
  // What those who have returned since counted while they were away.
  TenantReading while_away_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const Entries> entries_ ABSL_GUARDED_BY(mu_);  // made with known_
};

}  // namespace goldfinch
