#include "sessions/open_store.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions/directory_store.h"
#include "sessions/redis_store.h"

namespace goldfinch {
namespace {

// Where it was looked for; a password is nobody's to read.
absl::Status At(const std::string& where, const absl::Status& status) {
  return {status.code(), absl::StrCat("--session_store ", where, ": ", status.message())};
}

std::string PlaceOf(const RedisAddress& address) {
  if (!address.path.empty()) return absl::StrCat("unix://", address.path);
  return absl::StrCat("redis://", address.host, ":", address.port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotStore>> OpenStore(const std::string& name,
                                                         const StoreOptions& options) {
  if (name.starts_with("redis://") || name.starts_with("unix://")) {
    auto address = ParseRedisUrl(name);
    if (!address.ok()) return address.status();
    const char* password = std::getenv(kRedisPasswordVariable);
    if (address->password.empty() && password != nullptr) address->password = password;
    const std::string place = PlaceOf(*address);
    auto store = RedisStore::Open({.address = *std::move(address),
                                   .lease = options.lease,
                                   .time_to_live = options.time_to_live});
    if (!store.ok()) return At(place, store.status());
    return *std::move(store);
  }
  if (name.find("://") != std::string::npos) {
    return absl::InvalidArgumentError(
        "--session_store must be a directory, redis://HOST:PORT or unix://PATH");
  }
  auto store = DirectoryStore::Open(
      {.path = name, .lease = options.lease, .time_to_live = options.time_to_live});
  if (!store.ok()) return At(name, store.status());
  return *std::move(store);
}

}  // namespace goldfinch
