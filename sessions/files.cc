#include "sessions/files.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/file_descriptor.h"

namespace goldfinch {
namespace {

// Of a file that others replace meanwhile.
constexpr int kReadAttempts = 100;

// 0, or the error.
int WriteAll(const FileCalls& calls, int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = calls.write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return errno;
    if (written > 0) bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

int WritePieces(const FileCalls& calls, int directory, const std::string& name,
                std::span<const std::string_view> pieces, Durability durability) {
  const FileDescriptor file(openat(directory, name.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                                   0600));
  if (file.get() < 0) return errno;
  for (const std::string_view piece : pieces) {
    if (const int error = WriteAll(calls, file.get(), piece); error != 0) return error;
  }
  if (durability == Durability::kAsItComes) return 0;
  return calls.fsync(file.get()) == 0 ? 0 : errno;
}

}  // namespace

int ExchangeNames(int directory, const char* one, const char* other) {
  return renameat2(directory, one, directory, other, RENAME_EXCHANGE);
}

absl::Status FileError(const char* what, int error) {
  const std::string message =
      absl::StrCat("session directory: ", what, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::UnavailableError(message);
}

absl::Status WriteFile(const FileCalls& calls, int directory, const std::string& name,
                       std::span<const std::string_view> pieces, Durability durability) {
  const int error = WritePieces(calls, directory, name, pieces, durability);
  if (error == 0) return absl::OkStatus();
  RemoveFile(directory, name);
  return FileError("writing", error);
}

absl::Status RenameOrRemove(const FileCalls& calls, int directory,
                            const std::string& from, const std::string& to) {
  if (calls.renameat(directory, from.c_str(), directory, to.c_str()) == 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  RemoveFile(directory, from);
  return FileError("renaming", error);
}

absl::Status ReplaceFile(const FileCalls& calls, int directory,
                         const std::string& temporary, const std::string& name,
                         std::string_view bytes) {
  const absl::Status status =
      WriteFile(calls, directory, temporary, {&bytes, 1}, Durability::kAsItComes);
  return status.ok() ? RenameOrRemove(calls, directory, temporary, name) : status;
}

absl::Status RewriteFile(const FileCalls& calls, int directory, const std::string& name,
                         std::string_view bytes) {
  const FileDescriptor file(
      openat(directory, name.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.get() < 0) return FileError("opening", errno);
  int error = WriteAll(calls, file.get(), bytes);
  if (error == 0 && ftruncate(file.get(), static_cast<off_t>(bytes.size())) != 0) {
    error = errno;
  }
  return error == 0 ? absl::OkStatus() : FileError("writing", error);
}

absl::StatusOr<std::string> ReadUpTo(int fd, std::size_t size) {
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = read(fd, bytes.data() + done, size - done);
    if (got < 0 && errno != EINTR) return FileError("reading", errno);
    if (got == 0) break;
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

absl::StatusOr<std::string> ReadSmallFile(int directory, const std::string& name,
                                          std::size_t limit) {
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    const FileDescriptor file(
        openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (file.get() < 0) {
      return errno == ENOENT ? absl::NotFoundError("there is no such file")
                             : FileError("opening", errno);
    }
    struct stat info, named;
    if (fstat(file.get(), &info) != 0) return FileError("reading", errno);
    auto bytes =
        ReadUpTo(file.get(), std::min(limit, static_cast<std::size_t>(info.st_size)));
    if (!bytes.ok()) return bytes;
    const bool there = fstatat(directory, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && named.st_ino == info.st_ino && named.st_dev == info.st_dev) return bytes;
  }
  return absl::UnavailableError("session directory: a file of it keeps changing");
}

void RemoveFile(int directory, const std::string& name) {
  unlinkat(directory, name.c_str(), 0);
}

absl::StatusOr<std::vector<NamedFile>> FilesIn(int directory) {
  const int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FileError("listing", errno);
  DIR* stream = fdopendir(fd);
  if (stream == nullptr) {
    close(fd);
    return FileError("listing", ENOMEM);
  }
  std::vector<NamedFile> files;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    files.push_back({.name = entry->d_name, .inode = entry->d_ino});
  }
  const int error = errno;
  closedir(stream);
  if (error != 0) return FileError("listing", error);
  return files;
}

absl::StatusOr<std::vector<std::string>> FileNames(int directory) {
  auto files = FilesIn(directory);
  if (!files.ok()) return files.status();
  std::vector<std::string> names;
  names.reserve(files->size());
  for (NamedFile& file : *files) names.push_back(std::move(file.name));
  return names;
}

}  // namespace goldfinch
