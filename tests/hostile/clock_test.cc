// A clock that jumps ahead by far while requests run, wait and are paused. Only what has
// a limit in time ends by it. (It never goes back: scheduler/clock.h is a steady one.)
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
    TestServerOptions options = RoomyOptions(clock_);
    options.engine.num_slots = slots;
    options.sessions = sessions;
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

// What runs and waits without a limit, over many jumps.
TEST_F(ClockTest, JumpsChangeNoToken) {
  Begin(/*slots=*/8);
  const auto long_request = [] {
    v1::GenerateRequest request = EndlessRequest();
    request.mutable_sampling()->set_max_tokens(20000);
    return request;
  }();
  auto runs = std::async(std::launch::async,
                         [&] { return CheckedGenerate(server(), long_request); });
  // In the queue there is a limit, which the first jump would pass.
  ASSERT_TRUE(Becomes(kRunning, 2));
  for (int i = 0; i < 40; ++i) {
    clock_.Advance(std::chrono::hours(1000));
    const auto request = TextRequest("request " + std::to_string(i), 20);
    const GenerateOutput output = CheckedGenerate(server(), request);
    ASSERT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
  }
  EXPECT_EQ(runs.get().candidates[0].tokens, ExpectedTokens(long_request));
}

// Sessions that have a time to live are gone when it is over, whatever the clock did, and
// not before it.
TEST_F(ClockTest, SessionsLiveByIt) {
  SessionOptions sessions;
  sessions.time_to_live = std::chrono::hours(24);
  Begin(/*slots=*/8, sessions);
  const std::string id = CreateSession(server(), "text")->id();
  clock_.Advance(std::chrono::hours(23));
  EXPECT_TRUE(Generate(server().stub(), TurnRequest(id, "x", 3)).status.ok());
  clock_.Advance(std::chrono::hours(25));
  EXPECT_TRUE(
      Eventually([&] { return absl::IsNotFound(GetSession(server(), id).status()); }));
}

}  // namespace
}  // namespace goldfinch
