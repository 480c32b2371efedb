// A folder of a bench's own.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "engine/check.h"

namespace goldfinch {

// A folder that goes when this does.
class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "goldfinch_bench_XXXXXX";
    GOLDFINCH_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
    fd_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    GOLDFINCH_CHECK(fd_ >= 0);
  }
  ~Folder() {
    close(fd_);
    std::filesystem::remove_all(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace goldfinch
