// A replica for tests of sessions: a real scheduler on a fake engine, with threads of its
// own, on a store in memory and a clock that a test moves.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sessions/session_manager.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_engine.h"
#include "tests/fakes/memory_store.h"
#include "tests/scheduler/harness.h"

namespace goldfinch {

inline constexpr auto kLease = std::chrono::seconds(30);

// One that shares nothing: the packaged Abseil is not built for ThreadSanitizer, which
// does not see how threads count the owners of a status.
inline absl::Status Detached(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}
template <typename Value>
absl::StatusOr<Value> Detached(absl::StatusOr<Value> value) {
  if (value.ok()) return value;
  return Detached(value.status());
}

// Calls `start` with a callback and waits for what it is given.
template <typename Result, typename Start>
Result Await(const Start& start) {
  auto promise = std::make_shared<std::promise<Result>>();
  std::future<Result> future = promise->get_future();
  start([promise](Result result) { promise->set_value(Detached(std::move(result))); });
  return future.get();
}

using UseOr = absl::StatusOr<std::shared_ptr<SessionUse>>;
using InfoOr = absl::StatusOr<SessionInfo>;

struct ReplicaOptions {
  FakeEngineOptions engine = {};
  SchedulerOptions scheduler = {};
  SessionOptions sessions = {};
};

// One server's worth of sessions.
class Replica {
 public:
  Replica(const std::string& name, MemoryMedium* medium, const Clock& clock,
          const ReplicaOptions& options = {})
      : Replica(medium == nullptr ? nullptr
                                  : std::make_unique<MemoryStore>(*medium, name, kLease),
                clock, options) {}
  // On a store of the test's own kind; null: none.
  Replica(std::unique_ptr<MemoryStore> store, const Clock& clock,
          const ReplicaOptions& options = {})
      : engine_(options.engine),
        store_(std::move(store)),
        scheduler_(engine_, options.scheduler, clock, observer_),
        manager_(std::make_unique<SessionManager>(scheduler_, engine_, store_.get(),
                                                  clock, options.sessions)) {
    scheduler_.Start();
  }
  ~Replica() {
    engine_.Release();
    scheduler_.Shutdown();
  }

  SessionManager& sessions() { return *manager_; }
  Scheduler& scheduler() { return scheduler_; }
  FakeEngine& engine() { return engine_; }
  MemoryStore& store() { return *store_; }

  UseOr TryCreate(const std::string& tenant = "a") {
    return Await<UseOr>([&](auto done) { manager_->Create(tenant, std::move(done)); });
  }
  std::string Create(const std::string& tenant = "a") {
    const UseOr use = TryCreate(tenant);
    EXPECT_TRUE(use.ok()) << use.status();
    return use.ok() ? (*use)->id() : "";
  }
  UseOr Acquire(const std::string& id, const std::string& tenant = "a") {
    return Await<UseOr>(
        [&](auto done) { manager_->Acquire(tenant, id, std::move(done)); });
  }
  InfoOr Get(const std::string& id, const std::string& tenant = "a") {
    return Await<InfoOr>([&](auto done) { manager_->Get(tenant, id, std::move(done)); });
  }
  InfoOr Park(const std::string& id, const std::string& tenant = "a") {
    return Await<InfoOr>([&](auto done) { manager_->Park(tenant, id, std::move(done)); });
  }
  InfoOr Fork(const std::string& id, const std::string& tenant = "a") {
    return Await<InfoOr>([&](auto done) { manager_->Fork(tenant, id, std::move(done)); });
  }
  absl::Status Delete(const std::string& id, const std::string& tenant = "a") {
    return Await<absl::Status>(
        [&](auto done) { manager_->Delete(tenant, id, std::move(done)); });
  }
  absl::StatusOr<std::string> Export(const std::string& id,
                                     const std::string& tenant = "a") {
    return Export(id, tenant, [](std::int64_t) { return absl::OkStatus(); });
  }
  absl::StatusOr<std::string> Export(const std::string& id, const std::string& tenant,
                                     SessionManager::RoomCallback take_room) {
    return Await<absl::StatusOr<std::string>>([&](auto done) {
      manager_->Export(tenant, id, std::move(take_room), std::move(done));
    });
  }
  InfoOr Import(const std::string& bytes, const std::string& tenant = "a") {
    return Await<InfoOr>(
        [&](auto done) { manager_->Import(tenant, bytes, std::move(done)); });
  }
  std::vector<SessionInfo> List(std::size_t limit = 1000, const std::string& after = "") {
    auto list = Await<absl::StatusOr<std::vector<SessionInfo>>>(
        [&](auto done) { manager_->List("a", after, limit, std::move(done)); });
    EXPECT_TRUE(list.ok()) << list.status();
    return list.ok() ? *list : std::vector<SessionInfo>();
  }

  // A request on `use`, as the server makes one.
  Request RequestOn(SessionUse& use, std::int64_t prompt, std::int64_t tokens,
                    std::uint64_t seed) {
    Request request = Generation(prompt, tokens, seed);
    request.base = use.kept();
    Turn turn;
    turn.max_tokens = tokens;
    turn.sampling = request.sampling;
    turn.ignore_eos = request.ignore_eos;
    request.on_end = use.OnEnd(std::move(turn));
    return request;
  }

  // The step thread stops inside the `count`-th step from now, until Release.
  void BlockInStep(int count) {
    auto left = std::make_shared<int>(count);
    engine_.SetForwardHook([this, left](auto) {
      if (--*left == 0) engine_.BlockForward();
    });
  }
  // Interrupts it there.
  void InterruptInStep(RequestId id) {
    engine_.WaitUntilBlocked();
    scheduler_.Interrupt(id, absl::UnavailableError("interrupted"));
    engine_.Release();
  }

  // Runs a request on `use` and interrupts it in its midst.
  void RunInterrupted(SessionUse& use, std::uint64_t seed) {
    BlockInStep(3);
    const auto submission = scheduler_.Submit(RequestOn(use, 20, 1000, seed));
    ASSERT_TRUE(submission.ok());
    InterruptInStep(submission->id);
    Reader(submission->stream).TakeUntilEnd();
  }

  // One turn of a session: `prompt` tokens of a seed, then `tokens` generated and
  // checked.
  absl::Status Say(const std::string& id, std::int64_t prompt, std::int64_t tokens,
                   std::uint64_t seed, const std::string& tenant = "a") {
    const UseOr use = Acquire(id, tenant);
    if (!use.ok()) return use.status();
    const Request request = RequestOn(**use, prompt, tokens, seed);
    std::vector<TokenId> whole = (*use)->kept()->history();
    whole.insert(whole.end(), request.prompt.begin(), request.prompt.end());
    const auto submission = scheduler_.Submit(request);
    if (!submission.ok()) return submission.status();
    (*use)->SetRequest(submission->id);
    Reader reader(submission->stream);
    reader.TakeUntilEnd();
    if (reader.status().ok()) {
      EXPECT_EQ(reader.tokens(),
                FakeEngine::Expected(whole, request.sampling, request.max_tokens));
    }
    return reader.status();
  }

 private:
  RecordingObserver observer_;
  FakeEngine engine_;
  const std::unique_ptr<MemoryStore> store_;
  Scheduler scheduler_;
  std::unique_ptr<SessionManager> manager_;  // goes before the scheduler
};

// Replicas around one store in memory.
class ReplicaTest : public testing::Test {
 protected:
  std::unique_ptr<Replica> Make(const std::string& name,
                                const ReplicaOptions& options = {}) {
    return std::make_unique<Replica>(name, &medium_, clock_, options);
  }
  // A session of two turns, 50 tokens, of which 25 are stored, too.
  static std::string HeldAndStored(Replica& replica) {
    const std::string id = replica.Create();
    EXPECT_EQ(replica.Say(id, 20, 5, 1), absl::OkStatus());
    EXPECT_TRUE(replica.Park(id).ok());
    EXPECT_EQ(replica.Say(id, 20, 5, 2), absl::OkStatus());
    return id;
  }

  FakeClock clock_;
  MemoryMedium medium_{clock_};
};

}  // namespace goldfinch
