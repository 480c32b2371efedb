// Clients that ask for an answer and never take it: a window of nothing, and a call stays
// where it is for as long as its connection lasts. It is broken off, and meanwhile what
// answers hold together has a bound.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/hostile/attacked_server.h"
#include "tests/hostile/raw_call.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;

constexpr char kHistory[] = "/goldfinch.v1.SessionService/GetSessionHistory";

class UnreadAnswerTest : public AttackedServerTest {
 protected:
  static TestServerOptions Options() {
    TestServerOptions options = RoomyOptions();
    options.scheduler.slow_reader = std::chrono::seconds(1);
    return options;
  }

  // Calls the method on a stream of its own, and reads until the headers of its answer or
  // a status have come.
  void Call(const std::string& method, const std::string& message) {
    connection().Send(CallFrames(2 * num_calls_ + 1, method, message));
    ++num_calls_;
    ReadUntil([this] { return StreamsAnsweredIn(read_) == num_calls(); });
  }
  template <typename Condition>
  void ReadUntil(const Condition& condition) {
    while (!condition()) {
      const std::string some = connection().ReadSome();
      ASSERT_FALSE(some.empty()) << "the connection has ended";
      read_ += some;
    }
  }
  int num_calls() const { return static_cast<int>(num_calls_); }

  // One that takes no answers.
  RawConnection& connection() {
    if (connection_ == nullptr) {
      connection_ = std::make_unique<RawConnection>(server().port());
      connection_->Send(PrefaceWithoutWindow());
    }
    return *connection_;
  }

  grpc::Status History(const v1::GetSessionHistoryRequest& request) {
    grpc::ClientContext context;
    v1::GetSessionHistoryResponse response;
    return Checked(server().sessions().GetSessionHistory(&context, request, &response));
  }

  std::uint32_t num_calls_ = 0;
  std::string read_;

 private:
  std::unique_ptr<RawConnection> connection_;
};

TEST_F(UnreadAnswerTest, IsBrokenOffWhateverTheMethod) {
  Start(Options());
  const std::string id = CreateSession(server(), "some text")->id();
  v1::GetSessionHistoryRequest history;
  history.set_session_id(id);
  v1::ForkSessionRequest fork;
  fork.set_session_id(id);
  v1::TokenizeRequest tokenize;
  tokenize.set_text(std::string(50000, 'x'));
  v1::DetokenizeRequest detokenize;
  detokenize.mutable_tokens()->Resize(50000, 7);
  v1::ScoreRequest score;
  score.set_continuation_text("x");
  v1::AppendToSessionRequest append;
  append.set_session_id(id);
  append.set_text("x");
  const std::string generation = "/goldfinch.v1.GenerationService/";
  const std::string sessions = "/goldfinch.v1.SessionService/";
  const std::vector<std::pair<std::string, std::string>> calls = {
      {sessions + "GetSessionHistory", history.SerializeAsString()},
      {sessions + "ForkSession", fork.SerializeAsString()},
      {sessions + "ListSessions", ""},
      {sessions + "CreateSession", ""},
      {sessions + "AppendToSession", append.SerializeAsString()},
      {generation + "Tokenize", tokenize.SerializeAsString()},
      {generation + "Detokenize", detokenize.SerializeAsString()},
      {generation + "Score", score.SerializeAsString()},
      {generation + "GetModel", ""},
  };
  for (const auto& [method, message] : calls) Call(method, message);
  ReadUntil([this] { return StreamsEndedIn(read_) == num_calls(); });
  EXPECT_EQ(std::ranges::count(FrameTypesIn(read_), FrameType::kReset), num_calls());
  // Nor is any of them waited for.
  server().server().Shutdown(std::chrono::minutes(5));
  Start();  // for what is looked at afterwards
}

TEST_F(UnreadAnswerTest, HoldsUpNoDrain) {
  TestServerOptions options = Options();
  options.store = &store_;
  Start(options);
  v1::TokenizeRequest request;
  request.set_text(std::string(50000, 'x'));
  Call("/goldfinch.v1.GenerationService/Tokenize", request.SerializeAsString());
  auto drained = std::async(std::launch::async,
                            [&] { server().server().Shutdown(std::chrono::minutes(5)); });
  EXPECT_EQ(drained.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  Start();
}

// Of tiny requests for large answers, whatever their number, no more are held than there
// is room for one tenant; when they are given up all is as before.
TEST_F(UnreadAnswerTest, HoldsNoMoreThanItsTenantsRoom) {
  constexpr std::uint32_t kCalls = 200;
  constexpr std::int64_t kTokens = 65536;  // of a byte, with an id of another
  TestServerOptions options = RoomyOptions(clock_);
  options.scheduler.max_context_tokens = kTokens;
  options.transfer_bytes = 1;  // then it is that of the largest snapshot
  Start(options);
  const std::int64_t room = MaxSnapshotBytes(engine().info(), kTokens);
  const SessionOr session = CreateSession(server(), std::string(kTokens, 'x'));
  ASSERT_TRUE(session.ok()) << session.status();
  v1::GetSessionHistoryRequest request;
  request.set_session_id(session->id());
  request.set_page_size(kTokens);

  while (num_calls_ < kCalls) Call(kHistory, request.SerializeAsString());
  const std::int64_t held = num_calls() - StreamsEndedIn(read_);
  EXPECT_LE(held * 4 * kTokens, room - room / 4) << "as a message and as bytes";
  EXPECT_GT((held + 2) * 4 * kTokens, room - room / 4);
  EXPECT_EQ(History(request).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  request.set_page_size(100);
  EXPECT_TRUE(History(request).ok()) << "small ones are not counted";
  connection().Reset();
  request.set_page_size(kTokens);
  EXPECT_TRUE(Eventually([&] { return History(request).ok(); }));
  EXPECT_TRUE(DeleteSession(server(), session->id()).ok());
}

}  // namespace
}  // namespace goldfinch
