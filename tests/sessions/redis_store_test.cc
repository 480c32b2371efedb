// What is the Redis store's alone: a Redis that is stopped, gone, full or locked, and how
// it is reached.
#include "sessions/redis_store.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/check.h"
#include "engine/file_descriptor.h"
#include "engine/sync/mutex.h"
#include "sessions/open_store.h"
#include "tests/sessions/moved_clock.h"
#include "tests/sessions/redis_server.h"

namespace goldfinch {
namespace {

constexpr auto kLease = std::chrono::seconds(30);
const std::string kA(32, 'a'), kB(32, 'b'), kC(32, 'c');
const SnapshotInfo kInfo{.tenant = "t", .num_tokens = 7};

// Before a Redis: passes on what is asked and answered, each in one piece, but for one
// request: it ends that connection, and holds the request until it is to arrive.
class LateProxy {
 public:
  explicit LateProxy(std::string redis)
      : redis_(std::move(redis)), listener_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    const sockaddr_un address = AddressOf(socket());
    GOLDFINCH_CHECK(bind(listener_, reinterpret_cast<const sockaddr*>(&address),
                         sizeof address) == 0);
    GOLDFINCH_CHECK(listen(listener_, 16) == 0);
    acceptor_ = std::thread([this] {
      for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0;) {
        connections_.emplace_back([this, fd] { PassOn(fd); });
      }
    });
  }
  // When its clients have closed their connections.
  ~LateProxy() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (std::thread& connection : connections_) connection.join();
    close(listener_);
  }

  std::string socket() const { return redis_ + "_late"; }
  // The one with this number from now, the first being 1.
  void HoldRequest(int number) {
    const MutexLock lock(mu_);
    until_held_ = number;
  }
  // Returns when it has been done.
  void Deliver() {
    const MutexLock lock(mu_);
    Ask(Connect(), held_);
  }

 private:
  static sockaddr_un AddressOf(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    GOLDFINCH_CHECK(path.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
  }
  int Connect() const {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    const sockaddr_un address = AddressOf(redis_);
    GOLDFINCH_CHECK(connect(fd, reinterpret_cast<const sockaddr*>(&address),
                            sizeof address) == 0);
    return fd;
  }
  static std::string Read(int fd) {
    std::string bytes(1 << 16, '\0');
    const ssize_t size = read(fd, bytes.data(), bytes.size());
    bytes.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return bytes;
  }
  static std::string Ask(int redis, const std::string& request) {
    GOLDFINCH_CHECK(write(redis, request.data(), request.size()) == std::ssize(request));
    std::string answer = Read(redis);
    close(redis);
    return answer;
  }
  void PassOn(int client) {
    for (std::string request; !(request = Read(client)).empty();) {
      bool hold = false;
      {
        const MutexLock lock(mu_);
        hold = until_held_ > 0 && --until_held_ == 0;
        if (hold) held_ = request;
      }
      if (hold) break;
      const std::string answer = Ask(Connect(), request);
      // Who has given up meanwhile gets no answer.
      if (write(client, answer.data(), answer.size()) != std::ssize(answer)) break;
    }
    close(client);
  }

  const std::string redis_;
  const int listener_;
  std::thread acceptor_;
  std::vector<std::thread> connections_;  // the acceptor's, then the destructor's
  Mutex mu_;
  int until_held_ ABSL_GUARDED_BY(mu_) = 0;
  std::string held_ ABSL_GUARDED_BY(mu_);
};

class RedisStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::Available()) GTEST_SKIP() << "redis-server is not installed";
    signal(SIGPIPE, SIG_IGN);  // as the server does
    server_ = std::make_unique<RedisServer>();
  }
  std::unique_ptr<RedisStore> Open(
      std::chrono::milliseconds command_timeout = RedisStoreOptions().command_timeout,
      const std::string& socket = "") {
    RedisStoreOptions options;
    options.address.path = socket.empty() ? server_->socket() : socket;
    options.command_timeout = command_timeout;
    auto store = RedisStore::Open(options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  std::unique_ptr<RedisServer> server_;
};

TEST_F(RedisStoreTest, WhenItDoesNotAnswerCallsEndWithinTheTimeOut) {
  // Waited for by three calls; those before and after have an answer at once.
  const auto store = Open(/*command_timeout=*/std::chrono::seconds(1));
  const auto claim = store->Acquire(kA, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  server_->Stop();
  const std::string_view bytes = "one";
  EXPECT_TRUE(absl::IsUnavailable(
      store->Put(kA, *claim, 1, kInfo, {&bytes, 1}, kUnlimitedBytes)));
  EXPECT_TRUE(absl::IsUnavailable(store->Get(kA, kUnlimitedBytes).status()));
  EXPECT_TRUE(absl::IsUnavailable(store->Renew()));
  server_->Continue();
  // The write whose answer was not waited for may have been done: the next is higher.
  EXPECT_TRUE(store->Put(kA, *claim, 2, kInfo, {&bytes, 1}, kUnlimitedBytes).ok());
  EXPECT_EQ(*store->Get(kA, kUnlimitedBytes), "one");
}

// Its answer did not come, and the session is claimed anew and used meanwhile.
TEST_F(RedisStoreTest, WhatDisownsLateLeavesANewerClaim) {
  const auto other = Open();
  LateProxy proxy(server_->socket());
  const auto store = Open(RedisStoreOptions().command_timeout, proxy.socket());
  int request = 0;
  for (const std::string& id : {kA, kB}) {
    ASSERT_TRUE(store->Acquire(id, "t", AcquireMode::kNew).ok());
    proxy.HoldRequest(++request);  // it looks, then it releases
    EXPECT_TRUE(absl::IsUnavailable(store->Disown(id)));
    const auto claim = store->Acquire(id, "t", AcquireMode::kNew);
    ASSERT_TRUE(claim.ok()) << claim.status();
    proxy.Deliver();
    EXPECT_TRUE(absl::IsUnavailable(other->Acquire(id, "t", AcquireMode::kNew).status()));
    const std::string_view bytes = "one";
    EXPECT_TRUE(store->Put(id, *claim, 1, kInfo, {&bytes, 1}, kUnlimitedBytes).ok());
  }
}

// A socket in the place of the Redis's, that takes what is sent and says nothing.
class SilentSocket {
 public:
  explicit SilentSocket(const std::string& path)
      : listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    std::filesystem::rename(path, path + ".aside");
    EXPECT_EQ(
        bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_.get(), 8), 0);
  }
  // Until somebody more has connected and sent something.
  void WaitForCall() {
    calls_.emplace_back(accept(listener_.get(), nullptr, nullptr));
    char byte = 0;
    EXPECT_EQ(recv(calls_.back().get(), &byte, 1, 0), 1);
  }

 private:
  FileDescriptor listener_;
  std::vector<FileDescriptor> calls_;
};

// However long they would have waited.
TEST_F(RedisStoreTest, AbandonedItKeepsNobodyWaiting) {
  const auto store = Open(/*command_timeout=*/std::chrono::hours(1));
  // One on the connection that is there, others on new ones.
  server_->Stop();
  SilentSocket silent(server_->socket());
  std::vector<std::thread> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back([&] {
      EXPECT_TRUE(absl::IsUnavailable(store->Get(kA, kUnlimitedBytes).status()));
    });
  }
  for (int i = 0; i < 2; ++i) silent.WaitForCall();
  store->Abandon();
  for (std::thread& thread : waiting) thread.join();
  EXPECT_TRUE(absl::IsUnavailable(store->Renew()));
  server_->Continue();
  EXPECT_TRUE(absl::IsUnavailable(store->Get(kA, kUnlimitedBytes).status()))
      << "for good";
}

TEST_F(RedisStoreTest, WhenItIsGoneCallsAreRefusedAndWorkAgainWhenItIsBack) {
  const auto store = Open();
  ASSERT_TRUE(store->Acquire(kA, "t", AcquireMode::kNew).ok());
  server_->Kill();
  EXPECT_TRUE(absl::IsUnavailable(store->Get(kA, kUnlimitedBytes).status()));
  EXPECT_TRUE(absl::IsUnavailable(store->Acquire(kA, "t", AcquireMode::kNew).status()));
  server_->Start();  // and has forgotten everything
  EXPECT_TRUE(absl::IsNotFound(store->Get(kA, kUnlimitedBytes).status()));
  EXPECT_TRUE(absl::IsUnavailable(store->Acquire(kA, "t", AcquireMode::kNew).status()))
      << "the lease is gone too";
  ASSERT_TRUE(store->Renew().ok());
  EXPECT_TRUE(store->Acquire(kA, "t", AcquireMode::kNew).ok());
}

// One name for both: a link to the socket of the one that takes writes.
TEST_F(RedisStoreTest, AfterAFailoverTheNameIsFollowedToTheNewMaster) {
  RedisServer next;
  const std::string name = server_->socket() + "_name";
  std::filesystem::create_symlink(server_->socket(), name);
  const auto store = Open(RedisStoreOptions().command_timeout, name);
  // Several connections, which are idle afterwards.
  ASSERT_TRUE(store->TenantBytes("t").ok());
  ASSERT_EQ(server_->Run({"CLIENT", "PAUSE", "600000", "WRITE"}), "OK");
  std::vector<std::thread> calls;
  for (int i = 0; i < 3; ++i) {
    calls.emplace_back([&] { EXPECT_TRUE(store->TenantBytes("t").ok()); });
  }
  while (server_->Run({"INFO", "clients"}).find("blocked_clients:3") ==
         std::string::npos) {
    std::this_thread::yield();
  }
  ASSERT_EQ(server_->Run({"CLIENT", "UNPAUSE"}), "OK");
  for (std::thread& call : calls) call.join();

  ASSERT_EQ(server_->Run({"REPLICAOF", "127.0.0.1", "1"}), "OK");
  EXPECT_EQ(store->Renew(), absl::UnavailableError("the session store refuses: READONLY"))
      << "the name leads to the old one still";
  EXPECT_TRUE(absl::IsUnavailable(store->Renew()));
  std::filesystem::remove(name);
  std::filesystem::create_symlink(next.socket(), name);
  // The last connection was given up, too.
  EXPECT_EQ(store->Renew(), absl::OkStatus());
  EXPECT_TRUE(store->Acquire(kA, "t", AcquireMode::kNew).ok());
  EXPECT_EQ(next.Run({"EXISTS", "goldfinch:session:" + kA}), "1");
}

// A full one stays the same on whichever connection.
TEST_F(RedisStoreTest, AFullOneKeepsItsConnections) {
  const auto store = Open();
  server_->Run({"CONFIG", "SET", "maxmemory", "1"});
  ASSERT_TRUE(
      absl::IsResourceExhausted(store->Acquire(kA, "t", AcquireMode::kNew).status()));
  EXPECT_NE(server_->Run({"CLIENT", "LIST"}).find("cmd=eval"), std::string::npos);
}

TEST_F(RedisStoreTest, AnErrorQuotesNothing) {
  const auto store = Open();
  server_->Run({"SET", "goldfinch:session:" + kA, "no hash"});
  const auto status = store->Acquire(kA, "t", AcquireMode::kNew).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(status.message().find(kA), absl::string_view::npos);
}

// As after an update from a version that did not add up.
TEST_F(RedisStoreTest, WhatWasNotAddedUpIsCounted) {
  const auto store = Open();
  const std::string_view bytes = "12345";
  for (const std::string& id : {kA, kB}) {
    const auto claim = store->Acquire(id, "t", AcquireMode::kNew);
    ASSERT_TRUE(claim.ok());
    ASSERT_TRUE(store->Put(id, *claim, 1, kInfo, {&bytes, 1}, 10).ok());
  }
  const auto claim = store->Acquire(kC, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  server_->Run({"DEL", "goldfinch:totals"});
  EXPECT_EQ(store->Put(kC, *claim, 1, kInfo, {&bytes, 1}, 10), OverTenantLimit(15, 10));
  server_->Run({"DEL", "goldfinch:totals"});
  EXPECT_EQ(store->TenantBytes("t").value_or(-1), 10);
}

TEST_F(RedisStoreTest, AFullOneIsResourceExhausted) {
  const auto store = Open();
  const auto claim = store->Acquire(kA, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  server_->Run({"CONFIG", "SET", "maxmemory", "1"});
  const std::string_view bytes = "one";
  EXPECT_TRUE(absl::IsResourceExhausted(
      store->Put(kA, *claim, 1, kInfo, {&bytes, 1}, kUnlimitedBytes)));
}

// Deleting is what makes room, for the Redis and for the tenant.
TEST_F(RedisStoreTest, FromAFullOneIsDeleted) {
  const auto store = Open();
  const auto claim = store->Acquire(kA, "t", AcquireMode::kNew);
  const auto other = store->Acquire(kB, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  ASSERT_TRUE(other.ok());
  const std::string_view bytes = "one";
  ASSERT_TRUE(store->Put(kA, *claim, 1, kInfo, {&bytes, 1}, kUnlimitedBytes).ok());
  ASSERT_TRUE(store->Put(kB, *other, 1, kInfo, {&bytes, 1}, kUnlimitedBytes).ok());
  server_->Run({"CONFIG", "SET", "maxmemory", "1"});
  EXPECT_EQ(store->Delete(kA, *claim), absl::OkStatus());
  EXPECT_EQ(store->TenantBytes("t").value_or(-1), 3);
}

TEST_F(RedisStoreTest, ThatASessionWasDeletedIsForgottenAfterSomeLeases) {
  const auto store = Open();
  const auto claim = store->Acquire(kA, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  const std::string_view bytes = "one";
  ASSERT_TRUE(store->Put(kA, *claim, 1, kInfo, {&bytes, 1}, kUnlimitedBytes).ok());
  ASSERT_TRUE(store->Delete(kA, *claim).ok());
  const auto left = std::chrono::milliseconds(
      std::stoll(server_->Run({"PTTL", "goldfinch:session:" + kA})));
  EXPECT_GT(left, (kDeletedLeases - 1) * kLease);
  EXPECT_LE(left, kDeletedLeases * kLease);
}

TEST_F(RedisStoreTest, InAFullOneWhatIsStoredIsClaimedGivenUpAndDeleted) {
  const auto clock = std::make_shared<MovedClock>();
  RedisStoreOptions options;
  options.address.path = server_->socket();
  options.clock = clock;
  auto one = *RedisStore::Open(options);
  const std::string_view bytes = "one";
  for (const std::string& id : {kA, kB}) {
    const auto claim = one->Acquire(id, "t", AcquireMode::kNew);
    ASSERT_TRUE(claim.ok());
    ASSERT_TRUE(one->Put(id, *claim, 1, kInfo, {&bytes, 1}, kUnlimitedBytes).ok());
    if (id == kB) {
      ASSERT_TRUE(one->Release(id, *claim).ok());
    }
  }
  server_->Run({"CONFIG", "SET", "maxmemory", "1"});
  ASSERT_EQ(server_->Run({"SET", "x", "y"}).substr(0, 3), "OOM");
  EXPECT_EQ(one->Renew(), absl::OkStatus());
  auto claim = one->Acquire(kA, "t", AcquireMode::kStored);
  ASSERT_TRUE(claim.ok()) << claim.status();
  EXPECT_TRUE(absl::IsResourceExhausted(
      one->Put(kA, *claim, 2, kInfo, {&bytes, 1}, kUnlimitedBytes)));
  EXPECT_TRUE(
      absl::IsResourceExhausted(one->Acquire(kC, "t", AcquireMode::kNew).status()))
      << "new ones need memory";
  // After a lapse too, and by others.
  clock->Advance(std::chrono::seconds(31));
  EXPECT_EQ(one->Renew(), absl::OkStatus());
  EXPECT_FALSE(one->is_good(*claim));
  auto two = *RedisStore::Open(options);
  claim = two->Acquire(kA, "t", AcquireMode::kStored);
  ASSERT_TRUE(claim.ok()) << claim.status();
  EXPECT_TRUE(absl::IsUnavailable(one->Acquire(kA, "t", AcquireMode::kStored).status()));
  EXPECT_EQ(two->Release(kA, *claim), absl::OkStatus());
  for (const std::string& id : {kA, kB}) {
    claim = one->Acquire(id, "t", AcquireMode::kStored);
    ASSERT_TRUE(claim.ok()) << claim.status();
    EXPECT_EQ(one->Delete(id, *claim), absl::OkStatus());
  }
  EXPECT_EQ(one->TenantBytes("t").value_or(-1), 0);
  EXPECT_EQ(server_->Run({"EXISTS", "goldfinch:blob:" + kA}), "0");
}

TEST(OpenStoreTest, OtherUrlsAreNoDirectories) {
  for (const char* name : {"http://host/path", "rediss://host", "file:///tmp"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(OpenStore(name, {}).status())) << name;
  }
}

TEST(OpenStoreTest, WhatFailsSaysWhere) {
  const auto message = [](const std::string& name) {
    return std::string(OpenStore(name, {}).status().message());
  };
  EXPECT_EQ(message("/no/such/folder/at/all"),
            "--session_store /no/such/folder/at/all: session directory: opening: No such "
            "file or directory");
  // Nobody listens there, and the password is not told.
  EXPECT_EQ(message("redis://:secret@127.0.0.1:1"),
            "--session_store redis://127.0.0.1:1: the session store does not answer: "
            "Connection refused");
}

TEST_F(RedisStoreTest, ItIsReachedByAPortToo) {
  auto store = OpenStore("redis://127.0.0.1:" + std::to_string(server_->Listen()), {});
  ASSERT_TRUE(store.ok()) << store.status();
  const auto claim = (*store)->Acquire(kA, "t", AcquireMode::kNew);
  ASSERT_TRUE(claim.ok());
  const std::string large(3 << 20, 'x');
  const std::string_view piece = large;
  ASSERT_TRUE((*store)->Put(kA, *claim, 1, kInfo, {&piece, 1}, kUnlimitedBytes).ok());
  EXPECT_EQ((*store)->Get(kA, kUnlimitedBytes).value(), large);
}

TEST_F(RedisStoreTest, APasswordIsGiven) {
  server_->Run({"CONFIG", "SET", "requirepass", "secret"});
  RedisStoreOptions options;
  options.address.path = server_->socket();
  EXPECT_TRUE(absl::IsFailedPrecondition(RedisStore::Open(options).status()));
  options.address.password = "secret";
  EXPECT_TRUE(RedisStore::Open(options).ok());
  EXPECT_FALSE(OpenStore(server_->url(), {}).ok());
  setenv(kRedisPasswordVariable, "secret", 1);
  EXPECT_TRUE(OpenStore(server_->url(), {}).ok());
  unsetenv(kRedisPasswordVariable);
}

TEST(RedisUrlTest, EveryPartIsRead) {
  const auto full = ParseRedisUrl("redis://:pass:w@rd@host:7000/3");
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(full->password, "pass:w@rd");
  EXPECT_EQ(full->host, "host");
  EXPECT_EQ(full->port, 7000);
  EXPECT_EQ(full->database, 3);
  const auto bare = ParseRedisUrl("redis://host");
  ASSERT_TRUE(bare.ok());
  EXPECT_EQ(bare->port, 6379);
  EXPECT_EQ(ParseRedisUrl("unix:///run/redis.sock")->path, "/run/redis.sock");
}

TEST(RedisUrlTest, WhatIsNoneIsRefusedWithoutItsPassword) {
  for (const char* url :
       {"", "http://x", "redis://", "redis://host:0", "redis://host:70000",
        "redis://host:x", "redis://host/x", "redis://secret@host", "unix://",
        "redis://:secret@", "redis://host/-1"}) {
    const auto address = ParseRedisUrl(url);
    EXPECT_TRUE(absl::IsInvalidArgument(address.status())) << url;
    EXPECT_EQ(address.status().message().find("secret"), absl::string_view::npos);
  }
}

}  // namespace
}  // namespace goldfinch
