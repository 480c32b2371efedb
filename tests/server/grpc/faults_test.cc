// What a device gets wrong, and a call that nothing but breaking it off can end. Clients
// that do harm are in tests/hostile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;
using testing::Not;

constexpr char kAborted[] = "goldfinch_requests_finished_total{reason=\"aborted\"}";

// Many log-probabilities, so that the buffers of a connection fill up soon.
v1::GenerateRequest WideRequest(std::int64_t max_tokens) {
  v1::GenerateRequest request = TextRequest("wide", max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_logprobs(20);
  return request;
}

TEST(SlowReaderTest, IsEndedAndItsMemoryFreedWhenItNeverReads) {
  TestServerOptions options;
  options.engine.num_pages = 100000;
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

}  // namespace
}  // namespace goldfinch
