// Replicas with sessions: real schedulers on fake engines, with threads of their own,
// around one store in memory and a clock that is moved by hand.
#include "sessions/session_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <future>
#include <limits>
#include <random>
#include <thread>
#include <utility>

#include "tests/sessions/replica.h"
#include "tests/sessions/samples.h"

namespace goldfinch {
namespace {

class SessionManagerTest : public ReplicaTest {
 protected:
  static ReplicaOptions WithMemory(std::int64_t host_bytes) {
    ReplicaOptions options;
    options.sessions.host_bytes = host_bytes;
    return options;
  }
};

TEST_F(SessionManagerTest, ATenantHoldsNoMoreThanItsQuota) {
  SessionQuota quota;
  quota.max_sessions = 2;
  ReplicaOptions options;
  options.sessions.quota_of = [&quota](const std::string& tenant) {
    return tenant == "a" ? quota : SessionQuota();
  };
  Replica replica("one", nullptr, clock_, options);
  const auto create = [&](const std::string& tenant) {
    return Await<UseOr>(
               [&](auto done) { replica.sessions().Create(tenant, std::move(done)); })
        .status();
  };
  const std::string first = replica.Create();
  replica.Create();
  EXPECT_EQ(create("a"),
            absl::ResourceExhaustedError("this tenant holds 2 sessions; the limit is 2"));
  EXPECT_EQ(create("b"), absl::OkStatus());
  EXPECT_EQ(replica.Delete(first), absl::OkStatus());
  EXPECT_EQ(create("a"), absl::OkStatus());
  quota.max_sessions = 100;
  quota.max_resident_bytes = 0;
  EXPECT_EQ(create("a").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(create("b"), absl::OkStatus());
}

TEST_F(SessionManagerTest, TurnsGoOnWhereverTheSessionWasMeanwhile) {
  const auto replica = Make("one");
  const std::string id = replica->Create();
  EXPECT_TRUE(IsSessionId(id));
  std::int64_t tokens = 0;
  for (std::uint64_t turn = 1; turn <= 6; ++turn) {
    ASSERT_TRUE(replica->Say(id, 20, 10, turn).ok());
    tokens += 30;
    InfoOr info = replica->Get(id);
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(info->place, SessionPlace::kAlive);
    EXPECT_EQ(info->num_tokens, tokens);
    EXPECT_EQ(info->num_generated, 10);
    EXPECT_FALSE(info->interrupted);
    EXPECT_FALSE(info->busy);
    if (turn % 2 == 0) {
      info = replica->Park(id);
      ASSERT_TRUE(info.ok()) << info.status();
      EXPECT_EQ(info->place, SessionPlace::kParked);
      EXPECT_EQ(info->num_tokens, tokens);
      EXPECT_EQ(info->num_generated, 10);
      EXPECT_FALSE(info->interrupted);
      EXPECT_TRUE(replica->Park(id).ok()) << "parked already";
      EXPECT_EQ(replica->Get(id)->place, SessionPlace::kParked);
    }
  }
  EXPECT_EQ(replica->sessions().stats().parked, 3u);
  EXPECT_EQ(replica->sessions().stats().loaded, 2u);
}

// With the clock that the test moves: a load waits for its claim.
TEST_F(SessionManagerTest, TimesAndBytesOfMovesAreCounted) {
  const auto replica = Make("one");
  const SessionStats& stats = replica->sessions().stats();
  const std::string id = replica->Create();
  ASSERT_TRUE(replica->Say(id, 20, 10, 1).ok());
  ASSERT_TRUE(replica->Park(id).ok());
  const std::uint64_t size = medium_.BytesOf(id).size();
  EXPECT_EQ(stats.parks.bytes, size);
  EXPECT_EQ(stats.parks.done.Read().cumulative.back(), 1u);
  EXPECT_EQ(stats.loads.done.Read().cumulative.back(), 0u);

  medium_.HoldClaims();
  auto use = std::async(std::launch::async, [&] { return replica->Acquire(id); });
  medium_.WaitForHeldClaims(1);
  clock_.Advance(std::chrono::seconds(3));
  medium_.LetClaimsGo();
  ASSERT_TRUE(use.get().ok());
  EXPECT_EQ(stats.loads.bytes, size);
  EXPECT_EQ(stats.loads.done.Read().cumulative.back(), 1u);
  EXPECT_EQ(stats.loads.done.Read().sum, 3);
  EXPECT_EQ(stats.loads.failed.Read().cumulative.back(), 0u);

  ASSERT_TRUE(replica->Say(id, 20, 10, 2).ok());
  medium_.FailPuts(absl::UnavailableError("the store is away"));
  EXPECT_FALSE(replica->Park(id).ok());
  EXPECT_EQ(stats.parks.failed.Read().cumulative.back(), stats.park_failures);
  EXPECT_EQ(stats.parks.done.Read().cumulative.back(), 1u);
  medium_.FailPuts(absl::OkStatus());
  ASSERT_TRUE(replica->Park(id).ok());
  medium_.Spoil(id, [](std::string& bytes) { bytes.back() ^= 1; });
  EXPECT_FALSE(replica->Acquire(id).ok());
  EXPECT_EQ(stats.loads.failed.Read().cumulative.back(), 1u);
  EXPECT_EQ(stats.load_failures, 1u);
}

TEST_F(SessionManagerTest, SecondCallIsRefusedAtOnce) {
  const auto replica = Make("one");
  const std::string id = replica->Create();
  ASSERT_TRUE(replica->Say(id, 5, 5, 1).ok());
  UseOr use = replica->Acquire(id);
  ASSERT_TRUE(use.ok());
  EXPECT_TRUE(replica->Get(id)->busy);
  EXPECT_TRUE(absl::IsFailedPrecondition(replica->Acquire(id).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(replica->Park(id).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(replica->Fork(id).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(replica->Export(id).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(replica->Delete(id)));
  (*use)->Release();
  EXPECT_TRUE(replica->Say(id, 5, 5, 2).ok());
}

// Before anything is copied, and for no less than it takes.
TEST_F(SessionManagerTest, ExportsAskForRoomFirst) {
  const auto replica = Make("one");
  const std::string id = replica->Create();
  ASSERT_TRUE(replica->Say(id, 500, 50, 1).ok());
  std::int64_t asked = 0;
  const auto room = [&asked](const absl::Status& answer) {
    return [&asked, answer](std::int64_t bytes) {
      asked = bytes;
      return answer;
    };
  };
  const auto refused = replica->Export(id, "a", room(absl::ResourceExhaustedError("")));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_FALSE(replica->Get(id)->busy);
  const std::int64_t asked_first = std::exchange(asked, 0);
  const auto snapshot = replica->Export(id, "a", room(absl::OkStatus()));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(asked, asked_first);
  EXPECT_GE(asked, std::ssize(*snapshot));
  EXPECT_LE(asked, std::ssize(*snapshot) + 8192);
}

TEST_F(SessionManagerTest, UseThatIsDroppedLetsGo) {
  const auto replica = Make("one");
  const std::string id = replica->Create();
  replica->Acquire(id).value().reset();
  EXPECT_TRUE(replica->Acquire(id).ok());
}

TEST_F(SessionManagerTest, UnknownForeignAndMalformedIds) {
  const auto replica = Make("one");
  const std::string id = replica->Create();
  ASSERT_TRUE(replica->Say(id, 5, 5, 1).ok());
  for (const bool parked : {false, true}) {
    if (parked) {
      ASSERT_TRUE(replica->Park(id).ok());
    }
    for (const std::string& name : {id, std::string(32, 'f')}) {
      const std::string tenant = name == id ? "b" : "a";
      EXPECT_TRUE(absl::IsNotFound(replica->Acquire(name, tenant).status())) << parked;
      EXPECT_TRUE(absl::IsNotFound(replica->Get(name, tenant).status())) << parked;
      EXPECT_TRUE(absl::IsNotFound(replica->Park(name, tenant).status())) << parked;
      EXPECT_TRUE(absl::IsNotFound(replica->Delete(name, tenant))) << parked;
    }
  }
  for (const std::string bad : {"", "x", "../../etc/passwd", "ABCDEF"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(replica->Acquire(bad).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(replica->Get(bad).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(replica->Delete(bad)));
  }
  EXPECT_TRUE(replica->Say(id, 5, 5, 2).ok()) << "the owner's is unharmed";
}

TEST_F(SessionManagerTest, ForksHaveTheHistoryAndGoTheirOwnWays) {
  const auto replica = Make("one");
  const std::string id = replica->Create();
  ASSERT_TRUE(replica->Say(id, 50, 10, 1).ok());
  for (std::uint64_t i = 0; i < 20; ++i) {
    if (i == 10) {
      ASSERT_TRUE(replica->Park(id).ok());
    }
    const InfoOr fork = replica->Fork(id);
    ASSERT_TRUE(fork.ok()) << fork.status();
    EXPECT_NE(fork->id, id);
    EXPECT_EQ(fork->num_tokens, 60);
    EXPECT_TRUE(replica->Say(fork->id, 3, 5, 100 + i).ok());
    EXPECT_EQ(replica->Get(id)->num_tokens, 60);
  }
  EXPECT_EQ(replica->List().size(), 21u);
}

TEST_F(SessionManagerTest, WithoutAStoreSessionsLiveInMemory) {
  Replica replica("one", nullptr, clock_);
  const std::string id = replica.Create();
  EXPECT_TRUE(replica.Say(id, 5, 5, 1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(replica.Park(id).status()));
  EXPECT_TRUE(replica.Say(id, 5, 5, 2).ok());
  EXPECT_EQ(replica.List().size(), 1u);
  EXPECT_TRUE(absl::IsNotFound(replica.Get(std::string(32, '0')).status()));
  EXPECT_TRUE(replica.Delete(id).ok());
  EXPECT_TRUE(absl::IsNotFound(replica.Delete(id)));
  EXPECT_TRUE(replica.List().empty());
}

// The limit of memory is looked at between two sweeps as well, by what was counted since.
TEST_F(SessionManagerTest, ASessionOfManyTurnsCountsOnce) {
  Replica replica("one", nullptr, clock_, WithMemory(10000));
  const std::string id = replica.Create();
  for (std::uint64_t turn = 1; turn <= 100; ++turn) {
    ASSERT_EQ(replica.Say(id, 1, 1, turn), absl::OkStatus());
  }
  ASSERT_LT(replica.Get(id)->bytes, 5000);
  EXPECT_EQ(replica.TryCreate().status(), absl::OkStatus());
}

// What they have in common is there once, also before a sweep has counted it so.
TEST_F(SessionManagerTest, ForksAreNoReasonToRefuseAnother) {
  Replica replica("one", nullptr, clock_, WithMemory(10000));
  const std::string id = replica.Create();
  ASSERT_EQ(replica.Say(id, 500, 5, 1), absl::OkStatus());
  ASSERT_GT(30 * replica.Get(id)->bytes, 10000);
  for (int i = 0; i < 30; ++i) EXPECT_EQ(replica.Fork(id).status(), absl::OkStatus());
  EXPECT_EQ(replica.TryCreate().status(), absl::OkStatus());
}

TEST_F(SessionManagerTest, ImportsStopAtTheLimitOfMemory) {
  Replica replica("one", nullptr, clock_, WithMemory(10000));
  const std::string id = replica.Create();
  ASSERT_EQ(replica.Say(id, 500, 5, 1), absl::OkStatus());
  const auto snapshot = replica.Export(id);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  std::vector<std::string> ids = {id};
  std::int64_t bytes = replica.Get(id)->bytes;
  InfoOr imported = replica.Import(*snapshot);
  for (; imported.ok() && ids.size() < 100; imported = replica.Import(*snapshot)) {
    ids.push_back(imported->id);
    bytes += imported->bytes;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(imported.status())) << imported.status();
  EXPECT_GE(bytes, 10000);
  EXPECT_LT(bytes - replica.Get(ids.back())->bytes, 10000);
  // What goes leaves room at once.
  EXPECT_EQ(replica.Delete(ids.back()), absl::OkStatus());
  EXPECT_EQ(replica.Import(*snapshot).status(), absl::OkStatus());
}

TEST_F(SessionManagerTest, DeletedIsGoneFromMemoryAndStore) {
  const auto replica = Make("one");
  const std::string held = replica->Create(), parked = replica->Create();
  ASSERT_TRUE(replica->Say(held, 5, 5, 1).ok());
  ASSERT_TRUE(replica->Say(parked, 5, 5, 1).ok());
  ASSERT_TRUE(replica->Park(parked).ok());
  for (const std::string& id : {held, parked}) {
    EXPECT_TRUE(replica->Delete(id).ok());
    EXPECT_TRUE(absl::IsNotFound(replica->Get(id).status()));
    EXPECT_TRUE(absl::IsNotFound(replica->Acquire(id).status()));
  }
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionManagerTest, ListIsPagedOverMemoryAndStore) {
  const auto replica = Make("one");
  std::vector<std::string> ids;
  for (int i = 0; i < 15; ++i) {
    ids.push_back(replica->Create());
    ASSERT_TRUE(replica->Say(ids.back(), 5, 5, 1).ok());
    if (i % 3 == 0) {
      ASSERT_TRUE(replica->Park(ids.back()).ok());
    }
  }
  replica->Create("b");
  std::ranges::sort(ids);
  std::vector<std::string> listed;
  for (std::string after;;) {
    const std::vector<SessionInfo> page = replica->List(4, after);
    if (page.empty()) break;
    for (const SessionInfo& info : page) listed.push_back(info.id);
    after = listed.back();
  }
  EXPECT_EQ(listed, ids);
}

// One that is parked while the store is read is in the table before or in the store
// after.
TEST_F(SessionManagerTest, ASessionThatIsParkedMeanwhileIsListed) {
  class ReadsSlowly final : public MemoryStore {
   public:
    using MemoryStore::MemoryStore;
    absl::StatusOr<std::vector<StoredSession>> List(std::string_view tenant,
                                                    std::string_view after,
                                                    std::size_t limit) override {
      auto stored = MemoryStore::List(tenant, after, limit);
      if (meanwhile) meanwhile();
      return stored;
    }
    std::function<void()> meanwhile;
  };
  auto made = std::make_unique<ReadsSlowly>(medium_, "one", kLease);
  ReadsSlowly& store = *made;
  Replica replica(std::move(made), clock_);
  const std::string id = replica.Create();
  ASSERT_TRUE(replica.Say(id, 5, 5, 1).ok());
  store.meanwhile = [&] { EXPECT_TRUE(replica.Park(id).ok()); };
  const std::vector<SessionInfo> listed = replica.List();
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].id, id);
}

// The names of sessions that are looked for take no place of those that are there.
TEST_F(SessionManagerTest, APageIsNotCutShortByWhatIsBeingLoaded) {
  const auto replica = Make("one");
  std::vector<std::string> ids = {replica->Create(), replica->Create()};
  std::ranges::sort(ids);
  ASSERT_TRUE(replica->Park(ids[1]).ok());
  medium_.HoldClaims();
  std::promise<UseOr> looked_for;
  replica->sessions().Acquire("a", std::string(32, '0'),
                              [&](UseOr use) { looked_for.set_value(std::move(use)); });
  medium_.WaitForHeldClaims(1);
  const std::vector<SessionInfo> page = replica->List(1);
  EXPECT_EQ(page.size(), 1u);
  EXPECT_EQ(page.empty() ? "" : page[0].id, ids[0]);
  medium_.LetClaimsGo();
  EXPECT_TRUE(absl::IsNotFound(looked_for.get_future().get().status()));
}

TEST_F(SessionManagerTest, SessionsBeyondTheMemoryAreParkedAndAllMakeProgress) {
  ReplicaOptions options;
  options.engine.num_pages = 40;
  options.sessions.host_bytes = 40 * 200;  // about forty of them
  const auto replica = Make("one", options);
  std::vector<std::string> ids;
  for (int i = 0; i < 150; ++i) ids.push_back(replica->Create());
  for (std::uint64_t turn = 1; turn <= 3; ++turn) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ASSERT_TRUE(replica->Say(ids[i], 10, 5, turn * 1000 + i).ok());
      if (i % 10 == 0) replica->sessions().Sweep();
    }
  }
  replica->sessions().Sweep();
  EXPECT_GT(replica->sessions().stats().parked, 100u);
  for (const std::string& id : ids) EXPECT_EQ(replica->Get(id)->num_tokens, 45);
}

// Ten thousand in the long mode. Clients on threads of their own, in orders of their own,
// and nobody sweeps by hand.
TEST_F(SessionManagerTest, ManySessionsWithRoomForAHundredAllMakeProgress) {
  constexpr std::size_t kThreads = 8;
  const std::size_t per_thread =
      std::getenv("GOLDFINCH_LONG_TESTS") != nullptr ? 10000 / kThreads : 60;
  ReplicaOptions options;
  options.engine.num_pages = 100;           // of 16 tokens: two for each of fifty
  options.sessions.host_bytes = 100 * 200;  // about a hundred
  const auto replica = Make("one", options);
  std::vector<std::thread> clients;
  for (std::size_t t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      std::mt19937_64 random(t);
      std::vector<std::string> ids;
      for (std::size_t i = 0; i < per_thread; ++i) ids.push_back(replica->Create());
      for (int turn = 0; turn < 2; ++turn) {
        std::ranges::shuffle(ids, random);
        for (const std::string& id : ids) {
          const absl::Status said = replica->Say(id, 10, 5, random());
          ASSERT_TRUE(said.ok()) << said;
        }
      }
      for (const std::string& id : ids) EXPECT_EQ(replica->Get(id)->num_tokens, 30);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(replica->sessions().stats().parked, per_thread);
  EXPECT_GT(replica->sessions().stats().loaded, per_thread);
  EXPECT_EQ(replica->sessions().stats().stale, 0u);
}

TEST_F(SessionManagerTest, IdleSessionsMoveDownAndGo) {
  ReplicaOptions options;
  options.sessions.idle_to_rest = std::chrono::seconds(10);
  options.sessions.idle_to_park = std::chrono::seconds(15);
  options.sessions.time_to_live = std::chrono::seconds(20);
  const auto replica = Make("one", options);
  const std::string id = replica->Create(), used = replica->Create();
  ASSERT_TRUE(replica->Say(id, 5, 5, 1).ok());
  ASSERT_TRUE(replica->Say(used, 5, 5, 1).ok());
  const auto becomes = [&](SessionPlace place) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (replica->Get(id)->place != place) {
      if (std::chrono::steady_clock::now() > limit) return false;
      replica->sessions().Sweep();
      std::this_thread::yield();
    }
    return true;
  };
  replica->sessions().Sweep();
  EXPECT_EQ(replica->Get(id)->place, SessionPlace::kAlive);
  clock_.Advance(std::chrono::seconds(11));
  ASSERT_TRUE(replica->Say(used, 5, 5, 2).ok());
  EXPECT_TRUE(becomes(SessionPlace::kResting));
  EXPECT_EQ(replica->Get(used)->place, SessionPlace::kAlive);
  clock_.Advance(std::chrono::seconds(5));
  EXPECT_TRUE(becomes(SessionPlace::kParked));
  ASSERT_TRUE(replica->Say(used, 5, 5, 3).ok());
  ASSERT_TRUE(replica->store().Renew().ok());
  clock_.Advance(std::chrono::seconds(19));
  EXPECT_TRUE(replica->Say(id, 5, 5, 2).ok()) << "it comes back on its next call";
  replica->sessions().Sweep();
  EXPECT_TRUE(replica->Get(used).ok());
}

TEST_F(SessionManagerTest, SessionsPastTheirTimeToLiveAreDeleted) {
  ReplicaOptions options;
  options.sessions.time_to_live = std::chrono::seconds(20);
  const auto replica = Make("one", options);
  const std::string id = replica->Create();
  ASSERT_TRUE(replica->Say(id, 5, 5, 1).ok());
  clock_.Advance(std::chrono::seconds(21));
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (replica->Get(id).ok() && std::chrono::steady_clock::now() < limit) {
    replica->sessions().Sweep();
  }
  EXPECT_TRUE(absl::IsNotFound(replica->Get(id).status()));
  EXPECT_EQ(replica->sessions().stats().expired, 1u);
}

TEST_F(SessionManagerTest, TooManySessionsAreRefused) {
  ReplicaOptions options;
  options.sessions.max_sessions = 3;
  const auto replica = Make("one", options);
  std::string last;
  for (int i = 0; i < 3; ++i) last = replica->Create();
  const UseOr refused =
      Await<UseOr>([&](auto done) { replica->sessions().Create("a", std::move(done)); });
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_TRUE(absl::IsResourceExhausted(replica->Fork(last).status()));
  EXPECT_TRUE(replica->Say(last, 5, 5, 1).ok());
}

TEST_F(SessionManagerTest, WhenTheStoreIsGoneTheSessionStaysWhereItIs) {
  const auto replica = Make("one");
  const std::string id = replica->Create(), parked = replica->Create();
  ASSERT_TRUE(replica->Say(id, 5, 5, 1).ok());
  ASSERT_TRUE(replica->Say(parked, 5, 5, 1).ok());
  ASSERT_TRUE(replica->Park(parked).ok());
  medium_.Fail(true);
  EXPECT_TRUE(absl::IsUnavailable(replica->Park(id).status()));
  EXPECT_TRUE(absl::IsUnavailable(replica->Acquire(parked).status()));
  EXPECT_TRUE(absl::IsUnavailable(replica->Get(parked).status()));
  EXPECT_TRUE(replica->Say(id, 5, 5, 2).ok()) << "the lease is still good";
  clock_.Advance(kLease + std::chrono::seconds(1));
  EXPECT_TRUE(absl::IsUnavailable(replica->Say(id, 5, 5, 3)))
      << "another replica may have it by now";
  medium_.Fail(false);
  ASSERT_TRUE(replica->store().Renew().ok());
  EXPECT_TRUE(replica->Say(id, 5, 5, 3).ok());
  EXPECT_TRUE(replica->Park(id).ok());
  EXPECT_TRUE(replica->Say(parked, 5, 5, 2).ok());
}

TEST_F(SessionManagerTest, ExportedAndImportedGoesOnTheSame) {
  const auto one = Make("one");
  Replica far("far", nullptr, clock_);
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  for (const bool parked : {false, true}) {
    if (parked) {
      ASSERT_TRUE(one->Park(id).ok());
    }
    const auto bytes = one->Export(id);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const InfoOr info = far.Import(*bytes);
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_NE(info->id, id);
    EXPECT_EQ(info->place, SessionPlace::kResting);
    EXPECT_EQ(info->num_tokens, 25);
    EXPECT_FALSE(info->numerics_changed);
    EXPECT_TRUE(far.Say(info->id, 3, 5, 2).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(far.Import(*bytes, "b").status()));
  }
  EXPECT_TRUE(one->Say(id, 3, 5, 2).ok());
}

// Three hundred bytes of one tenant's that would count as seventeen gigabytes, and leave
// no room for anybody.
TEST_F(SessionManagerTest, AHandMadeImportTakesNobodysRoom) {
  const auto one = Make("one");
  Replica far("far", nullptr, clock_);
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 1, 1).ok());
  auto snapshot = Decode(one->Export(id).value());
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  Turn& turn = *snapshot->turn;
  turn.sampling.num_logprobs = std::numeric_limits<std::int32_t>::max();
  turn.logprobs = {{.token = snapshot->tokens.back(), .logprob = -1.0f, .top = {}}};
  EXPECT_TRUE(absl::IsDataLoss(far.Import(Encode(*snapshot)).status()));
  far.sessions().Sweep();
  const absl::Status created = far.TryCreate("b").status();
  EXPECT_TRUE(created.ok()) << created;
}

TEST_F(SessionManagerTest, AnotherNumericsIdIsTold) {
  const auto one = Make("one");
  ReplicaOptions options;
  options.engine.numerics_id = "another";
  const auto two = Make("two", options);
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  ASSERT_TRUE(two->Say(id, 20, 5, 1).ok());
  EXPECT_TRUE(two->Get(id)->numerics_changed);
}

TEST_F(SessionManagerTest, DamagedSnapshotIsDataLossAndNothingIsHarmed) {
  const auto one = Make("one"), two = Make("two");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  const std::string good = medium_.BytesOf(id);
  medium_.Spoil(id, [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; });
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(absl::IsDataLoss(one->Acquire(id).status()));
    EXPECT_TRUE(absl::IsDataLoss(two->Acquire(id).status()));
    EXPECT_TRUE(absl::IsDataLoss(one->Export(id).status()));
  }
  EXPECT_TRUE(absl::IsDataLoss(one->Import("no snapshot").status()));
  medium_.Spoil(id, [&](std::string& bytes) { bytes = good; });
  EXPECT_TRUE(two->Say(id, 3, 5, 2).ok());
}

TEST_F(SessionManagerTest, SnapshotOfAnotherSessionUnderItsNameIsDataLoss) {
  const auto one = Make("one");
  const std::string id = one->Create(), other = one->Create();
  for (const std::string& name : {id, other}) {
    ASSERT_TRUE(one->Say(name, 20, 5, 1).ok());
    ASSERT_TRUE(one->Park(name).ok());
  }
  const std::string wrong = medium_.BytesOf(other);
  medium_.Spoil(id, [&](std::string& bytes) { bytes = wrong; });
  EXPECT_TRUE(absl::IsDataLoss(one->Acquire(id).status()));
}

TEST_F(SessionManagerTest, SnapshotsAreAuthenticatedWithAKey) {
  ReplicaOptions options, another;
  options.sessions.key = SnapshotKey{std::string(32, 'k')};
  another.sessions.key = SnapshotKey{std::string(32, 'x')};
  const auto one = Make("one", options), two = Make("two", another), bare = Make("three");
  const std::string id = one->Create();
  ASSERT_TRUE(one->Say(id, 20, 5, 1).ok());
  ASSERT_TRUE(one->Park(id).ok());
  EXPECT_TRUE(absl::IsDataLoss(two->Acquire(id).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(bare->Acquire(id).status()));
  EXPECT_TRUE(one->Say(id, 3, 5, 2).ok());
}

}  // namespace
}  // namespace goldfinch
