// The memory that snapshots take which are being sent or received, and large answers that
// have not been taken yet: a bound for all of them together, of which no tenant can keep
// the others out.
//
// The last quarter of the room is for tenants that have no more than a quarter. So one
// that fills the rest, or holds it with transfers that do not move, leaves the others
// room for theirs.
//
// Threads: any; a TransferShare is its call's, used by one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

// What they may take together, or as much as the largest of them where that is more.
inline constexpr std::int64_t kMaxTransferBytes = std::int64_t{1} << 30;

class TransferRoom {
 public:
  explicit TransferRoom(std::int64_t bytes) : bytes_(bytes) {}

 private:
  friend class TransferShare;

  absl::Status Take(const std::string& tenant, std::int64_t size, std::int64_t has);
  void GiveBack(const std::string& tenant, std::int64_t size);

  const std::int64_t bytes_;
  Mutex mu_;
  std::int64_t taken_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, std::int64_t> taken_by_ ABSL_GUARDED_BY(mu_);  // none are zero
};

// What one call of `tenant` has of it, until it is destroyed.
class TransferShare {
 public:
  TransferShare(TransferRoom& room, std::string tenant);
  ~TransferShare();
  TransferShare(const TransferShare&) = delete;
  TransferShare& operator=(const TransferShare&) = delete;

  // `size` bytes more; RESOURCE_EXHAUSTED when there is no room. A call that is alone
  // always has room: it is held to the limit of a snapshot elsewhere.
  absl::Status Take(std::int64_t size);

  std::int64_t taken() const { return taken_; }

 private:
  TransferRoom& room_;
  const std::string tenant_;
  std::int64_t taken_ = 0;
};

}  // namespace goldfinch
