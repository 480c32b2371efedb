// Parked sessions as files in one directory.
//
// A session is one file, so that one rename replaces it whole: at any moment, kill -9
// included, the old one or the new one is there. Its generation is in a small header
// before the blob and not in the name: a name with it would leave two files between the
// rename and the removal of the old one.
//
// The directory is locked: one process at a time. Any thread may call.
#pragma once

#include <memory>
#include <string>

#include "engine/sync/mutex.h"
#include "sessions/store.h"

namespace goldfinch {

class DirectoryStore : public SnapshotStore {
 public:
  // The directory exists. FAILED_PRECONDITION when everybody may write to it or another
  // process holds it. Removes what interrupted writes left.
  static absl::StatusOr<std::unique_ptr<DirectoryStore>> Open(const std::string& path);
  ~DirectoryStore() override;
  DirectoryStore(const DirectoryStore&) = delete;
  DirectoryStore& operator=(const DirectoryStore&) = delete;

  absl::Status Put(std::string_view session_id, std::uint64_t generation,
                   std::string_view bytes) override;
  absl::StatusOr<std::string> Get(std::string_view session_id) override;
  absl::Status Delete(std::string_view session_id) override;
  absl::StatusOr<std::vector<std::string>> List(std::string_view after,
                                                std::size_t limit) override;

 private:
  explicit DirectoryStore(int directory) : directory_(directory) {}
  absl::Status RemoveLeftovers();

  const int directory_;  // file descriptor
  Mutex mu_;             // held by writers: the generation is compared, then replaced
};

}  // namespace goldfinch
