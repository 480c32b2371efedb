// Names of sessions: 128 random bits as 32 lowercase hex digits, made by a server and
// never used twice; and what is said of one that is none.
//
// Threads: any.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace goldfinch {

std::string NewSessionId();

bool IsSessionId(std::string_view id);

// INVALID_ARGUMENT for what is none.
absl::Status CheckSessionId(std::string_view id);

// NOT_FOUND, also of one of another tenant.
absl::Status NoSuchSession();

// UNAVAILABLE, while another server has a good claim.
absl::Status HeldElsewhere();

// FAILED_PRECONDITION, of a store for a claim that is not good.
absl::Status ClaimLost();

// UNAVAILABLE, of a store that would have to claim: it is not this server's to do so.
absl::Status LeaseLapsed();

}  // namespace goldfinch
