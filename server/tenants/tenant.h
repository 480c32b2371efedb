// Who may call, and what he may take: one entry of the tenants file.
//
// Threads: a value; shared ones are immutable.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/tenant_meter.h"
#include "scheduler/tenant_policy.h"
#include "sessions/session_quota.h"

namespace goldfinch {

// A longer key is none.
inline constexpr std::size_t kMaxKeyBytes = 512;

// Of a key. Keys themselves are nowhere but with those who call.
inline constexpr std::size_t kKeyHashBytes = 32;
using KeyHash = std::array<unsigned char, kKeyHashBytes>;  // SHA-256

// The tenant of all calls while there is no tenants file; no file may name it.
inline constexpr char kAnonymousTenant[] = "default";
// What metrics call those they have no label for; no file may name it either.
inline constexpr char kOtherTenants[] = "other";

struct Tenant {
  std::string name;  // 1 to 64 of A-Z a-z 0-9 _ . -
  std::vector<KeyHash> key_hashes;
  TenantPolicy policy;
  SessionQuota sessions;
  bool admin = false;  // may call what concerns the whole server
  // What is counted for it, from the first time its name was known. Set by the directory.
  std::shared_ptr<TenantMeter> meter;
};

}  // namespace goldfinch
