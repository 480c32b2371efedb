// Too much of what is good: more requests than the queue holds, more streams than a
// connection may have, more connections than anybody needs, and deadlines that pass
// everywhere. What is accepted is served rightly, the rest is told so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/reflection_service.h"
#include "tests/hostile/attacked_server.h"
#include "tests/hostile/many_calls.h"
#include "tests/hostile/raw_call.h"
#include "tests/hostile/step_gate.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/any_call.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;

constexpr char kGenerate[] = "/goldfinch.v1.GenerationService/Generate";
constexpr char kRefused[] =
    "goldfinch_requests_refused_total{code=\"RESOURCE_EXHAUSTED\"}";

class FloodTest : public AttackedServerTest {
 protected:
  static std::size_t CountEnded(const ManyCalls& calls, StatusCode code) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      count += calls[i].status.has_value() && calls[i].status->error_code() == code;
    }
    return count;
  }
  // One status for each, and what was served is what a call alone would get.
  static void ExpectServedRightly(const ManyCalls& calls) {
    for (std::size_t i = 0; i < calls.size(); ++i) {
      EXPECT_EQ(calls[i].num_ends, 1);
      const std::vector<TokenId> expected = ExpectedTokens(calls[i].request);
      const std::vector<TokenId>& tokens = calls[i].tokens;
      ASSERT_LE(tokens.size(), expected.size());
      if (calls[i].status->ok()) {
        EXPECT_EQ(tokens, expected) << i;
      } else {
        EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin())) << i;
      }
    }
  }
};

TEST_F(FloodTest, OfRequestsFillsTheQueueAndNoMore) {
  constexpr std::size_t kQueue = 8, kCalls = 300;
  TestServerOptions options = RoomyOptions();
  options.scheduler.max_queued_requests = kQueue;
  options.connections.max_streams = kCalls;
  Start(options);
  StepGate gate(engine());
  Witness witness(server());
  gate.HoldAtOnce();
  ASSERT_TRUE(gate.WaitUntilHeld());
  // Nothing leaves the queue now.
  ManyCalls calls(server().NewChannel());
  for (std::size_t i = 0; i < kCalls; ++i) calls.Start(TextRequest(absl::StrCat(i), 10));
  ASSERT_TRUE(calls.WaitForEnds(kCalls - kQueue));
  EXPECT_EQ(server().Metric(kRefused), kCalls - kQueue);
  for (std::size_t i = 0; i < kCalls; ++i) {
    if (!calls[i].status.has_value()) continue;
    EXPECT_EQ(calls[i].status->error_code(), StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_TRUE(CarriesRetryInfo(*calls[i].status));
    EXPECT_TRUE(calls[i].tokens.empty());
  }
  gate.Release();
  ASSERT_TRUE(calls.WaitForEnds(kCalls));
  EXPECT_EQ(CountEnded(calls, StatusCode::OK), kQueue);
  ExpectServedRightly(calls);
  witness.Finish();
}

// The library keeps to the limit it was told: more wait on its side.
TEST_F(FloodTest, OfStreamsOnOneConnectionIsServedByTurns) {
  TestServerOptions options = RoomyOptions();
  options.connections.max_streams = 4;
  Start(options);
  Witness witness(server());
  ManyCalls calls(server().NewChannel());
  for (int i = 0; i < 200; ++i) calls.Start(TextRequest(absl::StrCat(i), 10));
  ASSERT_TRUE(calls.WaitForEnds(200));
  EXPECT_EQ(CountEnded(calls, StatusCode::OK), 200u);
  ExpectServedRightly(calls);
  witness.Finish();
}

// Who does not keep to it gets no more for that.
TEST_F(FloodTest, OfStreamsBeyondTheLimitIsCutOff) {
  TestServerOptions options = RoomyOptions();
  options.connections.max_streams = 4;
  Start(options);
  Witness witness(server());
  std::string bytes = Preface();
  const std::string request = EndlessRequest().SerializeAsString();
  for (std::uint32_t stream = 1; stream < 400; stream += 2) {
    bytes += CallFrames(stream, kGenerate, request);
  }
  RawConnection greedy(server().port());
  greedy.Send(bytes);
  witness.ExpectGoesOn();
  EXPECT_LE(server().Metric("goldfinch_requests_running"), 1 + 4);
  greedy.Reset();
  EXPECT_TRUE(
      Eventually([&] { return server().Metric("goldfinch_requests_running") == 1; }));
  witness.Finish();
}

TEST_F(FloodTest, OfConnectionsIsServedAllTheSame) {
  Start();
  Witness witness(server());
  std::vector<std::unique_ptr<ManyCalls>> clients;
  for (int i = 0; i < 60; ++i) {
    clients.push_back(std::make_unique<ManyCalls>(server().NewChannel()));
    clients.back()->Start(TextRequest(absl::StrCat(i), 20));
    clients.back()->Start(TextRequest(absl::StrCat("and ", i), 20));
  }
  for (const auto& client : clients) {
    ASSERT_TRUE(client->WaitForEnds(2));
    EXPECT_EQ(CountEnded(*client, StatusCode::OK), 2u);
    ExpectServedRightly(*client);
  }
  clients.clear();
  witness.Finish();
}

int NumThreads() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Threads:")) return std::atoi(line.c_str() + 8);
  }
  return -1;
}

// Which needs no key, of calls that stay open.
TEST_F(FloodTest, OfReflectionTakesNoThreadsAndIsBounded) {
  constexpr int kCalls = 200;
  constexpr char kReflection[] =
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services("\x3a\x00", 2);
  Start();
  Witness witness(server());
  EXPECT_TRUE(CallAny(server().NewChannel(), kReflection, {}, list_services).ok());
  const int before = NumThreads();
  RawConnection connection(server().port());
  std::string bytes = Preface();
  for (std::uint32_t i = 0; i < kCalls; ++i) {
    bytes += CallFrames(2 * i + 1, kReflection, list_services, /*last=*/false);
  }
  connection.Send(bytes);
  std::string answers;
  while (StreamsAnsweredIn(answers) < kCalls) {
    const std::string some = connection.ReadSome();
    ASSERT_FALSE(some.empty());
    answers += some;
  }
  EXPECT_LT(NumThreads() - before, 20);
  EXPECT_EQ(StreamsEndedIn(answers), kCalls - ReflectionService::kMaxCalls);
  EXPECT_EQ(CallAny(server().NewChannel(), kReflection, {}, list_services).error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  witness.ExpectGoesOn();
  connection.Reset();
  EXPECT_TRUE(Eventually([&] {
    return CallAny(server().NewChannel(), kReflection, {}, list_services).ok();
  }));
  witness.Finish();
}

// Requests of many lengths whose deadlines pass anywhere: before they arrive, in the
// queue, in the prompt, in the answer, or not at all.
TEST_F(FloodTest, OfDeadlinesEndsEachCallOnce) {
  TestServerOptions options = RoomyOptions();
  options.engine.num_slots = 4;
  options.scheduler.step_tokens = 64;
  Start(options);
  Witness witness(server());
  std::mt19937 random(1);
  ManyCalls calls(server().NewChannel());
  for (int i = 0; i < 400; ++i) {
    const std::string text(1 + random() % 2000, static_cast<char>('a' + i % 26));
    calls.Start(TextRequest(text, 1 + static_cast<int>(random() % 2000)),
                std::chrono::microseconds(random() % 30000));
  }
  ASSERT_TRUE(calls.WaitForEnds(400));
  EXPECT_EQ(CountEnded(calls, StatusCode::OK) +
                CountEnded(calls, StatusCode::DEADLINE_EXCEEDED),
            400u);
  EXPECT_GT(CountEnded(calls, StatusCode::DEADLINE_EXCEEDED), 0u);
  ExpectServedRightly(calls);
  witness.Finish();
}

}  // namespace
}  // namespace goldfinch
