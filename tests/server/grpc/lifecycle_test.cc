// From the first moment to the last: warm-up, health, reflection, draining, ports.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/error_details.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

enum Health { kUnknown = 0, kServing = 1, kNotServing = 2, kNotFound = -1 };

Health HealthOf(const TestServer& server, const std::string& service) {
  std::int32_t answer = kUnknown;
  const grpc::Status status = CheckHealth(server.NewChannel(), service, answer);
  if (status.error_code() == StatusCode::NOT_FOUND) return kNotFound;
  EXPECT_TRUE(status.ok()) << status.error_message();
  return static_cast<Health>(answer);
}

ServerOptions OnFreePorts() {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.metrics = "";
  return options;
}

TEST(HealthTest, IsServingUntilTheDrainBegins) {
  TestServer server;
  for (const char* service :
       {"", "goldfinch.v1.GenerationService", "goldfinch.v1.SessionService"}) {
    EXPECT_EQ(HealthOf(server, service), kServing) << service;
  }
  EXPECT_EQ(HealthOf(server, "another.Service"), kNotFound);
  server.server().BeginDrain();
  for (const char* service :
       {"", "goldfinch.v1.GenerationService", "goldfinch.v1.SessionService"}) {
    EXPECT_EQ(HealthOf(server, service), kNotServing) << service;
  }
}

// A fault that passes is none of its business.
TEST(HealthTest, ADeviceThatIsLostDrainsTheServer) {
  FakeEngine engine({.vocab_size = kTestVocabularySize});
  const SteadyClock clock;
  std::atomic<bool> lost = false, drains = false;
  ServerOptions options = OnFreePorts();
  options.engine_is_lost = [&lost] { return lost.load(); };
  options.on_drain = [&drains] { drains = true; };
  const auto server = Server::Start(options, engine, TestVocabulary(), clock);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::GenerationService::NewStub(
      grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", (*server)->port()),
                                grpc::InsecureChannelCredentials(), DirectChannel()));
  for (const bool for_good : {false, true}) {
    lost = for_good;
    engine.FailForward(1, absl::InternalError("broken"));
    EXPECT_EQ(Generate(*stub, TextRequest("unlucky", 10)).status.error_code(),
              StatusCode::INTERNAL);
    EXPECT_EQ(drains, for_good);
  }
  EXPECT_EQ(Generate(*stub, TextRequest("late", 10)).status.error_code(),
            StatusCode::UNAVAILABLE);
  (*server)->Shutdown(std::chrono::seconds(0));
}

TEST(HealthTest, TheModelAnswersBeforeThePortOpens) {
  FakeEngine engine({.vocab_size = kTestVocabularySize});
  const SteadyClock clock;
  engine.FailForward(1, absl::InternalError("broken"));
  const auto failed = Server::Start(OnFreePorts(), engine, TestVocabulary(), clock);
  ASSERT_FALSE(failed.ok());
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("its first request"));
  const auto server = Server::Start(OnFreePorts(), engine, TestVocabulary(), clock);
  EXPECT_TRUE(server.ok());
  EXPECT_EQ(engine.num_forwards(), 2);

  FakeEngine nonsense({.vocab_size = kTestVocabularySize, .broken_logits = true});
  const auto refused = Server::Start(OnFreePorts(), nonsense, TestVocabulary(), clock);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("its first request: its logits are not finite"));
}

TEST(ReflectionTest, ListsTheServices) {
  TestServer server;
  // ServerReflectionRequest{list_services: ""}: the bytes of a message whose field 7 is
  // an empty string, and of no other.
  const grpc::Slice bytes(std::string("\x3a\x00", 2));
  grpc::ByteBuffer request(&bytes, 1);
  grpc::GenericStub stub(server.NewChannel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  const auto wait = [&] { EXPECT_TRUE(queue.Next(&tag, &ok) && ok); };
  call->StartCall(&call);
  wait();
  call->Write(request, &call);
  wait();
  grpc::ByteBuffer answer;
  call->Read(&answer, &call);
  wait();
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(answer.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& slice : slices) text.append(slice.begin(), slice.end());
  EXPECT_THAT(text, HasSubstr("goldfinch.v1.GenerationService"));
  EXPECT_THAT(text, HasSubstr("goldfinch.v1.SessionService"));
  EXPECT_THAT(text, HasSubstr("grpc.health.v1.Health"));
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, &call);
  queue.Next(&tag, &ok);
}

class DrainTest : public testing::Test {
 protected:
  // A call that is in its first step and stays there until Release.
  std::future<GenerateOutput> StartBlocked(std::int64_t max_tokens) {
    server_.engine().BlockForward();
    auto call = std::async(std::launch::async, [this, max_tokens] {
      v1::GenerateRequest request = TextRequest("running", max_tokens);
      request.mutable_sampling()->set_ignore_eos(true);
      return Generate(server_.stub(), request);
    });
    server_.engine().WaitUntilBlocked();
    return call;
  }

  // So many tokens that a call is not through with them while a test runs.
  static constexpr std::int64_t kEndless = 1000000;

  TestServer server_{{.engine = {.num_pages = kEndless}}};
};

TEST_F(DrainTest, RefusesNewCallsAndFinishesRunningOnes) {
  std::future<GenerateOutput> running = StartBlocked(20);
  server_.server().BeginDrain();
  const grpc::Status refused = Generate(server_.stub(), TextRequest("new", 5)).status;
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  EXPECT_TRUE(grpc::ExtractErrorDetails(refused, &details).ok());
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_TRUE(details.details(0).UnpackTo(&retry));
  grpc::ClientContext context;
  v1::GetModelResponse model;
  EXPECT_EQ(server_.stub().GetModel(&context, {}, &model).error_code(),
            StatusCode::UNAVAILABLE);

  server_.engine().Release();
  server_.server().Shutdown(std::chrono::minutes(5));
  const GenerateOutput output = running.get();
  EXPECT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(TextRequest("running", 20)));
}

TEST_F(DrainTest, EndsWhatIsLeftWithUnavailable) {
  std::future<GenerateOutput> running = StartBlocked(kEndless);
  std::thread shutdown([this] { server_.server().Shutdown(std::chrono::seconds(0)); });
  server_.engine().Release();
  shutdown.join();
  const grpc::Status status = running.get().status;
  EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
}

// Calls of every state, and new ones all the while: each that was accepted gets exactly
// one status of ours. One that arrives while connections close is gRPC's to refuse.
TEST_F(DrainTest, UnderLoadGivesEveryCallOneStatus) {
  std::atomic<int> streaming = 0;
  std::atomic<bool> stop = false;
  std::vector<std::thread> clients;
  for (int i = 0; i < 32; ++i) {
    clients.emplace_back([&, i] {
      v1::GenerateRequest request = TextRequest("load", i % 2 == 0 ? kEndless / 100 : 20);
      request.mutable_sampling()->set_ignore_eos(true);
      while (!stop) {
        grpc::ClientContext context;
        const auto reader = server_.stub().Generate(&context, request);
        v1::GenerateResponse message;
        const bool accepted = reader->Read(&message);
        if (accepted) ++streaming;
        while (reader->Read(&message)) {
        }
        const grpc::Status status = reader->Finish();
        if (!accepted && status.error_code() == StatusCode::CANCELLED) continue;
        EXPECT_THAT(status.error_code(),
                    testing::AnyOf(StatusCode::OK, StatusCode::UNAVAILABLE))
            << status.error_message();
      }
    });
  }
  ASSERT_TRUE(Eventually([&] { return streaming >= 100; }));
  server_.server().Shutdown(std::chrono::seconds(0));
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(DrainTest, HurryUpEndsThePatience) {
  std::future<GenerateOutput> running = StartBlocked(kEndless);
  server_.server().HurryUp();
  std::thread shutdown([this] { server_.server().Shutdown(std::chrono::hours(1)); });
  server_.engine().Release();
  shutdown.join();
  EXPECT_EQ(running.get().status.error_code(), StatusCode::UNAVAILABLE);
}

TEST(PortTest, InUseIsOneClearError) {
  TestServer first({.metrics = "127.0.0.1:0"});
  FakeEngine engine({.vocab_size = kTestVocabularySize});
  const SteadyClock clock;
  ServerOptions options = OnFreePorts();
  options.listen = first.address();
  auto second = Server::Start(options, engine, TestVocabulary(), clock);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(
      std::string(second.status().message()),
      HasSubstr(absl::StrCat("cannot listen on ", first.address(), ": the port is")));

  options = OnFreePorts();
  options.metrics = absl::StrCat("127.0.0.1:", first.server().metrics_port());
  second = Server::Start(options, engine, TestVocabulary(), clock);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(
      std::string(second.status().message()),
      HasSubstr(absl::StrCat("cannot listen on ", options.metrics, " for metrics")));
}

}  // namespace
}  // namespace goldfinch
