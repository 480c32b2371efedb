// ExportSession and ImportSession with a client that does not keep up its end.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;

TEST(ExportTest, OneThatNobodyReadsIsCutOffAndHoldsNothingUp) {
  TestServerOptions options;
  options.engine.num_pages = 300000;
  options.scheduler.max_context_tokens = 5000000;
  options.scheduler.slow_reader = std::chrono::seconds(1);
  TestServer server(options);
  grpc::ClientContext create;
  v1::CreateSessionRequest request;
  request.mutable_tokens()->mutable_ids()->Resize(4000000, 7);
  v1::CreateSessionResponse session;
  ASSERT_TRUE(server.sessions().CreateSession(&create, request, &session).ok());

  grpc::ClientContext context;
  v1::ExportSessionRequest export_request;
  export_request.set_session_id(session.session().id());
  const auto reader = server.sessions().ExportSession(&context, export_request);
  v1::ExportSessionResponse message;
  ASSERT_TRUE(reader->Read(&message));
  ASSERT_GT(message.total_bytes(), 15 << 20) << "more than any buffer takes";
  auto drained = std::async(std::launch::async,
                            [&] { server.server().Shutdown(std::chrono::minutes(5)); });
  EXPECT_EQ(drained.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  while (reader->Read(&message)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

// Snapshots on their way share their room: who sends nothing more gives it back.
TEST(ImportTest, OneThatStopsOrTricklesIsCutOff) {
  for (const bool trickles : {false, true}) {
    TestServerOptions options;
    options.scheduler.slow_reader = std::chrono::milliseconds(200);
    TestServer server(options);
    grpc::ClientContext context;
    v1::ImportSessionResponse response;
    const auto writer = server.sessions().ImportSession(&context, &response);
    v1::ImportSessionRequest request;
    request.set_chunk(std::string(1 << 20, 'x'));
    ASSERT_TRUE(writer->Write(request));
    request.set_chunk("x");
    ASSERT_TRUE(writer->Write(request));
    while (trickles && writer->Write(request)) std::this_thread::yield();
    EXPECT_EQ(writer->Finish().error_code(), StatusCode::CANCELLED);
    EXPECT_TRUE(server.BecomesIdle());
    // And the server is empty for good: a drain waits for nobody.
    server.server().Shutdown(std::chrono::minutes(5));
  }
}

}  // namespace
}  // namespace goldfinch
