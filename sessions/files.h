// Small files in one directory, replaced whole: by a temporary name, a flush and a
// rename.
//
// Errors name no paths. RESOURCE_EXHAUSTED when there is no room, UNAVAILABLE for other
// failures of the system.
//
// Threads: any, with names of their own.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace goldfinch {

// Two files of a directory change names, at once.
int ExchangeNames(int directory, const char* one, const char* other);

// The calls that can fail in ways a test wants to see.
struct FileCalls {
  ssize_t (*write)(int, const void*, std::size_t) = ::write;
  int (*fsync)(int) = ::fsync;
  int (*renameat)(int, const char*, int, const char*) = ::renameat;
  int (*exchangeat)(int, const char*, const char*) = ExchangeNames;
};

absl::Status FileError(const char* what, int error);

enum class Durability { kFlushed, kAsItComes };

// Writes `pieces`, one behind the other, to the new file `name`. On an error none is
// left.
absl::Status WriteFile(const FileCalls& calls, int directory, const std::string& name,
                       std::span<const std::string_view> pieces, Durability durability);

// On an error `from` is gone, too.
absl::Status RenameOrRemove(const FileCalls& calls, int directory,
                            const std::string& from, const std::string& to);

// Makes `bytes` the file `name`, in one piece by way of `temporary`. Not flushed.
absl::Status ReplaceFile(const FileCalls& calls, int directory,
                         const std::string& temporary, const std::string& name,
                         std::string_view bytes);

// Makes `bytes` all that is in the file `name`, which exists, in the place that it has.
absl::Status RewriteFile(const FileCalls& calls, int directory, const std::string& name,
                         std::string_view bytes);

// Up to `size` bytes from where the file is read; fewer only at its end.
absl::StatusOr<std::string> ReadUpTo(int fd, std::size_t size);

// The whole of a file of at most `limit` bytes, as it was while it had that name.
// NOT_FOUND when there is none.
absl::StatusOr<std::string> ReadSmallFile(int directory, const std::string& name,
                                          std::size_t limit);

// No error when it is not there.
void RemoveFile(int directory, const std::string& name);

struct NamedFile {
  std::string name;
  std::uint64_t inode = 0;
};

// In no order.
absl::StatusOr<std::vector<NamedFile>> FilesIn(int directory);
absl::StatusOr<std::vector<std::string>> FileNames(int directory);

}  // namespace goldfinch
