// What is right and cannot be done now: full queues, used up quotas, deadlines that pass
// and a server that ends. RESOURCE_EXHAUSTED and UNAVAILABLE say when to try again,
// unless it is the caller who must make room first.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/hostile/attacked_server.h"
#include "tests/hostile/step_gate.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/session_client.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr char kCancelled[] = "goldfinch_requests_finished_total{reason=\"cancelled\"}";
constexpr char kWaiting[] = "goldfinch_requests_waiting{reason=\"admission\"}";

void ExpectTryAgain(const grpc::Status& status, StatusCode code, const char* message) {
  EXPECT_EQ(Checked(status).error_code(), code);
  EXPECT_THAT(status.error_message(), HasSubstr(message));
  EXPECT_TRUE(CarriesRetryInfo(status)) << status.error_message();
}

// Only the caller can make room, so waiting is of no use.
void ExpectMakeRoom(const grpc::Status& status, const char* message) {
  EXPECT_EQ(Checked(status).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr(message));
  EXPECT_FALSE(CarriesRetryInfo(status)) << status.error_message();
}

// A server with one slot, which the witness has, so that everything else waits.
class FullServerTest : public AttackedServerTest {
 protected:
  void Begin(const std::function<void(TestServerOptions&)>& change) {
    TestServerOptions options = RoomyOptions(clock_);
    options.engine.num_slots = 1;
    change(options);
    Start(options);
    witness_ = std::make_unique<Witness>(server());
  }
  void TearDown() override {
    witness_.reset();
    AttackedServerTest::TearDown();
  }

  std::future<GenerateOutput> Waits(const v1::GenerateRequest& request) {
    const double before = server().Metric(kWaiting);
    auto call = std::async(std::launch::async, [this, request] {
      return CheckedGenerate(server(), request);
    });
    EXPECT_TRUE(Eventually([&] { return server().Metric(kWaiting) == before + 1; }));
    return call;
  }
  // The witness gives up its slot.
  void LetWaitingOnesRun() { witness_->Finish(); }

  std::unique_ptr<Witness> witness_;
};

TEST_F(FullServerTest, RefusesRequestsBeyondItsQueueAtOnce) {
  Begin([](auto& options) { options.scheduler.max_queued_requests = 1; });
  const auto request = TextRequest("waits", 5);
  auto waiting = Waits(request);
  ExpectTryAgain(Generate(server().stub(), TextRequest("x", 5)).status,
                 StatusCode::RESOURCE_EXHAUSTED, "the limit is 1");
  v1::ScoreRequest score;
  score.set_continuation_text("x");
  grpc::ClientContext context;
  v1::ScoreResponse scores;
  ExpectTryAgain(server().stub().Score(&context, score, &scores),
                 StatusCode::RESOURCE_EXHAUSTED, "the limit is 1");
  ExpectTryAgain(
      CallAny(server().NewChannel(), "/goldfinch.v1.SessionService/CreateSession", {},
              [] {
                v1::CreateSessionRequest create;
                create.set_text("x");
                return create.SerializeAsString();
              }()),
      StatusCode::RESOURCE_EXHAUSTED, "the limit is 1");
  LetWaitingOnesRun();
  EXPECT_EQ(waiting.get().candidates[0].tokens, ExpectedTokens(request));
}

TEST_F(FullServerTest, RefusesTokensBeyondItsQueueAtOnce) {
  Begin([](auto& options) { options.scheduler.max_queued_tokens = 10; });
  const auto request = TextRequest("12345678", 5);
  auto waiting = Waits(request);
  ExpectTryAgain(Generate(server().stub(), TextRequest("123", 5)).status,
                 StatusCode::RESOURCE_EXHAUSTED, "the limit is 10");
  LetWaitingOnesRun();
  EXPECT_EQ(waiting.get().candidates[0].tokens, ExpectedTokens(request));
}

TEST_F(FullServerTest, RefusesWhatWaitedForTooLong) {
  Begin(
      [](auto& options) { options.scheduler.max_queue_time = std::chrono::seconds(60); });
  auto waiting = Waits(TextRequest("waits", 5));
  clock_.Advance(std::chrono::seconds(61));
  ExpectTryAgain(waiting.get().status, StatusCode::RESOURCE_EXHAUSTED,
                 "waited for 60 seconds, which is the limit");
  // Its time in the queue counts, though it came to nothing.
  EXPECT_EQ(server().Metric("goldfinch_request_queue_seconds_sum{kind=\"generate\"}"),
            61);
}

// It used no step: the witness's are the only ones of one token.
TEST_F(FullServerTest, EndsWhatIsLateInTheQueueWithoutAStep) {
  Begin([](auto&) {});
  const double prompt_tokens =
      server().Metric("goldfinch_step_tokens_total{kind=\"prompt\"}");
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
  auto waiting = std::async(std::launch::async, [&] {
    return CheckedGenerate(server(), TextRequest("late", 5), &context);
  });
  ASSERT_TRUE(Eventually([&] { return server().Metric(kWaiting) == 1; }));
  // The server's hour is over before the client's.
  clock_.Advance(std::chrono::hours(2));
  const grpc::Status status = waiting.get().status;
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(status.error_message(), "the deadline passed in the queue");
  EXPECT_EQ(server().Metric("goldfinch_step_tokens_total{kind=\"prompt\"}"),
            prompt_tokens);
  LetWaitingOnesRun();
  ExpectEnds({{"cancelled", 1}, {"deadline_exceeded", 1}});
}

// And with the client's own clock, which the status then may come from.
TEST_F(FullServerTest, EndsWhatIsLateForItsClientToo) {
  Begin([](auto&) {});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  EXPECT_EQ(
      CheckedGenerate(server(), TextRequest("late", 5), &context).status.error_code(),
      StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Eventually([&] { return server().Metric(kWaiting) == 0; }));
  LetWaitingOnesRun();
  // The witness: what its client gave up at its deadline was late, if it arrived at all.
  EXPECT_TRUE(Eventually([&] { return server().Metric(kCancelled) > 0; }));
  EXPECT_EQ(server().Metric(kCancelled), 1);
}

// A client that passes its deadline cancels its call, like one that has had enough: when
// it does so tells them apart.
TEST_F(FullServerTest, CountsAsLateWhoLeavesAtItsDeadlineAndNobodyElse) {
  Begin([](auto& options) { options.scheduler.max_queue_time = std::chrono::hours(24); });
  const auto generate = [&](grpc::ClientContext& context) {
    return CheckedGenerate(server(), TextRequest("gives up", 5), &context).status;
  };
  const auto score = [&](grpc::ClientContext& context) {
    v1::ScoreRequest request;
    request.set_continuation_text("gives up");
    v1::ScoreResponse response;
    return server().stub().Score(&context, request, &response);
  };
  const auto create = [&](grpc::ClientContext& context) {
    v1::CreateSessionRequest request;
    request.set_text("gives up");
    v1::CreateSessionResponse response;
    return server().sessions().CreateSession(&context, request, &response);
  };
  const std::array<std::function<grpc::Status(grpc::ClientContext&)>, 3> methods = {
      generate, score, create};
  // Waits with a deadline in an hour, of which so much passes before its client leaves.
  const auto leave_after = [&](const auto& method, std::chrono::nanoseconds passes) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
    auto call = std::async(std::launch::async, [&] { return method(context); });
    EXPECT_TRUE(Eventually([&] { return server().Metric(kWaiting) == 1; }));
    clock_.Advance(passes);
    context.TryCancel();
    call.get();
    EXPECT_TRUE(Eventually([&] { return server().Metric(kWaiting) == 0; }));
  };
  // gRPC may make ten seconds more of the hour.
  for (const auto& method : methods) leave_after(method, std::chrono::minutes(59));
  ExpectEnds({{"cancelled", 3}});
  for (const auto& method : methods) {
    leave_after(method, std::chrono::hours(1) - std::chrono::seconds(10));
  }
  LetWaitingOnesRun();
  ExpectEnds({{"cancelled", 4}, {"deadline_exceeded", 3}});
}

// Of two tenants, one with limits of 1 or so.
class QuotaTest : public AttackedServerTest {
 protected:
  void Begin(const std::string& limits,
             const std::function<void(TestServerOptions&)>& change = nullptr) {
    file_ = std::make_unique<TenantFile>(
        TenantEntry("bounded-tenant", "key-of-bounded", ", \"limits\": " + limits) + "," +
        TenantEntry("other-tenant", kOther));
    tenants_ = TenantDirectory::Load(file_->path()).value();
    TestServerOptions options = RoomyOptions();
    options.tenants = tenants_.get();
    if (change) change(options);
    key_ = kOther;
    Start(options);
    witness_ = std::make_unique<Witness>(server().NewChannel(), kOther);
  }
  void TearDown() override {
    witness_.reset();
    AttackedServerTest::TearDown();
  }

  static std::unique_ptr<grpc::ClientContext> Bounded() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", "Bearer key-of-bounded");
    return context;
  }
  grpc::Status Call(const v1::GenerateRequest& request) {
    return CheckedGenerate(server(), request, Bounded().get()).status;
  }
  grpc::Status Create() {
    v1::CreateSessionResponse response;
    const grpc::Status status =
        Checked(server().sessions().CreateSession(Bounded().get(), {}, &response));
    if (status.ok()) sessions_.push_back(response.session().id());
    return status;
  }
  void DeleteSessions() {
    for (const std::string& id : sessions_) {
      v1::DeleteSessionRequest request;
      request.set_session_id(id);
      v1::DeleteSessionResponse response;
      EXPECT_TRUE(
          server().sessions().DeleteSession(Bounded().get(), request, &response).ok());
    }
  }

  static constexpr char kOther[] = "key-of-other";
  std::unique_ptr<TenantFile> file_;
  std::unique_ptr<TenantDirectory> tenants_;
  std::unique_ptr<Witness> witness_;
  std::vector<std::string> sessions_;
};

TEST_F(QuotaTest, OfTokensAMinute) {
  Begin("{\"max_tokens_per_minute\": 10}");
  EXPECT_TRUE(Call(TextRequest("0123456789", 5)).ok());
  ExpectTryAgain(Call(TextRequest("x", 1)), StatusCode::RESOURCE_EXHAUSTED, "10");
}

TEST_F(QuotaTest, OfQueuedRequestsAndTokens) {
  Begin(
      "{\"max_running_requests\": 1, \"max_queued_requests\": 2, "
      "\"max_queued_tokens\": 10}");
  // One runs, one waits.
  const auto running_context = Bounded();
  const auto running =
      server().stub().Generate(running_context.get(), EndlessRequest("runs"));
  v1::GenerateResponse message;
  ASSERT_TRUE(running->Read(&message));
  const auto waits = [&](const char* text) {
    const double before = server().Metric(kWaiting);
    auto call = std::async(std::launch::async,
                           [this, text] { return Call(TextRequest(text, 1)); });
    EXPECT_TRUE(Eventually([&] { return server().Metric(kWaiting) == before + 1; }));
    return call;
  };
  auto first = waits("12345");
  ExpectTryAgain(Call(TextRequest("123456", 1)), StatusCode::RESOURCE_EXHAUSTED,
                 "the limit is 10");
  auto second = waits("12");
  ExpectTryAgain(Call(TextRequest("1", 1)), StatusCode::RESOURCE_EXHAUSTED,
                 "the limit is 2");
  witness_->ExpectGoesOn();
  running_context->TryCancel();
  while (running->Read(&message)) {
  }
  running->Finish();
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(second.get().ok());
}

TEST_F(QuotaTest, OfSessions) {
  Begin("{\"max_sessions\": 2}");
  EXPECT_TRUE(Create().ok());
  EXPECT_TRUE(Create().ok());
  ExpectMakeRoom(Create(), "the limit is 2");
  v1::ForkSessionRequest fork;
  fork.set_session_id(sessions_[0]);
  v1::ForkSessionResponse response;
  ExpectMakeRoom(server().sessions().ForkSession(Bounded().get(), fork, &response),
                 "the limit is 2");
  DeleteSessions();
}

TEST_F(QuotaTest, OfSessionsOfAllTenants) {
  Begin("{}", [](auto& options) { options.sessions.max_sessions = 1; });
  EXPECT_TRUE(Create().ok());
  ExpectTryAgain(Create(), StatusCode::RESOURCE_EXHAUSTED, "the limit is 1");
  DeleteSessions();
}

TEST_F(QuotaTest, OfPromptsAndPrioritiesIsInvalid) {
  Begin("{\"max_prompt_tokens\": 3, \"max_priority\": 1}");
  EXPECT_EQ(Call(TextRequest("1234", 1)).error_code(), StatusCode::INVALID_ARGUMENT);
  v1::GenerateRequest request = TextRequest("123", 1);
  request.set_priority(2);
  EXPECT_EQ(Call(request).error_code(), StatusCode::INVALID_ARGUMENT);
  request.set_priority(1);
  EXPECT_TRUE(Call(request).ok());
}

// UNAVAILABLE from the first moment of a drain on, on every method.
TEST(DrainingTest, RefusesEveryMethodAndSaysWhenToTryAgain) {
  TestServer server(RoomyOptions());
  Witness witness(server);
  server.server().BeginDrain();
  const auto channel = server.NewChannel();
  for (const std::string& method : AllMethods()) {
    SCOPED_TRACE(method);
    ExpectTryAgain(CallAny(channel, method), StatusCode::UNAVAILABLE,
                   "the server is shutting down");
  }
  EXPECT_FALSE(IsServing(channel));
  witness.Finish();
  EXPECT_TRUE(server.BecomesIdle());
}

}  // namespace
}  // namespace goldfinch
