#include "sessions/directory_spare.h"

#include "sessions/directory_format.h"

namespace goldfinch {

void DirectorySpare::Keep(const std::string& name) {
  if (!name_.empty() && name != name_) {
    RenameOrRemove(calls_, directory_, name_, name).IgnoreError();
  }
  name_ = name;
  if (faccessat(directory_, name.c_str(), F_OK, 0) == 0) return;
  const std::string zeros(kMaxSmallFileBytes, '\0');
  const std::string_view bytes = zeros;
  // Flushed, so that its block is its own and not only promised.
  WriteFile(calls_, directory_, name, {&bytes, 1}, Durability::kFlushed).IgnoreError();
}

absl::Status DirectorySpare::Replace(const std::string& temporary,
                                     const std::string& name, std::string_view bytes) {
  const absl::Status status = ReplaceFile(calls_, directory_, temporary, name, bytes);
  if (!absl::IsResourceExhausted(status) || !Exchange(name, bytes)) return status;
  return absl::OkStatus();
}

bool DirectorySpare::Exchange(const std::string& name, std::string_view bytes) {
  return RewriteFile(calls_, directory_, name_, bytes).ok() &&
         calls_.exchangeat(directory_, name_.c_str(), name.c_str()) == 0;
}

void DirectorySpare::Remove() {
  if (!name_.empty()) RemoveFile(directory_, name_);
}

}  // namespace goldfinch
