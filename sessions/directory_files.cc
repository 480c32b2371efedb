#include "sessions/directory_files.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "sessions/files.h"
#include "sessions/session_id.h"

namespace goldfinch {

std::string FileName(std::string_view stem, std::string_view suffix) {
  return std::string(stem).append(suffix);
}

std::string StemOf(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return "";
  const std::string_view stem = name.substr(0, name.size() - suffix.size());
  return IsSessionId(stem) ? std::string(stem) : "";
}

absl::StatusOr<SnapshotHeader> ReadSnapshotHeader(int directory, const std::string& id,
                                                  FileDescriptor* file) {
  const std::string name = FileName(id, kSnapshotSuffix);
  FileDescriptor opened(
      openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!opened) return errno == ENOENT ? NoSuchSession() : FileError("opening", errno);
  const auto begin = ReadUpTo(opened.get(), kMaxHeaderBytes);
  if (!begin.ok()) return begin.status();
  struct stat info;
  if (fstat(opened.get(), &info) != 0) return FileError("reading", errno);
  auto header = DecodeHeader(*begin, static_cast<std::uint64_t>(info.st_size));
  if (file != nullptr) *file = std::move(opened);
  return header;
}

}  // namespace goldfinch
