// Replaces small files of a directory also when it is full.
//
// Where there is no room for a new file, a spare one, which was written while there was,
// takes the bytes, in the block that it has, and changes names with the file that is to
// be replaced; that one is the spare from then on. So at any moment, kill -9 included,
// the old bytes or the new ones are there, whole: only the spare is ever half written.
// Nothing is asked for that a full disk does not have, but by a file system that never
// writes to the same place. What is not there yet is not made without room.
//
// Whoever reads without the directory's lock may have opened what is the spare by now:
// ReadSmallFile looks whether the name is still that of the file it has read.
//
// Threads: one at a time, under the directory's lock.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "sessions/files.h"

namespace goldfinch {

class DirectorySpare {
 public:
  // `directory` is a file descriptor.
  DirectorySpare(const FileCalls& calls, int directory)
      : calls_(calls), directory_(directory) {}

  // Under `name` from now on. Makes one if there is none and there is room.
  void Keep(const std::string& name);
  // Without one, or where nothing can be replaced by it, as ReplaceFile.
  absl::Status Replace(const std::string& temporary, const std::string& name,
                       std::string_view bytes);
  void Remove();

 private:
  bool Exchange(const std::string& name, std::string_view bytes);

  const FileCalls& calls_;
  const int directory_;
  std::string name_;
};

}  // namespace goldfinch
