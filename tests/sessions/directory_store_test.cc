#include "sessions/directory_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "sessions/checksum.h"
#include "sessions/directory_format.h"
#include "sessions/snapshot.h"
#include "tests/sessions/ahead_clock.h"
#include "tests/sessions/moved_clock.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

namespace fs = std::filesystem;

const std::string kTenant = SampleSnapshot().tenant;

class DirectoryStoreTest : public ::testing::Test {
 protected:
  DirectoryStoreTest() {
    std::string name = ::testing::TempDir() + "/store_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~DirectoryStoreTest() override { fs::remove_all(path_); }

  std::unique_ptr<DirectoryStore> Open(
      const FileCalls& calls = {},
      std::shared_ptr<const LeaseClock> clock = std::make_shared<LeaseClock>()) {
    DirectoryStoreOptions options;
    options.path = path_;
    options.calls = calls;
    options.clock = std::move(clock);
    auto store = DirectoryStore::Open(std::move(options));
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    return store.ok() ? std::move(*store) : nullptr;
  }
  static absl::Status Put(SnapshotStore& store, std::uint64_t generation,
                          std::string_view bytes) {
    const auto claim = store.Acquire(kSampleId, kTenant, AcquireMode::kNew);
    if (!claim.ok()) return claim.status();
    return store.Put(kSampleId, *claim, generation, {.tenant = kTenant, .num_tokens = 1},
                     {&bytes, 1}, kUnlimitedBytes);
  }

  std::string SnapshotPath() const { return path_ + "/" + kSampleId + ".snapshot"; }
  std::size_t NumNamed(const std::string& suffix) const {
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator(path_)) {
      count += entry.path().string().ends_with(suffix) ? 1 : 0;
    }
    return count;
  }

  std::string path_;
};

TEST_F(DirectoryStoreTest, FilesAreForTheOwnerOnly) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "one").ok());
  for (const auto& entry : fs::directory_iterator(path_)) {
    struct stat info;
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << entry.path();
  }
}

TEST_F(DirectoryStoreTest, AWorldWritableDirectoryIsRefused) {
  ASSERT_EQ(chmod(path_.c_str(), 0777), 0);
  DirectoryStoreOptions options;
  options.path = path_;
  EXPECT_TRUE(absl::IsFailedPrecondition(DirectoryStore::Open(options).status()));
}

TEST_F(DirectoryStoreTest, ErrorsNameNoPath) {
  DirectoryStoreOptions options;
  options.path = "/no/such/place";
  const auto status = DirectoryStore::Open(options).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(status.message().find("place"), absl::string_view::npos);
}

TEST_F(DirectoryStoreTest, NothingIsLeftOfAnOwnerThatIsGone) {
  {
    const auto store = Open();
    ASSERT_TRUE(store->Acquire(kSampleId, kTenant, AcquireMode::kNew).ok());
    EXPECT_EQ(NumNamed(".claim"), 1u);
    EXPECT_EQ(NumNamed(".owner"), 1u);
  }
  const std::string dead(32, 'd');
  std::ofstream(path_ + "/" + dead + ".spare") << "half";
  std::ofstream(path_ + "/" + kSampleId + "." + dead + "-7.tmp") << "half";
  std::ofstream(path_ + "/" + dead + ".owner") << "half";
  std::ofstream(path_ + "/notes.tmp") << "not ours";
  const auto store = Open();
  EXPECT_EQ(NumNamed(".claim"), 0u);
  EXPECT_EQ(NumNamed(".owner"), 1u) << "the new one's";
  EXPECT_EQ(NumNamed(".spare"), 1u);
  EXPECT_EQ(NumNamed(".tmp"), 1u);
  EXPECT_TRUE(fs::exists(path_ + "/notes.tmp"));
}

TEST_F(DirectoryStoreTest, AShortFileIsDataLoss) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "some bytes").ok());
  for (const int size : {30, 3, 0}) {
    fs::resize_file(SnapshotPath(), static_cast<std::uintmax_t>(size));
    EXPECT_TRUE(absl::IsDataLoss(store->Get(kSampleId, kUnlimitedBytes).status()));
    EXPECT_TRUE(absl::IsDataLoss(store->Head(kSampleId, kTenant).status()));
  }
}

// Of a sparse file, whose size costs whoever made it nothing.
TEST_F(DirectoryStoreTest, NoMemoryIsTakenForMoreThanTheReaderTakes) {
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 40;
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "some bytes").ok());
  std::ofstream(SnapshotPath(), std::ios::binary) << EncodeHeader(
      {.generation = 1, .length = kHuge, .info = {.tenant = kTenant, .num_tokens = 1}});
  fs::resize_file(SnapshotPath(), fs::file_size(SnapshotPath()) + kHuge);
  ASSERT_EQ(store->Head(kSampleId, kTenant)->bytes, kHuge);
  EXPECT_EQ(store->Get(kSampleId, 1 << 20).status(), OverReadersLimit(1 << 20));
}

TEST_F(DirectoryStoreTest, WhatIsDamagedCanBePutAnew) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 3, "some bytes").ok());
  fs::resize_file(SnapshotPath(), 5);
  EXPECT_TRUE(absl::IsDataLoss(
      store->Acquire(kSampleId, kTenant, AcquireMode::kStored).status()));
  ASSERT_TRUE(Put(*store, 4, "whole again").ok());
  EXPECT_EQ(store->Get(kSampleId, kUnlimitedBytes).value(), "whole again");
}

TEST_F(DirectoryStoreTest, AnyChangedByteOfTheHeaderIsDataLoss) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 7, "some bytes").ok());
  const auto header = static_cast<int>(fs::file_size(SnapshotPath())) - 10;
  for (int at = 0; at < header; ++at) {
    const auto flip = [&] {
      std::fstream file(SnapshotPath(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 1));
    };
    flip();
    EXPECT_TRUE(absl::IsDataLoss(store->Get(kSampleId, kUnlimitedBytes).status())) << at;
    EXPECT_TRUE(absl::IsDataLoss(
        store->Acquire(kSampleId, kTenant, AcquireMode::kStored).status()))
        << at;
    flip();
  }
  EXPECT_EQ(*store->Get(kSampleId, kUnlimitedBytes), "some bytes");
}

// As it was written before headers told of the last generation, and as a later version
// may write it.
TEST_F(DirectoryStoreTest, HeadersOfOtherVersionsAreReadOrLeftAlone) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 7, "some bytes").ok());
  std::stringstream whole;
  whole << std::ifstream(SnapshotPath(), std::ios::binary).rdbuf();
  const auto little_endian = [](std::uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
    return out;
  };
  constexpr std::size_t kVersionAt = 7, kSizeAt = 8, kSum = 8, kOfTheTurn = 9;
  const std::size_t blob_at = whole.str().size() - std::string("some bytes").size();
  const auto rewrite = [&](char version, std::size_t without) {
    std::string header = whole.str().substr(0, blob_at - kSum - without);
    header[kVersionAt] = version;
    header.replace(kSizeAt, 4, little_endian(blob_at - without, 4));
    header += little_endian(Checksum(header, {}, 0), kSum);
    std::ofstream(SnapshotPath(), std::ios::binary) << header << "some bytes";
  };
  rewrite('1', kOfTheTurn);
  EXPECT_EQ(store->Get(kSampleId, kUnlimitedBytes).value(), "some bytes");
  const auto head = store->Head(kSampleId, kTenant);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->info.num_tokens, 1);
  EXPECT_EQ(head->info.num_generated, 0);
  EXPECT_FALSE(head->info.interrupted);

  rewrite('3', 0);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(store->Get(kSampleId, kUnlimitedBytes).status()));
  EXPECT_TRUE(store->RemoveExpired().ok());
  EXPECT_TRUE(Open() != nullptr) << "others are served";
  EXPECT_TRUE(fs::exists(SnapshotPath()));
}

TEST_F(DirectoryStoreTest, WhatIsDamagedDoesNotExistForAnotherTenant) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "some bytes").ok());
  fs::resize_file(SnapshotPath(), 5);
  EXPECT_TRUE(absl::IsDataLoss(store->Head(kSampleId, kTenant).status()));
  EXPECT_TRUE(absl::IsNotFound(store->Head(kSampleId, "u").status()));
  EXPECT_TRUE(
      absl::IsNotFound(store->Acquire(kSampleId, "u", AcquireMode::kStored).status()));
}

TEST_F(DirectoryStoreTest, TotalsThatAreMissingOrDamagedAreCounted) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "some bytes").ok());
  const std::string totals = path_ + "/totals";
  ASSERT_TRUE(fs::exists(totals));
  std::ofstream(totals) << "nonsense";
  EXPECT_EQ(store->TenantBytes(kTenant).value_or(-1), 10);
  fs::remove(totals);
  EXPECT_EQ(store->TenantBytes(kTenant).value_or(-1), 10);
  ASSERT_TRUE(Put(*store, 2, "more of them").ok());
  EXPECT_EQ(store->TenantBytes(kTenant).value_or(-1), 12);
  // One that is wrong, as after a loss of power, is put right at the next start.
  const std::string right = [&] {
    std::ifstream file(totals, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }();
  const std::string other(32, 'b');
  const auto claim = store->Acquire(other, kTenant, AcquireMode::kNew);
  const std::string_view bytes = "other";
  ASSERT_TRUE(store
                  ->Put(other, *claim, 1, {.tenant = kTenant, .num_tokens = 1},
                        {&bytes, 1}, kUnlimitedBytes)
                  .ok());
  std::ofstream(totals, std::ios::binary) << right;
  EXPECT_EQ(store->TenantBytes(kTenant).value_or(-1), 12);
  EXPECT_EQ(Open()->TenantBytes(kTenant).value_or(-1), 17);
}

// Deleting must not fail for want of room for a file that it does not need.
TEST_F(DirectoryStoreTest, WithoutRoomForTotalsADeleteSucceeds) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "old").ok());
  const auto other = store->Acquire(std::string(32, 'b'), kTenant, AcquireMode::kNew);
  const std::string_view bytes = "other";
  ASSERT_TRUE(store
                  ->Put(std::string(32, 'b'), *other, 1,
                        {.tenant = kTenant, .num_tokens = 1}, {&bytes, 1},
                        kUnlimitedBytes)
                  .ok());
  const auto claim = store->Acquire(kSampleId, kTenant, AcquireMode::kStored);
  ASSERT_TRUE(claim.ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const auto status = store->Delete(kSampleId, *claim);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(store->TenantBytes(kTenant).value_or(-1), 5);
}

// Nor are they by a clock that is not right yet, as that of a machine may be at its
// start.
TEST_F(DirectoryStoreTest, AtAStartNothingIsRemovedForItsAge) {
  const auto clock = std::make_shared<MovedClock>();
  ASSERT_TRUE(Put(*Open({}, clock), 1, "some bytes").ok());
  DirectoryStoreOptions options;
  options.path = path_;
  options.clock = clock;
  options.time_to_live = std::chrono::hours(1);
  clock->JumpWorld(std::chrono::hours(10));
  const auto store = DirectoryStore::Open(options);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE(fs::exists(SnapshotPath()));
  clock->JumpWorld(-std::chrono::hours(10));
  EXPECT_EQ((*store)->RemoveExpired().value().expired, 0);
  EXPECT_EQ((*store)->Get(kSampleId, kUnlimitedBytes).value_or(""), "some bytes");
}

// Damage of what is small and can be made again harms nobody.
TEST_F(DirectoryStoreTest, ADamagedClaimIsNobodys) {
  const auto one = Open(), two = Open();
  ASSERT_TRUE(Put(*one, 1, "some bytes").ok());
  std::ofstream(path_ + "/" + kSampleId + ".claim") << "nonsense";
  EXPECT_TRUE(Put(*two, 2, "newer").ok());
  EXPECT_EQ(*one->Get(kSampleId, kUnlimitedBytes), "newer");
}

// Whoever has it may have gone on from what is stored, or have stored nothing yet.
TEST_F(DirectoryStoreTest, AClaimThatCannotBeReadIsNotNobodys) {
  DirectoryStoreOptions options;
  options.path = path_;
  options.time_to_live = std::chrono::seconds(1);
  options.clock = std::make_shared<AheadClock>(std::chrono::seconds(60));
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "one").ok());
  const std::string claim = path_ + "/" + kSampleId + ".claim";
  fs::remove(claim);
  fs::create_directory(claim);
  EXPECT_TRUE(absl::IsUnavailable(store->Head(kSampleId, kTenant).status()));
  ASSERT_TRUE((*DirectoryStore::Open(options))->RemoveExpired().ok());
  EXPECT_EQ(store->Get(kSampleId, kUnlimitedBytes).value_or(""), "one");
  fs::remove(SnapshotPath());
  EXPECT_TRUE(absl::IsUnavailable(store->Head(kSampleId, kTenant).status()));
}

// Nor is it lost: the owner would believe that another may go on.
TEST_F(DirectoryStoreTest, AClaimThatCannotBeReadIsKept) {
  const auto store = Open();
  const auto claim = store->Acquire(kSampleId, kTenant, AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  const auto put = [&](std::uint64_t generation) {
    const std::string_view bytes = "bytes";
    return store->Put(kSampleId, *claim, generation, {.tenant = kTenant, .num_tokens = 1},
                      {&bytes, 1}, kUnlimitedBytes);
  };
  ASSERT_TRUE(put(1).ok());
  const std::string file = path_ + "/" + kSampleId + ".claim", aside = file + ".aside";
  fs::rename(file, aside);
  fs::create_directory(file);
  EXPECT_TRUE(absl::IsUnavailable(put(2)));
  EXPECT_TRUE(absl::IsUnavailable(store->Delete(kSampleId, *claim)));
  EXPECT_TRUE(absl::IsUnavailable(store->Release(kSampleId, *claim)));
  fs::remove(file);
  fs::rename(aside, file);
  EXPECT_EQ(put(2), absl::OkStatus());
  EXPECT_EQ(store->Release(kSampleId, *claim), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Delete(kSampleId, *claim)));
}

// The limit lets one write end short and the next one fail, as a full disk does.
TEST_F(DirectoryStoreTest, WithoutRoomTheOldOneStays) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, 1, "old").ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto status = Put(*store, 2, std::string(10'000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status.ToString();
  EXPECT_EQ(*store->Get(kSampleId, kUnlimitedBytes), "old");
  EXPECT_EQ(NumNamed(".tmp"), 0u);
}

// The k-th of the calls below fails, or writes one byte only, from when it is armed.
int calls_until_failure = 0;
bool FailsNow() { return calls_until_failure > 0 && --calls_until_failure == 0; }
ssize_t FailingWrite(int fd, const void* bytes, std::size_t size) {
  if (FailsNow()) {
    errno = ENOSPC;
    return -1;
  }
  return write(fd, bytes, std::min<std::size_t>(size, 7));  // always short
}
int FailingFsync(int fd) {
  if (FailsNow()) {
    errno = EIO;
    return -1;
  }
  return fsync(fd);
}
int FailingRename(int from_dir, const char* from, int to_dir, const char* to) {
  if (FailsNow()) {
    errno = EIO;
    return -1;
  }
  return renameat(from_dir, from, to_dir, to);
}

TEST_F(DirectoryStoreTest, WhicheverCallFailsTheOldOneOrTheNewOneIsThere) {
  const auto store =
      Open({.write = FailingWrite, .fsync = FailingFsync, .renameat = FailingRename});
  std::uint64_t generation = 1;
  ASSERT_TRUE(Put(*store, generation, "generation 1").ok());
  int failures = 0;
  for (int k = 1;; ++k) {
    const std::string old = *store->Get(kSampleId, kUnlimitedBytes);
    const std::string next = "generation " + std::to_string(++generation);
    calls_until_failure = k;
    const auto status = Put(*store, generation, next);
    const bool failed = calls_until_failure == 0;
    calls_until_failure = 0;
    // Without room for another claim it is written in place of a spare one.
    EXPECT_TRUE(status.ok() || failed) << k;
    const auto now = store->Get(kSampleId, kUnlimitedBytes);
    ASSERT_TRUE(now.ok()) << k;
    EXPECT_TRUE(*now == next || (!status.ok() && *now == old)) << k << ": " << *now;
    EXPECT_EQ(NumNamed(".tmp"), 0u) << k;
    if (!failed) break;
    if (status.ok()) continue;
    EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsResourceExhausted(status));
    ++failures;
  }
  EXPECT_GT(failures, 10);
}

// A disk without a free block: what begins a file fails, and what stays within the block
// that a file has does not.
bool disk_is_full = false;
ssize_t FullWrite(int fd, const void* bytes, std::size_t size) {
  struct stat info;
  const off_t end = lseek(fd, 0, SEEK_CUR) + static_cast<off_t>(size);
  if (disk_is_full && (fstat(fd, &info) != 0 || info.st_size == 0 || end > 4096)) {
    errno = ENOSPC;
    return -1;
  }
  return write(fd, bytes, size);
}
int FailingExchange(int, const char*, const char*) {
  errno = EINVAL;
  return -1;
}
class FullDirectoryTest : public DirectoryStoreTest {
 protected:
  ~FullDirectoryTest() override { disk_is_full = false; }
  static FileCalls Calls() {
    FileCalls calls;
    calls.write = FullWrite;
    return calls;
  }
};

// What is left to do when it was killed after it had said that the session is deleted.
TEST_F(DirectoryStoreTest, ADeleteThatWasBegunIsEndedByTheSweep) {
  const auto clock = std::make_shared<MovedClock>();
  const auto store = Open({}, clock);
  ASSERT_TRUE(Put(*store, 1, "some bytes").ok());
  fs::copy_file(SnapshotPath(), path_ + "/aside");
  const auto claim = store->Acquire(kSampleId, kTenant, AcquireMode::kStored);
  ASSERT_TRUE(claim.ok());
  ASSERT_EQ(store->Delete(kSampleId, *claim), absl::OkStatus());
  fs::rename(path_ + "/aside", SnapshotPath());
  EXPECT_TRUE(absl::IsNotFound(store->Head(kSampleId, kTenant).status()));
  EXPECT_TRUE(store->List(kTenant, "", 9)->empty());
  EXPECT_TRUE(absl::IsNotFound(
      store->Acquire(kSampleId, kTenant, AcquireMode::kStored).status()));
  ASSERT_TRUE(store->RemoveExpired().ok());
  EXPECT_FALSE(fs::exists(SnapshotPath()));
  EXPECT_EQ(store->TenantBytes(kTenant).value_or(-1), 0);
}

TEST_F(DirectoryStoreTest, ThatASessionWasDeletedIsForgottenAfterSomeLeases) {
  const auto clock = std::make_shared<MovedClock>();
  const auto store = Open({}, clock);
  ASSERT_TRUE(Put(*store, 1, "some bytes").ok());
  auto claim = store->Acquire(kSampleId, kTenant, AcquireMode::kStored);
  ASSERT_TRUE(claim.ok());
  ASSERT_EQ(store->Delete(kSampleId, *claim), absl::OkStatus());
  clock->Advance((kDeletedLeases - 1) * std::chrono::seconds(30));
  ASSERT_TRUE(store->Renew().ok());
  ASSERT_TRUE(store->RemoveExpired().ok());
  EXPECT_TRUE(
      absl::IsNotFound(store->Acquire(kSampleId, kTenant, AcquireMode::kNew).status()));
  EXPECT_EQ(NumNamed(".claim"), 1u);
  clock->Advance(std::chrono::seconds(31));
  ASSERT_TRUE(store->Renew().ok());
  ASSERT_TRUE(store->RemoveExpired().ok());
  EXPECT_EQ(NumNamed(".claim"), 0u);
}

TEST_F(FullDirectoryTest, TheLeaseIsRenewed) {
  const auto clock = std::make_shared<MovedClock>();
  const auto one = Open(Calls(), clock);
  const auto claim = one->Acquire(kSampleId, kTenant, AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  disk_is_full = true;
  for (int i = 0; i < 10; ++i) {
    clock->Advance(std::chrono::seconds(20));
    ASSERT_EQ(one->Renew(), absl::OkStatus()) << i;
    EXPECT_TRUE(one->is_good(*claim));
    EXPECT_EQ(NumNamed(".tmp"), 0u);
  }
  // The others believe it, too.
  disk_is_full = false;
  const auto two = Open({}, clock);
  EXPECT_TRUE(
      absl::IsUnavailable(two->Acquire(kSampleId, kTenant, AcquireMode::kNew).status()));
  clock->Advance(std::chrono::seconds(31));
  ASSERT_TRUE(two->Renew().ok());
  EXPECT_TRUE(two->Acquire(kSampleId, kTenant, AcquireMode::kNew).ok());
  // And after a lapse it begins anew.
  disk_is_full = true;
  EXPECT_EQ(one->Renew(), absl::OkStatus());
  EXPECT_TRUE(one->lease_is_good());
  EXPECT_FALSE(one->is_good(*claim));
  EXPECT_EQ(NumNamed(".owner"), 2u);
  EXPECT_EQ(NumNamed(".spare"), 2u);
}

TEST_F(FullDirectoryTest, WhatIsStoredIsClaimedGivenUpAndDeleted) {
  const auto one = Open(Calls()), two = Open(Calls());
  ASSERT_TRUE(Put(*one, 1, "one").ok());
  auto claim = one->Acquire(kSampleId, kTenant, AcquireMode::kStored);
  ASSERT_TRUE(claim.ok());
  disk_is_full = true;
  EXPECT_EQ(one->Release(kSampleId, *claim), absl::OkStatus());
  for (DirectoryStore* store : {two.get(), one.get(), two.get()}) {
    claim = store->Acquire(kSampleId, kTenant, AcquireMode::kStored);
    ASSERT_TRUE(claim.ok()) << claim.status();
    EXPECT_EQ(store->Release(kSampleId, *claim), absl::OkStatus());
  }
  claim = two->Acquire(kSampleId, kTenant, AcquireMode::kStored);
  ASSERT_TRUE(claim.ok()) << claim.status();
  EXPECT_TRUE(absl::IsUnavailable(
      one->Acquire(kSampleId, kTenant, AcquireMode::kStored).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(
      one->Acquire(std::string(32, 'b'), kTenant, AcquireMode::kNew).status()))
      << "new ones need room";
  const std::string_view bytes = "two";
  EXPECT_TRUE(absl::IsResourceExhausted(two->Put(kSampleId, *claim, 2,
                                                 {.tenant = kTenant, .num_tokens = 1},
                                                 {&bytes, 1}, kUnlimitedBytes)));
  EXPECT_EQ(one->Get(kSampleId, kUnlimitedBytes).value_or(""), "one");
  EXPECT_EQ(two->Delete(kSampleId, *claim), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(one->Get(kSampleId, kUnlimitedBytes).status()));
  EXPECT_EQ(one->TenantBytes(kTenant).value_or(-1), 0);
  EXPECT_EQ(NumNamed(".tmp"), 0u);
}

// A disk of so many blocks, one for each file that is not empty.
std::string small_disk;
std::size_t num_blocks = 0;
ssize_t SmallDiskWrite(int fd, const void* bytes, std::size_t size) {
  std::size_t taken = 0;
  for (const auto& entry : fs::directory_iterator(small_disk)) {
    taken += entry.file_size() > 0 ? 1 : 0;
  }
  struct stat info;
  if (taken >= num_blocks && (fstat(fd, &info) != 0 || info.st_size == 0)) {
    errno = ENOSPC;
    return -1;
  }
  return write(fd, bytes, size);
}

class SmallDirectoryTest : public DirectoryStoreTest {
 protected:
  SmallDirectoryTest() {
    options_.path = small_disk = path_;
    options_.time_to_live = std::chrono::hours(1);
    options_.calls.write = SmallDiskWrite;
    options_.clock = clock_;
    num_blocks = 1000;
    auto store = DirectoryStore::Open(options_);
    EXPECT_TRUE(store.ok()) << store.status();
    EXPECT_EQ(Put(**store, 1, "some bytes"), absl::OkStatus());
  }
  // From now on nothing is free.
  void Fill() {
    num_blocks = 0;
    for (const auto& entry : fs::directory_iterator(path_)) {
      num_blocks += entry.file_size() > 0 ? 1 : 0;
    }
  }

  const std::shared_ptr<MovedClock> clock_ = std::make_shared<MovedClock>();
  DirectoryStoreOptions options_;
};

TEST_F(SmallDirectoryTest, WhatTheDeadHaveLeftMakesRoomForAStart) {
  const std::string dead(32, 'd');
  for (const char* suffix : {".owner", ".spare"}) {
    std::ofstream(path_ + "/" + dead + suffix) << "half";
  }
  // Wrong, as after a loss of power; there is no room for another one.
  std::ofstream(path_ + "/totals") << "nonsense";
  Fill();
  const auto store = DirectoryStore::Open(options_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->TenantBytes(kTenant).value_or(-1), 10);
  clock_->Advance(std::chrono::seconds(20));
  EXPECT_EQ((*store)->Renew(), absl::OkStatus());
  const auto claim = (*store)->Acquire(kSampleId, kTenant, AcquireMode::kStored);
  ASSERT_TRUE(claim.ok()) << claim.status();
  EXPECT_EQ((*store)->Delete(kSampleId, *claim), absl::OkStatus());
  EXPECT_EQ((*store)->TenantBytes(kTenant).value_or(-1), 0);
  EXPECT_EQ(NumNamed(".tmp"), 0u);
}

TEST_F(SmallDirectoryTest, WhatHasExpiredMakesRoomForAStart) {
  Fill();
  EXPECT_TRUE(absl::IsResourceExhausted(DirectoryStore::Open(options_).status()));
  EXPECT_TRUE(fs::exists(SnapshotPath()));
  clock_->Advance(std::chrono::hours(2));
  const auto store = DirectoryStore::Open(options_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_FALSE(fs::exists(SnapshotPath()));
  EXPECT_EQ((*store)->TenantBytes(kTenant).value_or(-1), 0);
}

// As on some network file systems.
TEST_F(FullDirectoryTest, WhereNamesCannotBeExchangedTheOldOneStays) {
  FileCalls calls = Calls();
  calls.exchangeat = FailingExchange;
  const auto one = Open(calls), two = Open();
  const auto claim = one->Acquire(kSampleId, kTenant, AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  disk_is_full = true;
  EXPECT_TRUE(absl::IsResourceExhausted(one->Renew()));
  EXPECT_TRUE(one->is_good(*claim)) << "until the lease is over";
  EXPECT_TRUE(absl::IsResourceExhausted(one->Release(kSampleId, *claim)));
  EXPECT_TRUE(
      absl::IsUnavailable(two->Acquire(kSampleId, kTenant, AcquireMode::kNew).status()));
  disk_is_full = false;
  EXPECT_EQ(one->Renew(), absl::OkStatus());
}

// Runs the parker, kills it `delay_us` after its first acknowledgement, and returns the
// last acknowledged generation.
std::uint64_t ParkAndKill(const std::string& path, std::chrono::seconds ahead,
                          unsigned delay_us) {
  int ends[2];
  if (pipe(ends) != 0) return 0;
  const std::string program = GOLDFINCH_BINARY_DIR "/sessions_parker";
  const std::string seconds = std::to_string(ahead.count());
  const pid_t child = fork();
  if (child < 0) {  // which kill would take for every process
    ADD_FAILURE() << "fork: " << std::strerror(errno);
    close(ends[0]);
    close(ends[1]);
    return 0;
  }
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    execl(program.c_str(), program.c_str(), "park", path.c_str(), seconds.c_str(),
          nullptr);
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
  const int kills = std::getenv("GOLDFINCH_LONG_TESTS") != nullptr ? 1000 : 50;
  constexpr auto kLease = std::chrono::seconds(30);
  std::chrono::seconds ahead{0};
  std::uint64_t generation = 0;
  for (int i = 0; i < kills; ++i) {
    const std::uint64_t acknowledged =
        ParkAndKill(path_, ahead, static_cast<unsigned>(i) * 97 % 5000);
    ASSERT_GT(acknowledged, generation);
    const auto before = Open({}, std::make_shared<AheadClock>(ahead));
    ASSERT_NE(before, nullptr);
    EXPECT_TRUE(absl::IsUnavailable(
        before->Acquire(kSampleId, kTenant, AcquireMode::kStored).status()))
        << "the dead one's lease is good still";
    ahead += kLease;
    const auto store = Open({}, std::make_shared<AheadClock>(ahead));
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(NumNamed(".tmp"), 0u);
    const auto claim = store->Acquire(kSampleId, kTenant, AcquireMode::kStored);
    ASSERT_TRUE(claim.ok()) << claim.status();
    const auto bytes = store->Get(kSampleId, kUnlimitedBytes);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const auto snapshot = Decode(*bytes);
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    generation = snapshot->generation;
    ASSERT_GE(generation, acknowledged);
    ASSERT_EQ(claim->generation, generation);
    for (const std::byte one : snapshot->image->state) {
      ASSERT_EQ(one, static_cast<std::byte>(generation));
    }
  }
}

// Seen by one that was open all the time: the others count anew when they start.
TEST_F(DirectoryStoreTest, KilledAtAnyMomentTheTotalsAreRight) {
  const auto watcher = Open();
  constexpr auto kLease = std::chrono::seconds(30);
  for (int i = 0; i < 30; ++i) {
    ASSERT_GT(ParkAndKill(path_, i * kLease, static_cast<unsigned>(i) * 97 % 5000), 0u);
    const auto stored = watcher->Head(kSampleId, kTenant);
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_EQ(watcher->TenantBytes(kTenant).value_or(-1),
              static_cast<std::int64_t>(stored->bytes));
  }
}

}  // namespace
}  // namespace goldfinch
