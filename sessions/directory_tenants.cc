#include "sessions/directory_tenants.h"

#include <algorithm>
#include <utility>

#include "sessions/directory_files.h"

namespace goldfinch {

std::vector<std::string> DirectoryTenants::IdsOf(std::string_view tenant,
                                                 std::string_view after,
                                                 const std::vector<NamedFile>& files) {
  Table now;
  for (const NamedFile& file : files) {
    const std::string id = StemOf(file.name, kSnapshotSuffix);
    if (id.empty()) continue;
    Known& known = now.emplace_back();
    std::ranges::copy(id, known.id.begin());
    known.inode = file.inode;
  }
  std::ranges::sort(now, {}, &Known::id);
  std::shared_ptr<const Table> last;
  {
    const MutexLock lock(mu_);
    last = last_;
  }
  const std::hash<std::string_view> hash;
  const std::size_t wanted = hash(tenant);
  std::vector<std::string> ids;
  std::size_t num_known = 0;
  auto before = last->begin();
  for (Known& known : now) {
    while (before != last->end() && before->id < known.id) ++before;
    if (before != last->end() && before->id == known.id && before->inode == known.inode) {
      known.tenant = before->tenant;
    } else {
      const auto read = read_(std::string(known.name()));
      if (!read.ok()) continue;
      known.tenant = hash(*read);
    }
    if (known.tenant == wanted && known.name() > after) ids.emplace_back(known.name());
    now[num_known++] = known;
  }
  now.resize(num_known);
  const MutexLock lock(mu_);
  last_ = std::make_shared<const Table>(std::move(now));
  return ids;
}

}  // namespace goldfinch
