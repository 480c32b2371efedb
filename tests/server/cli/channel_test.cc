// The channels that clients make: what they notice, and whom they trust.
#include "server/cli/channel.h"

#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/connection_limits.h"
#include "tests/server/cli/proxy.h"

namespace goldfinch {
namespace {

constexpr auto kForever = std::chrono::seconds(60);

// Generates one message, and then none until the test is over.
class QuietService final : public v1::GenerationService::Service {
 public:
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    writer->Write(v1::GenerateResponse());
    over_.get_future().wait();
    return grpc::Status::OK;
  }
  void End() { over_.set_value(); }

 private:
  std::promise<void> over_;
};

TEST(ChannelTest, AServerThatIsGoneWithoutAWordIsNoticed) {
  QuietService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  Proxy proxy(port);
  const auto channel = NewChannel(proxy.address(), ConnectionFlags(),
                                  {.interval = std::chrono::milliseconds(100),
                                   .patience = std::chrono::milliseconds(100)});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kForever);
  const auto reader = v1::GenerationService::NewStub(channel)->Generate(&context, {});
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  proxy.Freeze();
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  service.End();
}

TEST(ChannelTest, ServersTolerateItsPings) {
  EXPECT_GT(Keepalive().interval,
            std::chrono::seconds(ConnectionLimits().min_ping_interval_seconds));
}

}  // namespace
}  // namespace goldfinch
