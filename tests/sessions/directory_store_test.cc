#include "sessions/directory_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "sessions/snapshot.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

using ::testing::ElementsAre;
namespace fs = std::filesystem;

class DirectoryStoreTest : public ::testing::Test {
 protected:
  DirectoryStoreTest() {
    std::string name = ::testing::TempDir() + "/store_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~DirectoryStoreTest() override { fs::remove_all(path_); }

  std::unique_ptr<DirectoryStore> Open() {
    auto store = DirectoryStore::Open(path_);
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    return store.ok() ? std::move(*store) : nullptr;
  }

  std::size_t NumFiles() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

  std::string path_;
};

TEST_F(DirectoryStoreTest, WhatIsPutIsThereUntilItIsDeleted) {
  ASSERT_TRUE(Open()->Put(kSampleId, 1, "one").ok());
  const auto store = Open();
  EXPECT_EQ(*store->Get(kSampleId), "one");
  ASSERT_TRUE(store->Put(kSampleId, 2, "").ok());
  EXPECT_EQ(*store->Get(kSampleId), "");
  EXPECT_EQ(NumFiles(), 1u);
  EXPECT_TRUE(store->Delete(kSampleId).ok());
  EXPECT_TRUE(absl::IsNotFound(store->Get(kSampleId).status()));
  EXPECT_TRUE(absl::IsNotFound(store->Delete(kSampleId)));
}

TEST_F(DirectoryStoreTest, FilesAreForTheOwnerOnly) {
  ASSERT_TRUE(Open()->Put(kSampleId, 1, "one").ok());
  struct stat info;
  ASSERT_EQ(stat((path_ + "/" + kSampleId + ".snapshot").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(DirectoryStoreTest, AGenerationThatIsNotAboveTheStoredOneIsRefused) {
  const auto store = Open();
  ASSERT_TRUE(store->Put(kSampleId, 5, "five").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Put(kSampleId, 5, "again")));
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Put(kSampleId, 4, "four")));
  EXPECT_EQ(*store->Get(kSampleId), "five");
}

TEST_F(DirectoryStoreTest, ListIsAscendingAndGoesOnAfterAnId) {
  const std::string a(32, 'a'), b(32, 'b'), c(32, 'c');
  const auto store = Open();
  for (const std::string& id : {c, a, b}) ASSERT_TRUE(store->Put(id, 1, "x").ok());
  EXPECT_THAT(*store->List("", 2), ElementsAre(a, b));
  EXPECT_THAT(*store->List(a, 9), ElementsAre(b, c));
  EXPECT_THAT(*store->List(c, 9), ElementsAre());
}

TEST_F(DirectoryStoreTest, IdsThatAreNoneAreRefused) {
  const auto store = Open();
  for (const std::string& id :
       {std::string(), std::string("../x"), std::string(32, 'A'), std::string(31, 'a'),
        std::string(33, 'a'), "../" + std::string(29, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store->Put(id, 1, "x")));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Get(id).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Delete(id)));
  }
}

TEST_F(DirectoryStoreTest, AWorldWritableDirectoryIsRefused) {
  ASSERT_EQ(chmod(path_.c_str(), 0777), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(DirectoryStore::Open(path_).status()));
}

TEST_F(DirectoryStoreTest, ADirectoryInUseIsRefused) {
  const auto store = Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(DirectoryStore::Open(path_).status()));
}

TEST_F(DirectoryStoreTest, LeftoversGoAtStartAndNothingElseDoes) {
  std::ofstream(path_ + "/" + kSampleId + ".tmp") << "half";
  std::ofstream(path_ + "/notes.tmp") << "not ours";
  const auto store = Open();
  EXPECT_FALSE(fs::exists(path_ + "/" + kSampleId + ".tmp"));
  EXPECT_TRUE(fs::exists(path_ + "/notes.tmp"));
}

TEST_F(DirectoryStoreTest, AShortFileIsDataLoss) {
  const auto store = Open();
  ASSERT_TRUE(store->Put(kSampleId, 1, "some bytes").ok());
  fs::resize_file(path_ + "/" + kSampleId + ".snapshot", 30);
  EXPECT_TRUE(absl::IsDataLoss(store->Get(kSampleId).status()));
  fs::resize_file(path_ + "/" + kSampleId + ".snapshot", 3);
  EXPECT_TRUE(absl::IsDataLoss(store->Get(kSampleId).status()));
}

// What is before the blob decides which generation may replace it.
TEST_F(DirectoryStoreTest, AnyChangedByteOfTheHeaderIsDataLoss) {
  const auto store = Open();
  ASSERT_TRUE(store->Put(kSampleId, 7, "some bytes").ok());
  const std::string path = path_ + "/" + kSampleId + ".snapshot";
  for (int at = 0; at < 32; ++at) {
    const auto flip = [&] {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 1));
    };
    flip();
    EXPECT_TRUE(absl::IsDataLoss(store->Get(kSampleId).status())) << at;
    EXPECT_TRUE(absl::IsDataLoss(store->Put(kSampleId, 8, "newer"))) << at;
    flip();
  }
  EXPECT_EQ(*store->Get(kSampleId), "some bytes");
}

// The limit lets one write end short and the next one fail, as a full disk does.
TEST_F(DirectoryStoreTest, WithoutRoomTheOldOneStays) {
  const auto store = Open();
  ASSERT_TRUE(store->Put(kSampleId, 1, "old").ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto status = store->Put(kSampleId, 2, std::string(10'000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status.ToString();
  EXPECT_EQ(*store->Get(kSampleId), "old");
  EXPECT_EQ(NumFiles(), 1u);
}

// Runs the parker from generation `first`, kills it `delay_us` after its first
// acknowledgement, and returns the last acknowledged generation.
std::uint64_t ParkAndKill(const std::string& path, std::uint64_t first,
                          unsigned delay_us) {
  int ends[2];
  if (pipe(ends) != 0) return 0;
  const std::string program = GOLDFINCH_BINARY_DIR "/sessions_parker";
  const std::string from = std::to_string(first);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl(program.c_str(), program.c_str(), path.c_str(), from.c_str(), nullptr);
    _exit(9);
  }
  close(ends[1]);
  std::uint64_t last = 0, generation = 0;
  if (read(ends[0], &generation, sizeof generation) == sizeof generation) {
    last = generation;
    usleep(delay_us);  // the moment of the kill; nothing is awaited by it
  }
  kill(child, SIGKILL);
  while (read(ends[0], &generation, sizeof generation) == sizeof generation) {
    last = generation;
  }
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return last;
}

TEST_F(DirectoryStoreTest, KilledAtAnyMomentItHoldsWhatItAcknowledged) {
  const unsigned kills = std::getenv("GOLDFINCH_LONG_TESTS") != nullptr ? 1000 : 50;
  std::uint64_t generation = 0;
  for (unsigned i = 0; i < kills; ++i) {
    const std::uint64_t acknowledged = ParkAndKill(path_, generation + 1, i * 97 % 5000);
    ASSERT_GT(acknowledged, generation);
    const auto store = Open();
    ASSERT_NE(store, nullptr);
    const auto bytes = store->Get(kSampleId);
    ASSERT_TRUE(bytes.ok()) << bytes.status().ToString();
    const auto snapshot = DecodeSnapshot(*bytes, nullptr, {});
    ASSERT_TRUE(snapshot.ok()) << snapshot.status().ToString();
    ASSERT_GE(snapshot->generation, acknowledged);
    ASSERT_EQ(NumFiles(), 1u);
    generation = snapshot->generation;
  }
}

}  // namespace
}  // namespace goldfinch
