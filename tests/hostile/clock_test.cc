// A clock that jumps, forwards by far and backwards, while requests run, wait and are
// paused. Only what has a limit in time ends by it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "tests/hostile/attacked_server.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;

constexpr char kRunning[] = "goldfinch_requests_running";
constexpr char kWaiting[] = "goldfinch_requests_waiting{reason=\"admission\"}";
constexpr auto kYear = std::chrono::hours(24 * 365);

class ClockTest : public AttackedServerTest {
 protected:
  void Begin(int slots, const SessionOptions& sessions = {}) {
    TestServerOptions options = RoomyOptions();
    options.engine.num_slots = slots;
    options.sessions = sessions;
    options.clock = &clock_;
    Start(options);
    witness_ = std::make_unique<Witness>(server());
  }
  void TearDown() override {
    witness_.reset();
    AttackedServerTest::TearDown();
  }

  // A call whose deadline is an hour away, for its client.
  std::future<grpc::Status> CallWithAnHour(const v1::GenerateRequest& request) {
    return std::async(std::launch::async, [this, request] {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
      return CheckedGenerate(server(), request, &context).status;
    });
  }
  bool Becomes(const char* metric, double value) {
    return Eventually([&] { return server().Metric(metric) == value; });
  }

  std::unique_ptr<Witness> witness_;
};

// The deadline of what runs, and the limit of what waits; not what has neither.
TEST_F(ClockTest, AYearForwardEndsWhatHasALimit) {
  Begin(/*slots=*/2);
  auto runs = CallWithAnHour(EndlessRequest());
  ASSERT_TRUE(Becomes(kRunning, 2));
  auto waits_with_deadline = CallWithAnHour(TextRequest("waits", 10));
  auto waits = std::async(std::launch::async, [this] {
    return CheckedGenerate(server(), TextRequest("waits", 10)).status;
  });
  ASSERT_TRUE(Becomes(kWaiting, 2));
  clock_.Advance(kYear);
  EXPECT_EQ(runs.get().error_message(), "the deadline passed while the request ran");
  EXPECT_EQ(waits_with_deadline.get().error_message(),
            "the deadline passed in the queue");
  const grpc::Status refused = waits.get();
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(CarriesRetryInfo(refused));
  witness_->Finish();
  ExpectEnds({{"cancelled", 1}, {"deadline_exceeded", 2}, {"resource_exhausted", 1}});
}

TEST_F(ClockTest, BackwardsEndsNothing) {
  Begin(/*slots=*/2);
  clock_.Advance(kYear);
  auto runs = CallWithAnHour([] {
    auto request = EndlessRequest();
    request.mutable_sampling()->set_max_tokens(20000);
    return request;
  }());
  ASSERT_TRUE(Becomes(kRunning, 2));
  const auto waiting = TextRequest("waits", 10);
  auto waits = CallWithAnHour(waiting);
  clock_.Advance(-kYear + std::chrono::hours(1));
  witness_->ExpectGoesOn();
  EXPECT_TRUE(runs.get().ok());
  EXPECT_TRUE(waits.get().ok());
}

// To and fro, with calls of all kinds meanwhile.
TEST_F(ClockTest, JumpingChangesNoToken) {
  Begin(/*slots=*/8);
  for (int i = 0; i < 40; ++i) {
    clock_.Advance(i % 2 == 0 ? std::chrono::hours(1000) : -std::chrono::hours(999));
    const auto request = TextRequest("request " + std::to_string(i), 20);
    const GenerateOutput output = CheckedGenerate(server(), request);
    ASSERT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
  }
}

// Sessions that have a time to live are gone when it is over, whatever the clock did, and
// not before it.
TEST_F(ClockTest, SessionsLiveByIt) {
  SessionOptions sessions;
  sessions.time_to_live = std::chrono::hours(24);
  Begin(/*slots=*/8, sessions);
  const std::string id = CreateSession(server(), "text")->id();
  clock_.Advance(-std::chrono::milliseconds(900));
  EXPECT_TRUE(Generate(server().stub(), TurnRequest(id, "x", 3)).status.ok());
  clock_.Advance(std::chrono::hours(23));
  EXPECT_TRUE(Generate(server().stub(), TurnRequest(id, "x", 3)).status.ok());
  clock_.Advance(std::chrono::hours(25));
  EXPECT_TRUE(Eventually(
      [&] { return absl::IsNotFound(GetSession(server(), id).status()); }));
}

}  // namespace
}  // namespace goldfinch
