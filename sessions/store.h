// Where parked sessions rest: bytes under a session id, with a generation.
//
// Invariant: an older generation never replaces a newer one, and an acknowledged Put
// survives the end of the process. Any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace goldfinch {

// An id that is not 32 lowercase hex digits is INVALID_ARGUMENT everywhere.
class SnapshotStore {
 public:
  virtual ~SnapshotStore() = default;

  // OK only when durable. FAILED_PRECONDITION when `generation` is not above the stored
  // one; RESOURCE_EXHAUSTED when there is no room, UNAVAILABLE when the store fails: what
  // was acknowledged before is then still there. After UNAVAILABLE the new one may be
  // there too, so a retry takes a higher generation.
  virtual absl::Status Put(std::string_view session_id, std::uint64_t generation,
                           std::string_view bytes) = 0;
  // NOT_FOUND when there is none, DATA_LOSS when it is damaged.
  virtual absl::StatusOr<std::string> Get(std::string_view session_id) = 0;
  // NOT_FOUND when there is none.
  virtual absl::Status Delete(std::string_view session_id) = 0;
  // Up to `limit` ids above `after` (empty: from the first), ascending.
  virtual absl::StatusOr<std::vector<std::string>> List(std::string_view after,
                                                        std::size_t limit) = 0;
};

}  // namespace goldfinch
