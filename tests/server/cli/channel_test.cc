// The channels that clients make: what they notice, and whom they trust.
#include "server/cli/channel.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "server/connection_limits.h"
#include "tests/server/cli/proxy.h"
#include "tests/server/grpc/certificates.h"

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

// A server whom only the system's authorities vouch for is not whom --tls_ca names.
TEST(ChannelTest, WithoutItsFilesItTrustsNobody) {
  const Authority authority;
  const Identity identity = authority.Sign("server");
  const PemFile roots(authority.certificate());
  // The system's, for this process, unless it has read them before.
  ASSERT_EQ(setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", roots.path().c_str(), 1), 0);
  grpc::SslServerCredentialsOptions tls;
  tls.pem_key_cert_pairs = {{identity.key, identity.certificate}};
  v1::GenerationService::Service service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(tls), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const auto call = [&](const ConnectionFlags& flags) {
    const auto channel = NewChannel(absl::StrCat("127.0.0.1:", port), flags);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kForever);
    v1::GetModelResponse response;
    return v1::GenerationService::NewStub(channel)
        ->GetModel(&context, {}, &response)
        .error_code();
  };
  constexpr auto kReached = grpc::StatusCode::UNIMPLEMENTED;
  EXPECT_EQ(call({.tls = true}), kReached) << "whom the system trusts";
  EXPECT_EQ(call({.tls_ca = roots.path()}), kReached);
  EXPECT_EQ(call({.tls_ca = "/no/such/file"}), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(call({.tls = true, .tls_cert = "/no/such/file", .tls_key = "/nor/this"}),
            grpc::StatusCode::UNAVAILABLE);
  unsetenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH");
}

}  // namespace
}  // namespace goldfinch
