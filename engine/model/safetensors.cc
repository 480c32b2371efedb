#include "engine/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/file_descriptor.h"
#include "engine/model/safetensors_header.h"

namespace goldfinch {
namespace {

constexpr std::size_t kLengthBytes = 8;  // of the header, in front of it

absl::Status SystemError(const char* action, int error) {
  const std::string what = absl::StrCat("cannot be ", action, ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(what)
                         : absl::FailedPreconditionError(what);
}

// Maps a regular file of at least `min_bytes`, read-only.
absl::StatusOr<std::span<const std::byte>> MapFile(const std::string& path,
                                                   std::size_t min_bytes) {
  // Non-blocking, or a named pipe would be waited for instead of refused.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return SystemError("opened", errno);
  struct stat info;
  if (fstat(file.get(), &info) != 0) return SystemError("read", errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError("cannot be read: it is not a regular file");
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size < min_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the file has ", size,
                     " bytes; the length of its header alone takes ", min_bytes));
  }
  void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) return SystemError("mapped", errno);
  // All of it is read soon; a kernel that cannot read ahead loses only time.
  static_cast<void>(madvise(address, size, MADV_WILLNEED));
  return std::span(static_cast<const std::byte*>(address), size);
}

// The header's length, checked against what the file holds.
absl::StatusOr<std::size_t> HeaderBytes(std::span<const std::byte> mapping) {
  std::uint64_t length = 0;
  std::memcpy(&length, mapping.data(), sizeof(length));
  if (length > SafetensorsFile::kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the header has ", length,
                                                   " bytes; the limit is ",
                                                   SafetensorsFile::kMaxHeaderBytes));
  }
  const std::size_t left = mapping.size() - kLengthBytes;
  if (length > left) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the header has ", length, " bytes; the file has only ", left, " for it"));
  }
  return static_cast<std::size_t>(length);
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::string name, std::span<const std::byte> mapping)
    : name_(std::move(name)), mapping_(mapping) {}

SafetensorsFile::~SafetensorsFile() {
  munmap(const_cast<std::byte*>(mapping_.data()), mapping_.size());
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  const auto refuse = [&name](const absl::Status& why) {
    return absl::Status(why.code(), absl::StrCat(name, ": ", std::string(why.message())));
  };
  const auto mapping = MapFile(path, kLengthBytes);
  if (!mapping.ok()) return refuse(mapping.status());
  // From here on the mapping has an owner.
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(name, *mapping));

  const absl::StatusOr<std::size_t> header_bytes = HeaderBytes(*mapping);
  if (!header_bytes.ok()) return refuse(header_bytes.status());
  const std::string_view header(
      reinterpret_cast<const char*>(mapping->data()) + kLengthBytes, *header_bytes);
  const std::span<const std::byte> data = mapping->subspan(kLengthBytes + *header_bytes);
  absl::StatusOr<std::vector<TensorEntry>> entries =
      ParseSafetensorsHeader(header, data.size());
  if (!entries.ok()) return refuse(entries.status());

  for (TensorEntry& entry : *entries) {
    file->tensors_.emplace(std::move(entry.name),
                           StoredTensor{.type = entry.type,
                                        .shape = std::move(entry.shape),
                                        .data = data.data() + entry.begin,
                                        .size = entry.end - entry.begin});
  }
  return file;
}

const StoredTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace goldfinch
