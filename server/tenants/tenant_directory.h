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
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/sync/mutex.h"
#include "server/tenants/tenant.h"

namespace goldfinch {

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
  // Of those that a reload took away: they may still have requests.
  std::vector<std::shared_ptr<const TenantMeter>> former_meters() const;

  // `authorization` is the value of that header, empty when there is none.
  // UNAUTHENTICATED in the same words whatever is wrong.
  absl::StatusOr<TenantPtr> Authenticate(std::string_view authorization) const;

  // Reads the file again. On an error all is as it was.
  absl::Status Reload();

 private:
  struct Entries;

  TenantDirectory(std::string path, std::vector<Tenant> tenants);
  std::shared_ptr<const Entries> entries() const;
  std::shared_ptr<const Entries> WithMeters(std::vector<Tenant> tenants);

  const std::string path_;  // empty: anonymous
  Mutex reload_mu_;         // one at a time, so that the last one asked for stays
  mutable Mutex mu_;        // after it
  // By name, of all that ever were.
  std::map<std::string, std::shared_ptr<TenantMeter>> meters_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const Entries> entries_ ABSL_GUARDED_BY(mu_);  // made with meters_
};

}  // namespace goldfinch
