#include "sessions/open_store.h"

#include <cstdlib>
#include <utility>

#include "sessions/directory_store.h"
#include "sessions/redis_store.h"

namespace goldfinch {

absl::StatusOr<std::unique_ptr<SnapshotStore>> OpenStore(const std::string& name,
                                                         const StoreOptions& options) {
  if (name.starts_with("redis://") || name.starts_with("unix://")) {
    auto address = ParseRedisUrl(name);
    if (!address.ok()) return address.status();
    const char* password = std::getenv(kRedisPasswordVariable);
    if (address->password.empty() && password != nullptr) address->password = password;
    auto store = RedisStore::Open({.address = *std::move(address),
                                   .lease = options.lease,
                                   .time_to_live = options.time_to_live});
    if (!store.ok()) return store.status();
    return *std::move(store);
  }
  if (name.find("://") != std::string::npos) {
    return absl::InvalidArgumentError(
        "--session_store must be a directory, redis://HOST:PORT or unix://PATH");
  }
  auto store = DirectoryStore::Open(
      {.path = name, .lease = options.lease, .time_to_live = options.time_to_live});
  if (!store.ok()) return store.status();
  return *std::move(store);
}

}  // namespace goldfinch
