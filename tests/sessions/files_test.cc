#include "sessions/files.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "engine/file_descriptor.h"

namespace goldfinch {
namespace {

// Of a small file in a folder of the test's own.
class ReadSmallFileTest : public testing::Test {
 protected:
  static constexpr std::size_t kLimit = 100;

  ReadSmallFileTest() {
    std::string name = testing::TempDir() + "/files_XXXXXX";
    path_ = mkdtemp(name.data());
    folder_ = FileDescriptor(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    Write("it", "old");
    Write("other", "new");
  }
  ~ReadSmallFileTest() override { std::filesystem::remove_all(path_); }

  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name) << bytes;
  }

  // Reads the file and does `between` after its name has been looked up and before it is
  // opened: a lease on the file holds whoever opens it up there. `between` has the file
  // that was found.
  absl::StatusOr<std::string> Read(const std::function<void(int fd)>& between) const {
    signal(SIGIO, SIG_IGN);  // that somebody opens it is told so
    const FileDescriptor found(openat(folder_.get(), "it", O_RDWR | O_CLOEXEC));
    EXPECT_EQ(fcntl(found.get(), F_SETLEASE, F_WRLCK), 0);
    absl::StatusOr<std::string> bytes;
    std::thread reader([&] { bytes = ReadSmallFile(folder_.get(), "it", kLimit); });
    while (fcntl(found.get(), F_GETLEASE) == F_WRLCK) std::this_thread::yield();
    between(found.get());
    EXPECT_EQ(fcntl(found.get(), F_SETLEASE, F_UNLCK), 0);
    reader.join();
    return bytes;
  }
  bool HasLeases() const {
    const FileDescriptor file(openat(folder_.get(), "it", O_RDWR | O_CLOEXEC));
    return fcntl(file.get(), F_SETLEASE, F_WRLCK) == 0;
  }

  std::string path_;
  FileDescriptor folder_;
};

// As the spare of a full directory, which is written once it has another file's name.
TEST_F(ReadSmallFileTest, WhatChangedItsNameMeanwhileIsNotReadForIt) {
  if (!HasLeases()) GTEST_SKIP() << "the file system has no leases";
  const auto bytes = Read([&](int fd) {
    ASSERT_EQ(ExchangeNames(folder_.get(), "it", "other"), 0);
    ASSERT_EQ(pwrite(fd, "mixed", 5, 0), 5);
  });
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, "new");
}

TEST_F(ReadSmallFileTest, WhatLostItsNameMeanwhileIsNotThere) {
  if (!HasLeases()) GTEST_SKIP() << "the file system has no leases";
  const auto bytes = Read([&](int) { ASSERT_EQ(unlinkat(folder_.get(), "it", 0), 0); });
  EXPECT_TRUE(absl::IsNotFound(bytes.status())) << bytes.status();
}

TEST_F(ReadSmallFileTest, WhatIsWrittenInItsPlaceIsRead) {
  if (!HasLeases()) GTEST_SKIP() << "the file system has no leases";
  const auto bytes = Read([&](int fd) { ASSERT_EQ(pwrite(fd, "newer", 5, 0), 5); });
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, "newer");
}

}  // namespace
}  // namespace goldfinch
