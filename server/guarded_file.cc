#include "server/guarded_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/file_descriptor.h"

namespace goldfinch {
namespace {

absl::Status Refuse(const char* what, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(what, " ", why));
}

// `error` is errno's.
absl::Status CannotRead(const char* what, absl::string_view how, int error) {
  const bool may_pass = error == EMFILE || error == ENFILE || error == ENOMEM ||
                        error == EIO || error == EAGAIN;
  const std::string message = absl::StrCat(what, " ", how, ": ", strerror(error));
  return may_pass ? absl::UnavailableError(message) : absl::InvalidArgumentError(message);
}

// What is wrong with who may do what with it; null: nothing.
const char* Flaw(const struct stat& info, FileGuard guard) {
  if (guard != FileGuard::kNone && (info.st_mode & S_IWOTH) != 0) {
    return "may be written by everybody on this machine (chmod o-w)";
  }
  if (guard == FileGuard::kNotReadableByAll && (info.st_mode & S_IROTH) != 0) {
    return "may be read by everybody on this machine (chmod o-r)";
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::string> ReadGuardedFile(const std::string& path, const char* what,
                                            std::size_t max_bytes, FileGuard guard) {
  // Non-blocking, or a named pipe would be waited for instead of refused.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    const int error = errno;
    return CannotRead(what, absl::StrCat("cannot be opened: ", path), error);
  }
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return CannotRead(what, "cannot be read", errno);
  if (!S_ISREG(info.st_mode)) return Refuse(what, "is not a regular file");
  if (const char* flaw = Flaw(info, guard)) return Refuse(what, flaw);

  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t n = read(file.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return CannotRead(what, "cannot be read", errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > max_bytes) {
      return Refuse(what, absl::StrCat("has more than ", max_bytes, " bytes, the limit"));
    }
  }
}

}  // namespace goldfinch
