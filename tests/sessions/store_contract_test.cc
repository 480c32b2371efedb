// Every sentence of store.h, for every store: directory and Redis.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "sessions/directory_store.h"
#include "sessions/redis_store.h"
#include "tests/sessions/moved_clock.h"
#include "tests/sessions/redis_server.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr auto kLease = std::chrono::seconds(30);
const std::string kA(32, 'a'), kB(32, 'b'), kC(32, 'c');
const SnapshotInfo kInfo{
    .tenant = "t", .num_tokens = 7, .num_generated = 3, .interrupted = true};

// A medium, and owners on it.
class Medium {
 public:
  virtual ~Medium() = default;
  virtual std::unique_ptr<SnapshotStore> Open(std::chrono::seconds time_to_live) = 0;
  // Every lease that was not renewed since lapses.
  virtual void Lapse() = 0;
  // What was stored is a so much older now.
  virtual void Age(std::chrono::seconds by) = 0;
  virtual std::string name() const = 0;
};

class DirectoryMedium final : public Medium {
 public:
  DirectoryMedium() {
    std::string name = ::testing::TempDir() + "/store_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~DirectoryMedium() override { fs::remove_all(path_); }
  std::unique_ptr<SnapshotStore> Open(std::chrono::seconds time_to_live) override {
    auto store = DirectoryStore::Open({.path = path_,
                                       .lease = kLease,
                                       .time_to_live = time_to_live,
                                       .calls = {},
                                       .clock = clock_});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  void Lapse() override { clock_->Advance(kLease + std::chrono::seconds(1)); }
  void Age(std::chrono::seconds by) override { clock_->JumpWorld(by); }
  std::string name() const override { return path_; }

 private:
  const std::shared_ptr<MovedClock> clock_ = std::make_shared<MovedClock>();
  std::string path_;
};

class RedisMedium final : public Medium {
 public:
  std::unique_ptr<SnapshotStore> Open(std::chrono::seconds time_to_live) override {
    RedisStoreOptions options;
    options.address.path = server_.socket();
    options.lease = kLease;
    options.time_to_live = time_to_live;
    options.clock = clock_;
    auto store = RedisStore::Open(options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  void Lapse() override {
    clock_->Advance(kLease + std::chrono::seconds(1));
    // The Redis has a clock of its own.
    server_.Run({"EVAL",
                 "for _, key in ipairs(redis.call('KEYS', 'goldfinch:owner:*')) do "
                 "redis.call('DEL', key) end",
                 "0"});
  }
  void Age(std::chrono::seconds by) override {
    for (const std::string& id : {kA, kB, kC}) {
      const std::string key = "goldfinch:session:" + id;
      if (server_.Run({"HEXISTS", key, "stored_at"}) != "1") continue;
      server_.Run({"HINCRBY", key, "stored_at", "-" + std::to_string(by.count())});
    }
  }
  std::string name() const override { return server_.url(); }

 private:
  const std::shared_ptr<MovedClock> clock_ = std::make_shared<MovedClock>();
  RedisServer server_;
};

class StoreTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "directory") {
      medium_ = std::make_unique<DirectoryMedium>();
    } else {
      if (!RedisServer::Available()) GTEST_SKIP() << "redis-server is not installed";
      medium_ = std::make_unique<RedisMedium>();
    }
  }

  std::unique_ptr<SnapshotStore> Open(std::chrono::seconds time_to_live = {}) {
    return medium_->Open(time_to_live);
  }
  static Claim Take(SnapshotStore& store, const std::string& id,
                    const std::string& tenant = "t") {
    const auto claim = store.Acquire(id, tenant, AcquireMode::kNew);
    EXPECT_TRUE(claim.ok()) << claim.status();
    return claim.ok() ? *claim : Claim();
  }
  static absl::Status Put(SnapshotStore& store, const std::string& id, const Claim& claim,
                          std::uint64_t generation, const std::string& bytes,
                          const std::string& tenant = "t",
                          std::int64_t max_tenant_bytes = kUnlimitedBytes) {
    // In two pieces.
    const std::array<std::string_view, 2> pieces = {
        std::string_view(bytes).substr(0, bytes.size() / 2),
        std::string_view(bytes).substr(bytes.size() / 2)};
    SnapshotInfo info = kInfo;
    info.tenant = tenant;
    return store.Put(id, claim, generation, info, pieces, max_tenant_bytes);
  }
  static std::vector<std::string> Ids(const std::vector<StoredSession>& sessions) {
    std::vector<std::string> ids;
    for (const StoredSession& session : sessions) ids.push_back(session.id);
    return ids;
  }

  std::unique_ptr<Medium> medium_;
};

TEST_P(StoreTest, WhatIsPutIsThereUntilItIsDeleted) {
  const auto store = Open();
  EXPECT_TRUE(absl::IsNotFound(store->Get(kA, kUnlimitedBytes).status()));
  EXPECT_TRUE(absl::IsNotFound(store->Head(kA, "t").status()));
  Claim claim = Take(*store, kA);
  EXPECT_EQ(claim.generation, 0u);
  const std::string bytes("binary\0\r\n\xff", 11);
  ASSERT_TRUE(Put(*store, kA, claim, 3, bytes).ok());
  EXPECT_EQ(*store->Get(kA, kUnlimitedBytes), bytes);
  ASSERT_TRUE(Put(*store, kA, claim, 4, "").ok());
  EXPECT_EQ(*store->Get(kA, kUnlimitedBytes), "");
  ASSERT_TRUE(Put(*store, kA, claim, 5, "five").ok());
  const auto head = store->Head(kA, "t");
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->id, kA);
  EXPECT_EQ(head->generation, 5u);
  EXPECT_EQ(head->bytes, 4u);
  EXPECT_EQ(head->info.tenant, "t");
  EXPECT_EQ(head->info.num_tokens, 7);
  EXPECT_EQ(head->info.num_generated, 3);
  EXPECT_TRUE(head->info.interrupted);
  EXPECT_TRUE(head->claimed);
  EXPECT_TRUE(store->Release(kA, claim).ok());
  EXPECT_FALSE(store->Head(kA, "t")->claimed);
  claim = Take(*store, kA);
  EXPECT_EQ(claim.generation, 5u);
  EXPECT_TRUE(store->Delete(kA, claim).ok());
  EXPECT_TRUE(absl::IsNotFound(store->Get(kA, kUnlimitedBytes).status()));
  EXPECT_TRUE(absl::IsNotFound(store->Acquire(kA, "t", AcquireMode::kStored).status()));
  EXPECT_TRUE(absl::IsNotFound(store->Delete(kB, Take(*store, kB)))) << "never stored";
}

// Neither by whoever had it before, nor under the claim that deleted it.
TEST_P(StoreTest, WhatWasDeletedIsNotBroughtBack) {
  const auto one = Open(std::chrono::seconds(100)), two = Open(std::chrono::seconds(100));
  const Claim before = Take(*one, kA);
  ASSERT_TRUE(Put(*one, kA, before, 1, "one").ok());
  medium_->Lapse();
  ASSERT_TRUE(two->Renew().ok());
  const Claim claim = Take(*two, kA);
  ASSERT_TRUE(two->Delete(kA, claim).ok());
  ASSERT_TRUE(one->Renew().ok());
  for (int i = 0; i < 2; ++i) {
    for (SnapshotStore* store : {one.get(), two.get()}) {
      for (const char* tenant : {"t", "u"}) {
        for (const AcquireMode mode : {AcquireMode::kNew, AcquireMode::kStored}) {
          EXPECT_TRUE(absl::IsNotFound(store->Acquire(kA, tenant, mode).status()));
        }
        EXPECT_TRUE(absl::IsNotFound(store->Head(kA, tenant).status()));
      }
      EXPECT_TRUE(absl::IsNotFound(store->Get(kA, kUnlimitedBytes).status()));
      EXPECT_THAT(*store->List("t", "", 9), IsEmpty());
      EXPECT_EQ(store->TenantBytes("t").value_or(-1), 0);
    }
    EXPECT_TRUE(absl::IsFailedPrecondition(Put(*two, kA, claim, 2, "two")));
    EXPECT_TRUE(absl::IsFailedPrecondition(two->Delete(kA, claim)));
    EXPECT_TRUE(two->Release(kA, claim).ok());
    EXPECT_TRUE(two->Disown(kA).ok());
    medium_->Age(std::chrono::seconds(101));
    EXPECT_EQ(two->RemoveExpired().value().snapshots, 0);
  }
}

TEST_P(StoreTest, AnOwnerGivesUpWhatItWasNotToldOf) {
  const auto one = Open(), two = Open();
  const Claim stored = Take(*one, kA);
  ASSERT_TRUE(Put(*one, kA, stored, 1, "one").ok());
  Take(*one, kB);
  for (const std::string& id : {kA, kB}) {
    EXPECT_TRUE(two->Disown(id).ok()) << "of what is another's: no error";
    EXPECT_TRUE(absl::IsUnavailable(two->Acquire(id, "t", AcquireMode::kNew).status()))
        << "and no effect";
    EXPECT_TRUE(one->Disown(id).ok());
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*one, kA, stored, 2, "late")));
  EXPECT_EQ(Take(*two, kA).epoch, stored.epoch + 1);
  Take(*two, kB);
  EXPECT_TRUE(one->Disown(kC).ok()) << "nor of what there is not";
}

TEST_P(StoreTest, AnotherOwnerSeesWhatIsStored) {
  {
    const auto store = Open();
    const Claim claim = Take(*store, kA);
    ASSERT_TRUE(Put(*store, kA, claim, 1, "one").ok());
  }
  const auto other = Open();
  EXPECT_EQ(*other->Get(kA, kUnlimitedBytes), "one");
  EXPECT_EQ(Take(*other, kA).generation, 1u) << "the first owner is gone";
}

TEST_P(StoreTest, AnOlderGenerationNeverReplacesANewerOne) {
  const auto store = Open();
  const Claim claim = Take(*store, kA);
  ASSERT_TRUE(Put(*store, kA, claim, 5, "five").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*store, kA, claim, 5, "again")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*store, kA, claim, 4, "four")));
  EXPECT_EQ(*store->Get(kA, kUnlimitedBytes), "five");
}

TEST_P(StoreTest, OneOwnerHoldsASession) {
  const auto one = Open(), two = Open();
  const Claim claim = Take(*one, kA);
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(kA, "t", AcquireMode::kNew).status()));
  ASSERT_TRUE(Put(*one, kA, claim, 1, "one").ok());
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(kA, "t", AcquireMode::kStored).status()));
  EXPECT_TRUE(one->Release(kA, claim).ok());
  const Claim second = Take(*two, kA);
  EXPECT_GT(second.epoch, claim.epoch);
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(kA, "t", AcquireMode::kStored).status()));
}

TEST_P(StoreTest, WithoutAClaimNothingIsWritten) {
  const auto one = Open(), two = Open();
  const Claim first = Take(*one, kA);
  ASSERT_TRUE(Put(*one, kA, first, 1, "one").ok());
  const Claim again = Take(*one, kA);
  EXPECT_GT(again.epoch, first.epoch);
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*one, kA, first, 2, "late")));
  EXPECT_TRUE(one->Release(kA, first).ok()) << "of a lost claim: no error";
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(kA, "t", AcquireMode::kStored).status()))
      << "and no effect";
  ASSERT_TRUE(one->Release(kA, again).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*one, kA, again, 2, "late")));
  EXPECT_TRUE(absl::IsFailedPrecondition(one->Delete(kA, again)));
  const Claim other = Take(*two, kA);
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*one, kA, again, 9, "late")));
  ASSERT_TRUE(Put(*two, kA, other, 2, "two").ok());
  EXPECT_EQ(*one->Get(kA, kUnlimitedBytes), "two");
}

TEST_P(StoreTest, ALapsedLeaseLosesItsClaims) {
  const auto one = Open(), two = Open();
  const Claim claim = Take(*one, kA);
  ASSERT_TRUE(Put(*one, kA, claim, 1, "one").ok());
  EXPECT_TRUE(one->lease_is_good());
  EXPECT_TRUE(one->is_good(claim));
  medium_->Lapse();
  EXPECT_FALSE(one->lease_is_good());
  EXPECT_FALSE(one->is_good(claim));
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*one, kA, claim, 2, "late")));
  EXPECT_TRUE(absl::IsFailedPrecondition(one->Delete(kA, claim)));
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(kA, "t", AcquireMode::kStored).status()));

  ASSERT_TRUE(two->Renew().ok());
  const Claim taken = Take(*two, kA);
  EXPECT_GT(taken.epoch, claim.epoch);
  EXPECT_EQ(taken.generation, 1u);
  // The first comes back; what it had stays lost.
  ASSERT_TRUE(one->Renew().ok());
  EXPECT_TRUE(one->lease_is_good());
  EXPECT_FALSE(one->is_good(claim));
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*one, kA, claim, 2, "late")));
  EXPECT_TRUE(absl::IsFailedPrecondition(one->Delete(kA, claim)));
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(kA, "t", AcquireMode::kStored).status()));
  ASSERT_TRUE(Put(*two, kA, taken, 2, "two").ok());
  ASSERT_TRUE(two->Release(kA, taken).ok());
  EXPECT_EQ(Take(*one, kA).generation, 2u);
}

// Nobody else has the session by then: it is the lease that is another one.
TEST_P(StoreTest, AClaimOfALeaseThatLapsedDeletesNothing) {
  const auto one = Open();
  const Claim claim = Take(*one, kA);
  ASSERT_TRUE(Put(*one, kA, claim, 1, "one").ok());
  medium_->Lapse();
  ASSERT_TRUE(one->Renew().ok());
  ASSERT_TRUE(one->lease_is_good());
  EXPECT_TRUE(absl::IsFailedPrecondition(one->Delete(kA, claim)));
  EXPECT_EQ(*one->Get(kA, kUnlimitedBytes), "one");
  EXPECT_TRUE(one->Delete(kA, Take(*one, kA)).ok());
}

TEST_P(StoreTest, ARenewedLeaseKeepsItsClaims) {
  const auto one = Open(), two = Open();
  const Claim claim = Take(*one, kA);
  ASSERT_TRUE(one->Renew().ok());
  EXPECT_TRUE(one->is_good(claim));
  EXPECT_TRUE(Put(*one, kA, claim, 1, "one").ok());
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(kA, "t", AcquireMode::kStored).status()));
}

TEST_P(StoreTest, ListIsOfOneTenantAscendingAndInPages) {
  const auto store = Open();
  for (const std::string& id : {kC, kA, kB}) {
    ASSERT_TRUE(Put(*store, id, Take(*store, id), 1, "x").ok());
  }
  const std::string foreign(32, 'd');
  ASSERT_TRUE(Put(*store, foreign, Take(*store, foreign, "u"), 1, "x", "u").ok());
  EXPECT_THAT(Ids(*store->List("t", "", 2)), ElementsAre(kA, kB));
  EXPECT_THAT(Ids(*store->List("t", kB, 2)), ElementsAre(kC));
  EXPECT_THAT(Ids(*store->List("t", kC, 2)), IsEmpty());
  EXPECT_THAT(Ids(*store->List("u", "", 9)), ElementsAre(foreign));
  EXPECT_THAT(Ids(*store->List("nobody", "", 9)), IsEmpty());
  const SnapshotInfo listed = store->List("t", "", 1)->front().info;
  EXPECT_EQ(listed.num_tokens, 7);
  EXPECT_EQ(listed.num_generated, 3);
  EXPECT_TRUE(listed.interrupted);
  ASSERT_TRUE(store->Delete(kB, Take(*store, kB)).ok());
  EXPECT_THAT(Ids(*store->List("t", "", 9)), ElementsAre(kA, kC));
}

TEST_P(StoreTest, WhatIsLargerThanItsReaderTakesIsRefused) {
  const auto store = Open();
  ASSERT_TRUE(Put(*store, kA, Take(*store, kA), 1, "eleven more").ok());
  EXPECT_EQ(store->Get(kA, 10).status(), OverReadersLimit(10));
  EXPECT_EQ(store->Get(kA, 0).status(), OverReadersLimit(0));
  EXPECT_EQ(store->Get(kA, 11).value_or(""), "eleven more");
}

TEST_P(StoreTest, IdsThatAreNoneAreRefused) {
  const auto store = Open();
  for (const std::string& id :
       {std::string(), std::string("../x"), std::string(32, 'A'), std::string(31, 'a'),
        std::string(33, 'a'), "../" + std::string(29, 'a')}) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(store->Acquire(id, "t", AcquireMode::kNew).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(Put(*store, id, Claim(), 1, "x")));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Get(id, kUnlimitedBytes).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Head(id, "t").status()));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Delete(id, Claim())));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Release(id, Claim())));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Disown(id)));
  }
}

TEST_P(StoreTest, WhatIsPastItsTimeToLiveAndUnclaimedGoes) {
  const auto store = Open(std::chrono::seconds(100));
  const Claim held = Take(*store, kA);
  ASSERT_TRUE(Put(*store, kA, held, 1, "held").ok());
  const Claim left = Take(*store, kB);
  ASSERT_TRUE(Put(*store, kB, left, 1, "left").ok());
  ASSERT_TRUE(store->Release(kB, left).ok());
  auto usage = store->RemoveExpired();
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->snapshots, 2);
  EXPECT_EQ(usage->expired, 0);
  EXPECT_TRUE(store->Get(kB, kUnlimitedBytes).ok());
  medium_->Age(std::chrono::seconds(101));
  const Claim fresh = Take(*store, kC);
  ASSERT_TRUE(Put(*store, kC, fresh, 1, "fresh").ok());
  ASSERT_TRUE(store->Release(kC, fresh).ok());
  usage = store->RemoveExpired();
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->snapshots, 2);
  EXPECT_EQ(usage->expired, 1);
  EXPECT_TRUE(store->Get(kA, kUnlimitedBytes).ok()) << "claimed";
  EXPECT_TRUE(absl::IsNotFound(store->Get(kB, kUnlimitedBytes).status()));
  EXPECT_TRUE(store->Get(kC, kUnlimitedBytes).ok()) << "young";
  EXPECT_THAT(Ids(*store->List("t", "", 9)), ElementsAre(kA, kC));
}

TEST_P(StoreTest, WithoutATimeToLiveEverythingStaysAndIsCounted) {
  const auto store = Open();
  for (const std::string& id : {kA, kB}) {
    const Claim claim = Take(*store, id);
    ASSERT_TRUE(Put(*store, id, claim, 1, "kept").ok());
    ASSERT_TRUE(store->Release(id, claim).ok());
  }
  Take(*store, kC);  // nothing is stored of it
  medium_->Age(std::chrono::hours(1000));
  EXPECT_EQ(store->RemoveExpired().value().snapshots, 2);
  EXPECT_TRUE(store->Get(kA, kUnlimitedBytes).ok());
}

TEST_P(StoreTest, OfManyThatRaceOneWins) {
  std::vector<std::unique_ptr<SnapshotStore>> stores;
  for (int i = 0; i < 4; ++i) stores.push_back(Open());
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> winners = 0;
    std::vector<std::thread> threads;
    std::vector<absl::StatusOr<Claim>> claims(stores.size(), absl::UnknownError(""));
    for (std::size_t i = 0; i < stores.size(); ++i) {
      threads.emplace_back([&, i] {
        claims[i] = stores[i]->Acquire(kA, "t", AcquireMode::kNew);
        if (claims[i].ok()) ++winners;
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(winners, 1);
    for (std::size_t i = 0; i < stores.size(); ++i) {
      if (!claims[i].ok()) continue;
      const auto generation = static_cast<std::uint64_t>(round + 1);
      ASSERT_TRUE(Put(*stores[i], kA, *claims[i], generation, "x").ok());
      ASSERT_TRUE(stores[i]->Release(kA, *claims[i]).ok());
    }
  }
}

// Several processes raise the generation of the same sessions: at the end it is the
// number of acknowledged writes, so nobody has ever written over a newer one.
TEST_P(StoreTest, ProcessesThatRaceNeverLoseAWrite) {
  constexpr int kProcesses = 3, kSessions = 4;
  const std::string program = GOLDFINCH_BINARY_DIR "/sessions_parker";
  const std::string name = medium_->name();
  std::vector<std::pair<pid_t, int>> children;
  for (int i = 0; i < kProcesses; ++i) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const std::string seed = std::to_string(i);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      close(ends[1]);
      execl(program.c_str(), program.c_str(), "race", name.c_str(), "60", seed.c_str(),
            nullptr);
      _exit(9);
    }
    close(ends[1]);
    children.emplace_back(child, ends[0]);
  }
  std::array<std::uint64_t, kSessions> puts{};
  for (const auto& [child, end] : children) {
    for (std::uint64_t& sum : puts) {
      std::uint64_t count = 0;
      ASSERT_EQ(read(end, &count, sizeof count), static_cast<ssize_t>(sizeof count));
      sum += count;
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    close(end);
  }
  const auto store = Open();
  std::int64_t bytes = 0;
  for (int s = 0; s < kSessions; ++s) {
    const std::string id(32, static_cast<char>('a' + s));
    bytes += std::ssize(*store->Get(id, kUnlimitedBytes));
    EXPECT_GT(puts[static_cast<std::size_t>(s)], 0u);
    EXPECT_EQ(store->Head(id, "t")->generation, puts[static_cast<std::size_t>(s)]);
    EXPECT_EQ(*store->Get(id, kUnlimitedBytes),
              std::to_string(puts[static_cast<std::size_t>(s)]));
  }
  EXPECT_EQ(store->TenantBytes("t").value_or(-1), bytes);
}

TEST_P(StoreTest, ToAnotherTenantASessionDoesNotExist) {
  const auto one = Open(), two = Open();
  const auto expect_unknown = [&](const char* when) {
    for (SnapshotStore* store : {one.get(), two.get()}) {
      for (const AcquireMode mode : {AcquireMode::kStored, AcquireMode::kNew}) {
        const absl::Status foreign = store->Acquire(kA, "u", mode).status();
        EXPECT_EQ(foreign, store->Acquire(kB, "u", AcquireMode::kStored).status())
            << when;
        EXPECT_TRUE(absl::IsNotFound(foreign)) << when;
      }
      EXPECT_EQ(store->Head(kA, "u").status(), store->Head(kB, "u").status()) << when;
    }
  };
  const Claim claim = Take(*one, kA);
  expect_unknown("claimed, and never stored");
  EXPECT_TRUE(absl::IsUnavailable(two->Head(kA, "t").status())) << "but held";
  EXPECT_TRUE(absl::IsNotFound(one->Head(kA, "t").status())) << "by himself";
  ASSERT_TRUE(Put(*one, kA, claim, 1, "one").ok()) << "the claim is good still";
  expect_unknown("stored and claimed");
  EXPECT_FALSE(one->Head(kA, "t")->held_elsewhere);
  EXPECT_TRUE(two->Head(kA, "t")->held_elsewhere);
  EXPECT_FALSE(one->List("t", "", 9)->at(0).held_elsewhere);
  EXPECT_TRUE(two->List("t", "", 9)->at(0).held_elsewhere);
  EXPECT_TRUE(absl::IsUnavailable(two->Acquire(kA, "t", AcquireMode::kStored).status()));
  const auto before = one->Head(kA, "t");
  ASSERT_TRUE(one->Release(kA, claim).ok());
  expect_unknown("stored");
  EXPECT_FALSE(one->Head(kA, "t")->claimed) << "nobody has taken it";
  EXPECT_FALSE(two->Head(kA, "t")->held_elsewhere);
  EXPECT_EQ(one->Head(kA, "t")->stored_at, before->stored_at);
  const Claim next = Take(*two, kA);
  EXPECT_EQ(next.epoch, claim.epoch + 1) << "nor had it";
  medium_->Lapse();
  ASSERT_TRUE(one->Renew().ok());
  ASSERT_TRUE(two->Renew().ok());
  expect_unknown("stored, and claimed by one that is gone");
  EXPECT_EQ(Take(*one, kA).epoch, next.epoch + 1);
}

TEST_P(StoreTest, AClaimIsOfOneTenant) {
  const auto store = Open();
  const Claim claim = Take(*store, kA);
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*store, kA, claim, 1, "one", "u")));
  EXPECT_TRUE(absl::IsNotFound(store->Get(kA, kUnlimitedBytes).status()));
}

TEST_P(StoreTest, WhatATenantHasIsAddedUp) {
  const auto one = Open(std::chrono::seconds(100)), two = Open(std::chrono::seconds(100));
  const auto expect = [&](std::int64_t t, std::int64_t u) {
    for (SnapshotStore* store : {one.get(), two.get()}) {
      EXPECT_EQ(store->TenantBytes("t").value_or(-1), t);
      EXPECT_EQ(store->TenantBytes("u").value_or(-1), u);
      std::map<std::string, std::int64_t> all;
      if (t > 0) all["t"] = t;
      if (u > 0) all["u"] = u;
      EXPECT_EQ(store->RemoveExpired().value().tenant_bytes, all);
    }
  };
  expect(0, 0);
  const Claim a = Take(*one, kA);
  expect(0, 0);
  ASSERT_TRUE(Put(*one, kA, a, 1, std::string(10, 'x')).ok());
  expect(10, 0);
  const Claim b = Take(*two, kB);
  ASSERT_TRUE(Put(*two, kB, b, 1, std::string(7, 'x')).ok());
  ASSERT_TRUE(Put(*two, kC, Take(*two, kC, "u"), 1, std::string(5, 'x'), "u").ok());
  expect(17, 5);
  ASSERT_TRUE(Put(*one, kA, a, 2, std::string(100, 'x')).ok());  // replaces
  expect(107, 5);
  ASSERT_TRUE(Put(*one, kA, a, 3, "").ok());
  expect(7, 5);
  EXPECT_FALSE(Put(*one, kA, a, 2, std::string(50, 'x')).ok()) << "it is old";
  expect(7, 5);
  ASSERT_TRUE(Put(*one, kA, a, 4, std::string(3, 'x')).ok());
  ASSERT_TRUE(one->Delete(kA, a).ok());
  expect(7, 5);
  ASSERT_TRUE(two->Release(kB, b).ok());
  medium_->Age(std::chrono::seconds(101));
  ASSERT_EQ(one->RemoveExpired().value().snapshots, 1) << "the other one is claimed";
  expect(0, 5);
  expect(0, Open()->TenantBytes("u").value_or(-1));
}

TEST_P(StoreTest, WhatIsBeyondTheTenantsLimitIsRefused) {
  const auto store = Open();
  const Claim a = Take(*store, kA), b = Take(*store, kB);
  const auto put = [&](const std::string& id, const Claim& claim,
                       std::uint64_t generation, std::size_t size, std::int64_t limit) {
    return Put(*store, id, claim, generation, std::string(size, 'x'), "t", limit);
  };
  EXPECT_EQ(put(kA, a, 1, 11, 10), OverTenantLimit(11, 10));
  EXPECT_TRUE(absl::IsNotFound(store->Get(kA, kUnlimitedBytes).status()));
  ASSERT_TRUE(put(kA, a, 1, 10, 10).ok()) << "the limit itself is allowed";
  EXPECT_EQ(put(kB, b, 1, 1, 10), OverTenantLimit(11, 10));
  ASSERT_TRUE(put(kB, b, 1, 5, 15).ok());
  EXPECT_EQ(put(kA, a, 2, 11, 15), OverTenantLimit(16, 15)) << "the difference counts";
  EXPECT_EQ(*store->Get(kA, kUnlimitedBytes), std::string(10, 'x'));
  EXPECT_TRUE(put(kA, a, 2, 10, 3).ok()) << "not more than before";
  EXPECT_TRUE(put(kA, a, 3, 9, 3).ok());
  EXPECT_EQ(put(kA, a, 4, 10, 3), OverTenantLimit(15, 3));
  const std::string foreign(32, 'd');
  EXPECT_TRUE(Put(*store, foreign, Take(*store, foreign, "u"), 1, "x", "u", 1).ok())
      << "others have limits of their own";
  EXPECT_EQ(store->TenantBytes("t").value_or(-1), 14);
}

// Owners that write at once stay below it together.
TEST_P(StoreTest, TheLimitHoldsForAllOwnersTogether) {
  constexpr int kOwners = 4, kEach = 10;
  std::vector<std::unique_ptr<SnapshotStore>> stores;
  for (int i = 0; i < kOwners; ++i) stores.push_back(Open());
  std::atomic<int> stored = 0, refused = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kOwners; ++i) {
    threads.emplace_back([&, i] {
      SnapshotStore& store = *stores[static_cast<std::size_t>(i)];
      for (int j = 0; j < kEach; ++j) {
        std::string id(32, '0');
        id[0] = static_cast<char>('a' + i);
        id[1] = static_cast<char>('0' + j);
        const absl::Status put =
            Put(store, id, Take(store, id), 1, std::string(10, 'x'), "t", 155);
        put.ok() ? ++stored : ++refused;
        EXPECT_TRUE(put.ok() || absl::IsOutOfRange(put)) << put;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stored, 15);
  EXPECT_EQ(refused, kOwners * kEach - 15);
  EXPECT_EQ(stores[0]->TenantBytes("t").value_or(-1), 150);
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest, testing::Values("directory", "redis"),
                         [](const auto& store) { return std::string(store.param); });

}  // namespace
}  // namespace goldfinch
