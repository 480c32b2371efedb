// Whose each snapshot of a directory is, remembered from one list to the next, so that a
// list of one tenant's opens few files of the others.
//
// What is remembered is of one file, told by its inode number: what replaces it is looked
// at anew. What a list does not find is forgotten, and an id is not used again within the
// leases for which its deletion is known, if ever; so an id that comes back is not taken
// for what it was. Should it be after all, it is missing from a list and never in that of
// another tenant, as who describes it reads the file.
//
// Threads: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sync/mutex.h"
#include "sessions/files.h"

namespace goldfinch {

class DirectoryTenants {
 public:
  // The tenant of what is stored under an id.
  using Read = std::function<absl::StatusOr<std::string>(const std::string& id)>;
  explicit DirectoryTenants(Read read) : read_(std::move(read)) {}

  // Of the snapshots among all `files` of the directory those that may be the tenant's:
  // their ids above `after`, ascending. What cannot be read is nobody's, and asked for
  // again the next time.
  std::vector<std::string> IdsOf(std::string_view tenant, std::string_view after,
                                 const std::vector<NamedFile>& files);

 private:
  // Small: there is one for each session in the store.
  struct Known {
    std::array<char, 32> id;
    std::uint64_t inode;
    std::size_t tenant;  // its hash: of two with the same, one is looked at in vain

    std::string_view name() const { return {id.data(), id.size()}; }
  };
  using Table = std::vector<Known>;  // ascending by id

  const Read read_;
  Mutex mu_;
  std::shared_ptr<const Table> last_ ABSL_GUARDED_BY(mu_) =
      std::make_shared<const Table>();
};

}  // namespace goldfinch
