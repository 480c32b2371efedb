// Clients that go away, are late, are too many, read slowly or send nonsense: each gets
// one status, the others notice nothing, and no page or slot is left behind.
#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/error_details.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;
using testing::Not;

constexpr char kAborted[] = "goldfinch_requests_finished_total{reason=\"aborted\"}";
constexpr char kCancelled[] = "goldfinch_requests_finished_total{reason=\"cancelled\"}";
constexpr char kPaused[] = "goldfinch_requests_waiting{reason=\"slow_reader\"}";
constexpr char kWaiting[] = "goldfinch_requests_waiting{reason=\"admission\"}";

// Long enough that it never ends by itself while a test looks.
v1::GenerateRequest EndlessRequest() {
  v1::GenerateRequest request = TextRequest("endless", 1000000);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

TestServerOptions RoomForEndless() {
  TestServerOptions options;
  options.engine.num_pages = 100000;
  return options;
}

bool CarriesRetryInfo(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  return grpc::ExtractErrorDetails(status, &details).ok() &&
         details.details_size() == 1 && details.code() == status.error_code() &&
         details.message() == status.error_message() &&
         details.details(0).UnpackTo(&retry) && retry.retry_delay().seconds() > 0;
}

TEST(CancelTest, WhileStreamingFreesEverything) {
  TestServer server(RoomForEndless());
  for (int messages = 1; messages <= 20; ++messages) {
    grpc::ClientContext context;
    const auto reader = server.stub().Generate(&context, EndlessRequest());
    v1::GenerateResponse message;
    for (int i = 0; i < messages; ++i) ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  }
  EXPECT_TRUE(server.BecomesIdle());
  EXPECT_EQ(server.Metric(kCancelled), 20);
}

TEST(CancelTest, BeforeTheFirstTokenFreesEverything) {
  TestServer server;
  server.engine().BlockForward();
  grpc::ClientContext context;
  const auto reader = server.stub().Generate(&context, TextRequest("blocked", 100));
  server.engine().WaitUntilBlocked();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  server.engine().Release();
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(CancelTest, InTheQueueFreesEverything) {
  TestServerOptions options;
  options.engine.num_slots = 1;
  TestServer server(options);
  server.engine().BlockForward();
  std::future<GenerateOutput> first = std::async(std::launch::async, [&] {
    return Generate(server.stub(), TextRequest("first", 10));
  });
  server.engine().WaitUntilBlocked();
  grpc::ClientContext context;
  const auto reader = server.stub().Generate(&context, TextRequest("second", 10));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  server.engine().Release();
  EXPECT_TRUE(first.get().status.ok());
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(CancelTest, OfAScoreFreesEverything) {
  TestServer server;
  server.engine().BlockForward();
  grpc::ClientContext context;
  v1::ScoreRequest request;
  request.set_continuation_text("never scored");
  v1::ScoreResponse response;
  std::future<grpc::Status> status = std::async(std::launch::async, [&] {
    return server.stub().Score(&context, request, &response);
  });
  server.engine().WaitUntilBlocked();
  context.TryCancel();
  EXPECT_EQ(status.get().error_code(), StatusCode::CANCELLED);
  server.engine().Release();
  EXPECT_TRUE(server.BecomesIdle());
}

// Half of the streams are cancelled after a number of messages of their own; the other
// half get the tokens of a server of their own.
TEST(CancelTest, OfSomeStreamsLeavesTheOthersExact) {
  TestServer server(RoomForEndless());
  std::vector<std::thread> threads;
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&server, i] {
      std::mt19937 random(static_cast<unsigned>(i));
      v1::GenerateRequest request = TextRequest("stream " + std::to_string(i), 300);
      if (i % 2 == 0) {
        const GenerateOutput output = Generate(server.stub(), request);
        EXPECT_TRUE(output.status.ok());
        EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
        return;
      }
      for (int round = 0; round < 5; ++round) {
        grpc::ClientContext context;
        const auto reader = server.stub().Generate(&context, EndlessRequest());
        v1::GenerateResponse message;
        for (auto left = random() % 20; left > 0; --left) reader->Read(&message);
        context.TryCancel();
        reader->Finish();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(DeadlineTest, PassesWhileTheRequestRuns) {
  TestServer server(RoomForEndless());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  const GenerateOutput output = Generate(server.stub(), EndlessRequest(), &context);
  EXPECT_EQ(output.status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(DeadlineTest, PassesInTheQueue) {
  TestServerOptions options;
  options.engine.num_slots = 1;
  TestServer server(options);
  server.engine().BlockForward();
  std::future<GenerateOutput> first = std::async(std::launch::async, [&] {
    return Generate(server.stub(), TextRequest("first", 1));
  });
  server.engine().WaitUntilBlocked();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  EXPECT_EQ(
      Generate(server.stub(), TextRequest("late", 10), &context).status.error_code(),
      StatusCode::DEADLINE_EXCEEDED);
  server.engine().Release();
  EXPECT_TRUE(first.get().status.ok());
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(QueueTest, IsRefusedAtOnceWhenFullAndSaysWhenToRetry) {
  TestServerOptions options;
  options.engine.num_slots = 1;
  options.scheduler.max_queued_requests = 1;
  TestServer server(options);
  server.engine().BlockForward();
  const auto generate = [&server] {
    return Generate(server.stub(), TextRequest("one", 5));
  };
  std::future<GenerateOutput> running = std::async(std::launch::async, generate);
  server.engine().WaitUntilBlocked();
  std::future<GenerateOutput> waiting = std::async(std::launch::async, generate);
  // One of the two gets the one place, whichever comes first.
  std::future<GenerateOutput> other = std::async(std::launch::async, generate);
  ASSERT_TRUE(Eventually([&] {
    return server.Metric(
               "goldfinch_requests_refused_total{code=\"RESOURCE_EXHAUSTED\"}") == 1;
  }));
  server.engine().Release();
  EXPECT_TRUE(running.get().status.ok());
  const std::vector<grpc::Status> statuses = {waiting.get().status, other.get().status};
  const grpc::Status& refused = statuses[statuses[0].ok() ? 1 : 0];
  EXPECT_NE(statuses[0].ok(), statuses[1].ok());
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("1"));
  EXPECT_TRUE(CarriesRetryInfo(refused));
  EXPECT_TRUE(server.BecomesIdle());
}

// Many log-probabilities, so that the buffers of a connection fill up soon.
v1::GenerateRequest WideRequest(std::int64_t max_tokens) {
  v1::GenerateRequest request = EndlessRequest();
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_logprobs(20);
  return request;
}

TEST(SlowReaderTest, IsPausedAndGetsEveryTokenWhenItReadsAgain) {
  TestServerOptions options = RoomForEndless();
  options.scheduler.stream_buffer_tokens = 16;
  TestServer server(options);
  const v1::GenerateRequest request = WideRequest(20000);
  grpc::ClientContext context;
  const auto reader = server.stub().Generate(&context, request);
  ASSERT_TRUE(Eventually([&] { return server.Metric(kPaused) == 1; }));
  // The others are not held up by it.
  EXPECT_TRUE(Generate(server.stub(), TextRequest("quick", 50)).status.ok());
  std::vector<TokenId> tokens;
  for (v1::GenerateResponse message; reader->Read(&message);) {
    tokens.insert(tokens.end(), message.tokens().begin(), message.tokens().end());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, ExpectedTokens(request));
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(SlowReaderTest, IsEndedAndItsMemoryFreedWhenItNeverReads) {
  TestServerOptions options = RoomForEndless();
  options.scheduler.stream_buffer_tokens = 16;
  options.scheduler.slow_reader = std::chrono::milliseconds(200);
  TestServer server(options);
  grpc::ClientContext context;
  const auto reader = server.stub().Generate(&context, WideRequest(100000));
  ASSERT_TRUE(Eventually([&] { return server.Metric(kAborted) == 1; }));
  EXPECT_TRUE(server.BecomesIdle());
  // Returns when no call is open: this one is cut off without a single read.
  server.server().Shutdown(std::chrono::hours(1));
  for (v1::GenerateResponse message; reader->Read(&message);) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(DeviceFaultTest, EndsTheCallWithoutDetailsAndTheNextOneWorks) {
  TestServer server;
  server.engine().FailForward(1, absl::InternalError("fault at 0xdead in /secret/path"));
  const GenerateOutput output = Generate(server.stub(), TextRequest("unlucky", 10));
  EXPECT_EQ(output.status.error_code(), StatusCode::INTERNAL);
  EXPECT_THAT(output.status.error_message(), Not(HasSubstr("secret")));
  EXPECT_TRUE(Generate(server.stub(), TextRequest("lucky", 10)).status.ok());
  EXPECT_TRUE(server.BecomesIdle());
  EXPECT_EQ(server.Metric("goldfinch_engine_errors_total"), 1);
}

TEST(MessageTest, LargerThanTheLimitIsRefused) {
  TestServer server;
  const GenerateOutput output =
      Generate(server.stub(), TextRequest(std::string(33 << 20, 'x'), 1));
  EXPECT_EQ(output.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Generate(server.stub(), TextRequest("small", 5)).status.ok());
}

// Bytes that are no message of the method's: a string where a submessage belongs, text
// that is not UTF-8, a field that ends too early.
TEST(MessageTest, GarbageIsRefused) {
  TestServer server;
  using Stub = grpc::TemplatedGenericStub<google::protobuf::BytesValue,
                                          google::protobuf::BytesValue>;
  Stub stub(server.NewChannel());
  for (const char* method : {"Score", "Tokenize", "Detokenize"}) {
    grpc::ClientContext context;
    google::protobuf::BytesValue request;
    // Field 1, length-delimited, as all of these have: not UTF-8, not packed ints.
    request.set_value("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    google::protobuf::BytesValue response;
    std::promise<grpc::Status> status;
    stub.UnaryCall(&context, std::string("/goldfinch.v1.GenerationService/") + method,
                   grpc::StubOptions(), &request, &response,
                   [&status](grpc::Status s) { status.set_value(std::move(s)); });
    EXPECT_FALSE(status.get_future().get().ok()) << method;
  }
  EXPECT_TRUE(Generate(server.stub(), TextRequest("still here", 5)).status.ok());
  EXPECT_TRUE(server.BecomesIdle());
}

TEST(MessageTest, AnUnknownMethodIsUnimplemented) {
  TestServer server;
  using Stub = grpc::TemplatedGenericStub<google::protobuf::BytesValue,
                                          google::protobuf::BytesValue>;
  Stub stub(server.NewChannel());
  grpc::ClientContext context;
  const google::protobuf::BytesValue request;
  google::protobuf::BytesValue response;
  std::promise<grpc::Status> status;
  stub.UnaryCall(&context, "/goldfinch.v1.GenerationService/Sing", grpc::StubOptions(),
                 &request, &response,
                 [&status](grpc::Status s) { status.set_value(std::move(s)); });
  EXPECT_EQ(status.get_future().get().error_code(), StatusCode::UNIMPLEMENTED);
}

TEST(ConnectionTest, ManyConnectionsThatCloseMidStreamLeaveNothingBehind) {
  TestServer server(RoomForEndless());
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&server] {
      const auto stub = v1::GenerationService::NewStub(server.NewChannel());
      grpc::ClientContext context;
      // The library's first attempt to connect fails now and then when many threads
      // connect at once: it reads errno late.
      context.set_wait_for_ready(true);
      const auto reader = stub->Generate(&context, EndlessRequest());
      v1::GenerateResponse message;
      EXPECT_TRUE(reader->Read(&message));
      context.TryCancel();
      reader->Finish();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(server.BecomesIdle());
  EXPECT_EQ(server.Metric(kWaiting), 0);
}

}  // namespace
}  // namespace goldfinch
