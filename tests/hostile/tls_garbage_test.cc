// Bytes on a port of TLS that are no TLS, and TLS on a port that has none.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/hostile/attacked_server.h"
#include "tests/hostile/raw_call.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/certificates.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;

constexpr char kGetModel[] = "/goldfinch.v1.GenerationService/GetModel";

// The beginning of a handshake as a client sends it: a record, and in it a ClientHello
// that promises 508 bytes.
std::string ClientHello() {
  return std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) +
         std::string(32, 'r') + std::string("\x00\x00\x02\x13\x01\x01\x00", 7);
}

class TlsGarbageTest : public testing::Test {
 protected:
  // The channel of a client that trusts the server.
  std::shared_ptr<grpc::Channel> TrustingChannel(const TestServer& server) const {
    return grpc::CreateCustomChannel(
        server.address(), grpc::SslCredentials({authority_.certificate(), "", ""}),
        DirectChannel());
  }

  // How a call ends that gets no connection.
  static void ExpectNoConnection(const std::shared_ptr<grpc::Channel>& channel) {
    EXPECT_EQ(CallAny(channel, kGetModel).error_code(), StatusCode::UNAVAILABLE);
  }

  static std::string Say(const TestServer& server, const std::string& bytes) {
    const RawConnection connection(server.port());
    connection.Send(bytes);
    connection.EndSending();
    return connection.ReadToEnd();
  }

  const Authority authority_;
  const Identity identity_ = authority_.Sign("server");
  const PemFile certificate_{identity_.certificate, 0644};
  const PemFile key_{identity_.key};
};

TEST_F(TlsGarbageTest, OnAPortOfTlsHoldsNobodyUp) {
  TestServerOptions options = RoomyOptions();
  options.tls = {certificate_.path(), key_.path(), ""};
  TestServer server(options);
  {
    Witness witness(TrustingChannel(server));
    std::mt19937 random(1);
    std::vector<std::string> sayings = {
        "",
        "GET / HTTP/1.1\r\n\r\n",
        Preface() + CallFrames(1, kGetModel, ""),
        std::string("\x15\x03\x03\x00\x02\x02\x28", 7),   // an alert, before anything
        std::string("\x17\x03\x03\x40\x00", 5) + "data",  // data, before a handshake
        std::string("\x16\x03\x01\xff\xff", 5) + std::string(100000, 'x'),
        std::string("\x80\x2e\x01\x00\x02", 5),  // of SSL 2
    };
    for (std::size_t size = 0; size <= ClientHello().size(); size += 3) {
      std::string noise(random() % 2000, '\0');
      for (char& byte : noise) byte = static_cast<char>(random());
      sayings.push_back(ClientHello().substr(0, size));
      sayings.push_back(ClientHello().substr(0, size) + noise);
    }
    for (const std::string& saying : sayings) {
      ExpectTellsNothing(Say(server, saying));
    }
    // Handshakes that stop and stay.
    std::vector<std::unique_ptr<RawConnection>> halves;
    for (int i = 0; i < 50; ++i) {
      halves.push_back(std::make_unique<RawConnection>(server.port()));
      halves.back()->Send(ClientHello());
    }
    ExpectNoConnection(server.NewChannel());  // plaintext
    EXPECT_TRUE(CallAny(TrustingChannel(server), kGetModel).ok());
    witness.Finish();
  }
  EXPECT_TRUE(IsServing(TrustingChannel(server)));
  const auto stub = v1::GenerationService::NewStub(TrustingChannel(server));
  const auto request = TextRequest("still right", 20);
  EXPECT_EQ(Generate(*stub, request).candidates[0].tokens, ExpectedTokens(request));
  EXPECT_TRUE(server.BecomesIdle());
}

class TlsToPlaintextTest : public TlsGarbageTest {};

TEST_F(TlsToPlaintextTest, GetsNoConnectionAndHoldsNobodyUp) {
  TestServer server(RoomyOptions());
  {
    Witness witness(server);
    ExpectNoConnection(TrustingChannel(server));
    for (int i = 0; i < 20; ++i) ExpectTellsNothing(Say(server, ClientHello()));
    witness.Finish();
  }
  EXPECT_TRUE(IsServing(server.NewChannel()));
  EXPECT_TRUE(server.BecomesIdle());
}

}  // namespace
}  // namespace goldfinch
