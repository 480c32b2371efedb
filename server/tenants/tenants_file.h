// The tenants file: JSON that says who may call.
//
//   {"tenants": [{"name": "a", "key_sha256": ["<64 hex digits>"], "weight": 1,
//                 "limits": {"max_sessions": 100}, "admin": false}]}
//
// Strict, because a mistake decides who gets in: what is unknown, twice, missing or out
// of bounds is an error of one line that names the tenant and the field. Names of limits
// are those of the fields of TenantPolicy and SessionQuota; one that is left out has the
// default there, which is finite. No message shows a hash.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/request_limits.h"
#include "server/tenants/tenant.h"

namespace goldfinch {

// The most a file may give.
inline constexpr TenantPolicy kHighestPolicy = {
    .weight = 1000,
    .max_running_requests = 1000000,
    .max_queued_requests = 1000000,
    .max_queued_tokens = std::int64_t{1} << 40,
    .max_tokens_per_minute = std::int64_t{1} << 40,
    .max_prompt_tokens = std::int64_t{1} << 30,
    .max_priority = kMaxPriority,
};
inline constexpr SessionQuota kHighestQuota = {
    .max_sessions = 100000000,
    .max_resident_bytes = std::int64_t{1} << 44,
    .max_parked_bytes = std::int64_t{1} << 50,
};

// At least one tenant; names and hashes occur once.
absl::StatusOr<std::vector<Tenant>> ParseTenants(std::string_view text);

// Refuses a file that everybody may write, too.
absl::StatusOr<std::vector<Tenant>> ReadTenantsFile(const std::string& path);

}  // namespace goldfinch
