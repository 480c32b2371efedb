#include "server/transfer_room.h"

#include <utility>

namespace goldfinch {

absl::Status TransferRoom::Take(const std::string& tenant, std::int64_t size,
                                std::int64_t has) {
  if (size == 0) return absl::OkStatus();
  const MutexLock lock(mu_);
  const auto found = taken_by_.find(tenant);
  const std::int64_t tenant_has = found == taken_by_.end() ? 0 : found->second;
  const bool alone = taken_ == has;
  const std::int64_t room =
      tenant_has + size <= bytes_ / 4 ? bytes_ : bytes_ - bytes_ / 4;
  if (!alone && taken_ + size > room) {
    return absl::ResourceExhaustedError(
        "too many snapshots and large answers are on their way; the server has no room for "
        "more");
  }
  taken_ += size;
  taken_by_[tenant] = tenant_has + size;
  return absl::OkStatus();
}

void TransferRoom::GiveBack(const std::string& tenant, std::int64_t size) {
  if (size == 0) return;
  const MutexLock lock(mu_);
  taken_ -= size;
  const auto found = taken_by_.find(tenant);
  found->second -= size;
  if (found->second == 0) taken_by_.erase(found);
}

TransferShare::TransferShare(TransferRoom& room, std::string tenant)
    : room_(room), tenant_(std::move(tenant)) {}

TransferShare::~TransferShare() { room_.GiveBack(tenant_, taken_); }

absl::Status TransferShare::Take(std::int64_t size) {
  absl::Status status = room_.Take(tenant_, size, taken_);
  if (status.ok()) taken_ += size;
  return status;
}

}  // namespace goldfinch
