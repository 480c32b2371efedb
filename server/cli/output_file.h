// A file that is there whole or not at all.
//
// It is written under a temporary name beside its own and takes its name, and the place
// of what had it, when it is complete. Only its owner may read it: conversations are
// private. "-" is standard output; that and what is no ordinary file is written directly.
//
// Threads: one.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace goldfinch {

class OutputFile {
 public:
  static absl::StatusOr<std::unique_ptr<OutputFile>> Open(const std::string& path);
  // Without Commit, nothing is left of it.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(absl::string_view bytes);
  // On the disk when this returns.
  absl::Status Commit();

 private:
  OutputFile(std::string path, std::string temporary, int fd);
  absl::Status Failed() const;  // what errno says
  absl::Status FlushFolder() const;

  const std::string path_;
  std::string temporary_;  // empty: written directly
  int fd_;                 // -1: closed
};

}  // namespace goldfinch
