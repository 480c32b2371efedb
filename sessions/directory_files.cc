#include "sessions/directory_files.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdint>

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
                                                  int* fd_out) {
  const std::string name = FileName(id, kSnapshotSuffix);
  const int fd = openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return errno == ENOENT ? NoSuchSession() : FileError("opening", errno);
  absl::StatusOr<SnapshotHeader> header = NoSuchSession();
  {
    struct stat info;
    const auto begin = ReadUpTo(fd, kMaxHeaderBytes);
    if (!begin.ok()) {
      header = begin.status();
    } else if (fstat(fd, &info) != 0) {
      header = FileError("reading", errno);
    } else {
      header = DecodeHeader(*begin, static_cast<std::uint64_t>(info.st_size));
    }
  }
  if (header.ok() && fd_out != nullptr) {
    *fd_out = fd;
  } else {
    close(fd);
  }
  return header;
}

}  // namespace goldfinch
