// The server program under load while the system is hard on it: signals, clients that are
// killed, files that run out. Each call gets one status, the program ends with 0.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/hostile/attacked_server.h"
#include "tests/hostile/checked_status.h"
#include "tests/hostile/raw_call.h"
#include "tests/hostile/real_server.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::AnyOf;

constexpr std::int64_t kEndless = 100000;

std::vector<TokenId> TokensOf(const RealServer& server,
                              const v1::GenerateRequest& request) {
  const auto stub = v1::GenerationService::NewStub(server.NewChannel());
  const GenerateOutput output = Generate(*stub, request);
  EXPECT_TRUE(output.status.ok()) << output.status.error_message();
  return output.candidates[0].tokens;
}

// A client that streams without end on a thread of its own and keeps what it got.
class Stream {
 public:
  Stream(const RealServer& server, const v1::GenerateRequest& request)
      : stub_(v1::GenerationService::NewStub(server.NewChannel())),
        thread_([this, request] { Read(request); }) {}
  ~Stream() {
    if (!thread_.joinable()) return;
    context_.TryCancel();
    thread_.join();
  }

  bool GetsMore() const {
    const std::size_t before = count_;
    return Eventually([&] { return count_ > before + 5; });
  }
  grpc::Status Wait() {
    thread_.join();
    return status_;
  }
  const std::vector<TokenId>& tokens() const { return tokens_; }  // after Wait

 private:
  void Read(const v1::GenerateRequest& request) {
    const auto reader = stub_->Generate(&context_, request);
    for (v1::GenerateResponse message; reader->Read(&message);) {
      tokens_.insert(tokens_.end(), message.tokens().begin(), message.tokens().end());
      count_ = tokens_.size();
    }
    status_ = Checked(reader->Finish());
  }

  const std::unique_ptr<v1::GenerationService::Stub> stub_;
  grpc::ClientContext context_;
  std::vector<TokenId> tokens_;
  grpc::Status status_;
  std::atomic<std::size_t> count_ = 0;
  std::thread thread_;
};

bool StartsWith(const std::vector<TokenId>& whole, const std::vector<TokenId>& part) {
  return part.size() <= whole.size() &&
         std::equal(part.begin(), part.end(), whole.begin());
}

// Callers of everything, again and again, until they are told that the server is gone.
class Load {
 public:
  explicit Load(const RealServer& server) {
    for (int i = 0; i < 8; ++i) {
      threads_.emplace_back([this, &server, i] { Call(server.NewChannel(), i); });
    }
  }
  ~Load() { Join(); }
  void Join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  bool WaitForAnswers(int count) {
    return Eventually([&] { return answers_ >= count; });
  }

 private:
  void Call(const std::shared_ptr<grpc::Channel>& channel, int index) {
    const auto stub = v1::GenerationService::NewStub(channel);
    while (true) {
      grpc::ClientContext context;
      grpc::Status status;
      if (index % 4 == 3) {
        v1::ScoreRequest request;
        request.set_context_text("Once upon");
        request.set_continuation_text(" a time");
        v1::ScoreResponse response;
        status = stub->Score(&context, request, &response);
      } else {
        const auto reader =
            stub->Generate(&context, GreedyRequest("The", index % 4 == 0 ? kEndless : 5));
        v1::GenerateResponse message;
        while (reader->Read(&message)) ++answers_;
        status = reader->Finish();
      }
      ++answers_;
      if (Checked(status).ok()) continue;
      // CANCELLED: gRPC's own, for a call that came while connections were closed.
      EXPECT_THAT(status.error_code(),
                  AnyOf(StatusCode::UNAVAILABLE, StatusCode::CANCELLED))
          << status.error_message();
      return;
    }
  }

  std::atomic<int> answers_ = 0;
  std::vector<std::thread> threads_;
};

// I5 by the log: as many ends as requests, each with one of the statuses it may have.
void ExpectEndsInOrder(const ProgramOutput& output) {
  EXPECT_EQ(output.exit_code, 0) << output.err;
  for (const auto& [status, count] : CallEnds(LogLines(output.err))) {
    EXPECT_THAT(status, AnyOf("OK", "UNAVAILABLE", "CANCELLED")) << count;
  }
}

TEST(SigtermTest, UnderLoadEndsEachCallOnce) {
  TemporaryFolder store;
  for (const bool with_store : {false, true}) {
    SCOPED_TRACE(with_store);
    std::vector<std::string> flags = {"--drain_seconds=1"};
    if (with_store) {
      // Half of it is for calls to end by themselves, half to park those that do not.
      flags = {"--drain_seconds=6", "--session_store=" + store.path()};
    }
    RealServer server(flags);
    Load load(server);
    ASSERT_TRUE(load.WaitForAnswers(100));
    server.program().Signal(SIGTERM);
    load.Join();
    ExpectEndsInOrder(server.program().Wait());
  }
  // What was interrupted is there, whole; what was being written is not left behind.
  int parked = 0;
  for (const std::string& name : store.Names()) {
    EXPECT_THAT(name, testing::Not(testing::EndsWith(".tmp")));
    parked += name.ends_with(".snapshot") ? 1 : 0;
  }
  EXPECT_GE(parked, 1) << "some of the calls never end";
}

TEST(SigtermTest, ASecondOneEndsTheDrainAtOnce) {
  RealServer server({"--drain_seconds=3600"});
  const std::vector<TokenId> expected = TokensOf(server, GreedyRequest("The", 300));
  Stream one(server, GreedyRequest("The", kEndless));
  Stream two(server, GreedyRequest("Once", kEndless));
  ASSERT_TRUE(one.GetsMore() && two.GetsMore());
  server.program().Signal(SIGTERM);
  const auto channel = server.NewChannel();
  ASSERT_TRUE(Eventually([&] { return !IsServing(channel); }));
  // New calls are refused, those that run go on.
  const auto stub = v1::GenerationService::NewStub(channel);
  const grpc::Status refused = Checked(Generate(*stub, GreedyRequest("x", 1)).status);
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(CarriesRetryInfo(refused));
  EXPECT_TRUE(one.GetsMore());
  server.program().Signal(SIGTERM);
  for (Stream* stream : {&one, &two}) {
    const grpc::Status status = stream->Wait();
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
    EXPECT_TRUE(CarriesRetryInfo(status));
  }
  std::vector<TokenId> start = one.tokens();
  start.resize(std::min(start.size(), expected.size()));
  EXPECT_TRUE(StartsWith(expected, start));
  ExpectEndsInOrder(server.program().Wait());
}

TEST(KilledClientTest, LeavesNothingBehind) {
  RealServer server({"--max_sequences=2"});
  const auto request = GreedyRequest("It was a dark night", 30);
  const std::vector<TokenId> alone = TokensOf(server, request);
  const std::vector<std::string> endless = {
      "generate", "--prompt=The", absl::StrCat("--max_tokens=", kEndless), "--ignore_eos",
      "--server=" + server.address()};
  for (int round = 0; round < 3; ++round) {
    Program reads("goldfinch", endless), reads_too("goldfinch", endless);
    ASSERT_TRUE(Eventually(
        [&] { return !reads.OutSoFar().empty() && !reads_too.OutSoFar().empty(); }));
    Program waits("goldfinch", endless);
    ASSERT_TRUE(Eventually([&] {
      return server.Metric("goldfinch_requests_waiting{reason=\"admission\"}") == 1;
    }));
    for (Program* client : {&waits, &reads, &reads_too}) client->Signal(SIGKILL);
    EXPECT_TRUE(server.BecomesIdle());
    EXPECT_EQ(TokensOf(server, request), alone);
  }
  EXPECT_EQ(server.Metric("goldfinch_requests_finished_total{reason=\"cancelled\"}"), 9);
}

// No more connections than files, and the server is back when there are some again.
TEST(FilesTest, ThatRunOutAreWaitedFor) {
  RealServer server;
  const auto request = GreedyRequest("It was a dark night", 30);
  const std::vector<TokenId> alone = TokensOf(server, request);
  Stream stream(server, GreedyRequest("The", kEndless));
  ASSERT_TRUE(stream.GetsMore());
  const auto open = static_cast<rlim_t>(server.Metric("process_open_fds"));
  rlimit before{};
  ASSERT_EQ(prlimit(server.program().pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few = {.rlim_cur = open + 10, .rlim_max = before.rlim_max};
  ASSERT_EQ(prlimit(server.program().pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<RawConnection>> connections;
    for (int i = 0; i < 100; ++i) {
      connections.push_back(std::make_unique<RawConnection>(server.port()));
      ASSERT_TRUE(connections.back()->connected());  // by the system
      connections.back()->Send(Preface());
    }
    // The last one was not left waiting.
    EXPECT_EQ(connections.back()->ReadToEnd(), "");
    EXPECT_TRUE(stream.GetsMore());
  }
  ASSERT_EQ(prlimit(server.program().pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_TRUE(IsServing(server.NewChannel()));
  EXPECT_EQ(TokensOf(server, request), alone);
  EXPECT_TRUE(stream.GetsMore());
}

// Connections leave some files to the server itself: it can be scraped, which takes one,
// and looks at what the system says of it, which takes others.
TEST(FilesTest, TheLastOnesAreNotForConnections) {
  constexpr rlim_t kMore = 200, kReserved = 50;
  RealServer server;
  const auto open = static_cast<rlim_t>(server.Metric("process_open_fds"));
  const rlim_t most = open + kMore;
  rlimit before{};
  ASSERT_EQ(prlimit(server.program().pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few = {.rlim_cur = most, .rlim_max = before.rlim_max};
  ASSERT_EQ(prlimit(server.program().pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  std::vector<std::unique_ptr<RawConnection>> connections;
  for (rlim_t i = 0; i < 2 * kMore; ++i) {
    connections.push_back(std::make_unique<RawConnection>(server.port()));
    ASSERT_TRUE(connections.back()->connected());  // by the system
    connections.back()->Send(Preface());
  }
  EXPECT_EQ(connections.back()->ReadToEnd(), "");
  const auto taken = static_cast<rlim_t>(server.Metric("process_open_fds"));
  EXPECT_GT(taken, open + kMore / 2);
  EXPECT_LE(taken, most - kReserved);
  connections.clear();
  EXPECT_TRUE(IsServing(server.NewChannel()));
}

// Numbers that are almost none, through the arithmetic of a real model.
TEST(TinyNumbersTest, WorkAndAreNeverNaN) {
  RealServer server;
  const auto stub = v1::GenerationService::NewStub(server.NewChannel());
  v1::GenerateRequest request = GreedyRequest("It was a dark night", 12);
  request.mutable_sampling()->set_logprobs(20);
  request.mutable_sampling()->set_seed(7);
  const std::vector<TokenId> greedy = TokensOf(server, request);
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  for (const float temperature : {kTiny, 1e-38f, 1e-20f, 9.9e-6f, 1e-5f, 1e-4f}) {
    SCOPED_TRACE(temperature);
    request.mutable_sampling()->set_temperature(temperature);
    for (const bool penalties : {false, true}) {
      if (penalties) {
        request.mutable_sampling()->set_repetition_penalty(kTiny);
        request.mutable_sampling()->set_frequency_penalty(-100);
        request.mutable_sampling()->set_presence_penalty(100);
        request.mutable_sampling()->set_min_p(kTiny);
        request.mutable_sampling()->set_top_p(kTiny);
      }
      const GenerateOutput output = Generate(*stub, request);
      ASSERT_TRUE(output.status.ok()) << output.status.error_message();
      const CandidateOutput& candidate = output.candidates[0];
      if (!penalties) {
        EXPECT_EQ(candidate.tokens, greedy);
      }
      ASSERT_EQ(candidate.logprobs.size(), 12u);
      for (const v1::TokenLogprobs& logprobs : candidate.logprobs) {
        EXPECT_TRUE(std::isfinite(logprobs.logprob()));
        EXPECT_LE(logprobs.logprob(), 0);
        for (const v1::TokenLogprob& top : logprobs.top()) {
          EXPECT_TRUE(std::isfinite(top.logprob()));
        }
      }
    }
    request = GreedyRequest("It was a dark night", 12);
    request.mutable_sampling()->set_logprobs(20);
    request.mutable_sampling()->set_seed(7);
  }
  EXPECT_TRUE(server.BecomesIdle());
}

}  // namespace
}  // namespace goldfinch
