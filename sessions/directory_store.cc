#include "sessions/directory_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "sessions/bytes.h"
#include "sessions/snapshot.h"

namespace goldfinch {
namespace {

constexpr std::string_view kMagic("GFSTORE1", 8);
// Magic, generation, length of the blob, and a checksum of these: Put decides by the
// generation alone.
constexpr std::size_t kHeaderBytes = 32;
constexpr std::string_view kSuffix = ".snapshot";
constexpr std::string_view kTemporarySuffix = ".tmp";

absl::Status Failed(const char* what, int error) {
  const std::string message =
      absl::StrCat("snapshot directory: ", what, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::UnavailableError(message);
}

absl::Status CheckId(std::string_view id) {
  if (IsSessionId(id)) return absl::OkStatus();
  return absl::InvalidArgumentError("a session id is 32 lowercase hex digits");
}

std::string FileName(std::string_view id, std::string_view suffix) {
  return std::string(id).append(suffix);
}

// Whether `name` is a session id and `suffix`.
bool IsNamed(std::string_view name, std::string_view suffix) {
  return name.ends_with(suffix) &&
         IsSessionId(name.substr(0, name.size() - suffix.size()));
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

// 0, or the error.
int WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return errno;
    if (written > 0) bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

absl::StatusOr<std::string> ReadAll(int fd, std::size_t size) {
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = read(fd, bytes.data() + done, size - done);
    if (got < 0 && errno != EINTR) return Failed("reading", errno);
    if (got == 0) return absl::DataLossError("a stored snapshot is shorter than it says");
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  return bytes;
}

struct Header {
  std::uint64_t generation = 0;
  std::uint64_t length = 0;  // of the blob, checked against the file's size
};

// Of all but itself.
std::uint64_t HeaderChecksum(std::string_view header) {
  return XXH3_64bits(header.data(), kHeaderBytes - sizeof(std::uint64_t));
}

absl::StatusOr<Header> ReadHeader(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return Failed("reading", errno);
  auto bytes = ReadAll(fd, kHeaderBytes);
  if (!bytes.ok()) return bytes.status();
  ByteReader in(*bytes);
  const bool ours = in.Raw(kMagic.size()) == kMagic;
  Header header;
  header.generation = in.Int<std::uint64_t>();
  header.length = in.Int<std::uint64_t>();
  const bool intact = in.Int<std::uint64_t>() == HeaderChecksum(*bytes);
  if (!ours || !intact ||
      header.length != static_cast<std::uint64_t>(info.st_size) - kHeaderBytes) {
    return absl::DataLossError("a stored snapshot is damaged");
  }
  return header;
}

// 0, or the error. The temporary file is complete and on the disk when this is 0.
int WriteTemporary(int directory, const std::string& name, std::string_view header,
                   std::string_view bytes) {
  const File file(
      openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.fd() < 0) return errno;
  if (const int error = WriteAll(file.fd(), header); error != 0) return error;
  if (const int error = WriteAll(file.fd(), bytes); error != 0) return error;
  return fsync(file.fd()) == 0 ? 0 : errno;
}

// Names of the form id + suffix, without the suffix, in no order.
absl::StatusOr<std::vector<std::string>> Ids(int directory, std::string_view suffix) {
  const int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Failed("listing", errno);
  DIR* stream = fdopendir(fd);
  if (stream == nullptr) {
    close(fd);
    return Failed("listing", ENOMEM);
  }
  std::vector<std::string> ids;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (IsNamed(name, suffix))
      ids.emplace_back(name.substr(0, name.size() - suffix.size()));
  }
  const int error = errno;
  closedir(stream);
  if (error != 0) return Failed("listing", error);
  return ids;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DirectoryStore>> DirectoryStore::Open(
    const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Failed("opening", errno);
  std::unique_ptr<DirectoryStore> store(new DirectoryStore(fd));
  struct stat info;
  if (fstat(fd, &info) != 0) return Failed("opening", errno);
  if ((info.st_mode & S_IWOTH) != 0) {
    return absl::FailedPreconditionError(
        "the snapshot directory is writable by everybody; remove that permission");
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError("the snapshot directory is in use");
  }
  if (auto status = store->RemoveLeftovers(); !status.ok()) return status;
  return store;
}

DirectoryStore::~DirectoryStore() { close(directory_); }

absl::Status DirectoryStore::RemoveLeftovers() {
  auto ids = Ids(directory_, kTemporarySuffix);
  if (!ids.ok()) return ids.status();
  for (const std::string& id : *ids) {
    if (unlinkat(directory_, FileName(id, kTemporarySuffix).c_str(), 0) != 0) {
      return Failed("removing a leftover", errno);
    }
  }
  return absl::OkStatus();
}

absl::Status DirectoryStore::Put(std::string_view session_id, std::uint64_t generation,
                                 std::string_view bytes) {
  if (auto status = CheckId(session_id); !status.ok()) return status;
  const std::string name = FileName(session_id, kSuffix);
  const std::string temporary = FileName(session_id, kTemporarySuffix);
  const MutexLock lock(mu_);
  const File stored(openat(directory_, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (stored.fd() < 0 && errno != ENOENT) return Failed("opening", errno);
  if (stored.fd() >= 0) {
    const auto header = ReadHeader(stored.fd());
    if (!header.ok()) return header.status();
    if (generation <= header->generation) {
      return absl::FailedPreconditionError(
          absl::StrCat("the snapshot has generation ", generation,
                       "; the store already holds ", header->generation));
    }
  }
  ByteWriter header;
  header.Raw(kMagic);
  header.Int(generation);
  header.Int(std::uint64_t{bytes.size()});
  header.Int(HeaderChecksum(header.bytes()));
  if (const int error = WriteTemporary(directory_, temporary, header.bytes(), bytes);
      error != 0) {
    unlinkat(directory_, temporary.c_str(), 0);
    return Failed("writing", error);
  }
  if (renameat(directory_, temporary.c_str(), directory_, name.c_str()) != 0) {
    const int error = errno;
    unlinkat(directory_, temporary.c_str(), 0);
    return Failed("renaming", error);
  }
  if (fsync(directory_) != 0) return Failed("flushing", errno);
  return absl::OkStatus();
}

absl::StatusOr<std::string> DirectoryStore::Get(std::string_view session_id) {
  if (auto status = CheckId(session_id); !status.ok()) return status;
  const std::string name = FileName(session_id, kSuffix);
  const File file(openat(directory_, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.fd() < 0) {
    return errno == ENOENT ? absl::NotFoundError("no such session is stored")
                           : Failed("opening", errno);
  }
  const auto header = ReadHeader(file.fd());
  if (!header.ok()) return header.status();
  return ReadAll(file.fd(), header->length);
}

absl::Status DirectoryStore::Delete(std::string_view session_id) {
  if (auto status = CheckId(session_id); !status.ok()) return status;
  const MutexLock lock(mu_);
  if (unlinkat(directory_, FileName(session_id, kSuffix).c_str(), 0) != 0) {
    return errno == ENOENT ? absl::NotFoundError("no such session is stored")
                           : Failed("deleting", errno);
  }
  return fsync(directory_) == 0 ? absl::OkStatus() : Failed("flushing", errno);
}

absl::StatusOr<std::vector<std::string>> DirectoryStore::List(std::string_view after,
                                                              std::size_t limit) {
  if (!after.empty()) {
    if (auto status = CheckId(after); !status.ok()) return status;
  }
  auto ids = Ids(directory_, kSuffix);
  if (!ids.ok()) return ids;
  std::erase_if(*ids, [after](const std::string& id) { return id <= after; });
  std::sort(ids->begin(), ids->end());
  if (ids->size() > limit) ids->resize(limit);
  return ids;
}

}  // namespace goldfinch
