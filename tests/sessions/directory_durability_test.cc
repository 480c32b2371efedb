// What a directory of sessions tells the disk, and when: an acknowledged snapshot
// survives a loss of power.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "sessions/directory_store.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

using ::testing::ElementsAre;
namespace fs = std::filesystem;

// What is watched, and what has happened to it: function pointers have no other place.
struct Watched {
  std::string snapshot;            // its path
  std::vector<std::string> calls;  // of those that a loss of power cares for
};
Watched* watched = nullptr;

void Note(const std::string& what) {
  const bool there = fs::exists(watched->snapshot);
  watched->calls.push_back(what + (there ? ", it is there" : ", it is not there"));
}

int NotedFsync(int fd) {
  struct stat info;
  EXPECT_EQ(fstat(fd, &info), 0);
  if (S_ISDIR(info.st_mode)) {
    Note("flush folder");
  } else {
    // With its header, all of it.
    Note(info.st_size > 100'000 ? "flush snapshot" : "flush another file");
  }
  return fsync(fd);
}

int NotedRename(int from_dir, const char* from, int to_dir, const char* to) {
  if (watched->snapshot.ends_with(to)) Note("rename");
  return renameat(from_dir, from, to_dir, to);
}

class DirectoryDurabilityTest : public testing::Test {
 protected:
  DirectoryDurabilityTest() {
    std::string name = testing::TempDir() + "/store_XXXXXX";
    path_ = mkdtemp(name.data());
    DirectoryStoreOptions options;
    options.path = path_;
    options.calls.fsync = NotedFsync;
    options.calls.renameat = NotedRename;
    watched_.snapshot = path_ + "/" + kSampleId + ".snapshot";
    watched = &watched_;
    store_ = DirectoryStore::Open(std::move(options)).value();
  }
  ~DirectoryDurabilityTest() override {
    store_.reset();
    watched = nullptr;
    fs::remove_all(path_);
  }

  Claim Claimed() {
    const auto claim = store_->Acquire(kSampleId, "t", AcquireMode::kNew);
    EXPECT_TRUE(claim.ok()) << claim.status();
    return claim.value_or(Claim());
  }
  absl::Status Put(const Claim& claim, std::uint64_t generation) {
    const std::string bytes(100'000, 'x');
    const std::string_view piece = bytes;
    return store_->Put(kSampleId, claim, generation, {.tenant = "t", .num_tokens = 1},
                       {&piece, 1}, kUnlimitedBytes);
  }

  Watched watched_;
  std::string path_;
  std::unique_ptr<DirectoryStore> store_;
};

// A name that is on the disk before its bytes are would be a snapshot that is damaged;
// one that is acknowledged before it is on the disk, one that is lost.
TEST_F(DirectoryDurabilityTest, BytesAreFlushedBeforeTheNameAndTheNameBeforeTheAnswer) {
  const Claim claim = Claimed();
  watched_.calls.clear();
  ASSERT_EQ(Put(claim, 1), absl::OkStatus());
  EXPECT_THAT(watched_.calls,
              ElementsAre("flush snapshot, it is not there", "rename, it is not there",
                          "flush folder, it is there"));
  watched_.calls.clear();
  ASSERT_EQ(Put(claim, 2), absl::OkStatus());
  EXPECT_THAT(watched_.calls,
              ElementsAre("flush snapshot, it is there", "rename, it is there",
                          "flush folder, it is there"));
}

// Whoever was told that it is gone shall not find it again.
TEST_F(DirectoryDurabilityTest, ADeleteIsFlushedBeforeTheAnswer) {
  const Claim claim = Claimed();
  ASSERT_EQ(Put(claim, 1), absl::OkStatus());
  watched_.calls.clear();
  ASSERT_EQ(store_->Delete(kSampleId, claim), absl::OkStatus());
  EXPECT_THAT(watched_.calls, ElementsAre("flush folder, it is not there"));
}

}  // namespace
}  // namespace goldfinch
