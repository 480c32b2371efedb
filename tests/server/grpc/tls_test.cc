// TLS and mutual TLS: who is let in, and certificates that change under a server.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/server_credentials.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/certificates.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::StartsWith;

constexpr char kGetModel[] = "/goldfinch.v1.GenerationService/GetModel";
constexpr char kListRequests[] = "/goldfinch.v1.AdminService/ListRequests";

// What a client trusts and shows; empty: nothing.
struct Client {
  std::string ca;
  Identity identity = {};
};

class TlsTest : public testing::Test {
 protected:
  TestServerOptions Options(bool mutual) const {
    TestServerOptions options;
    options.tls = {certificate_.path(), key_.path(), mutual ? client_ca_.path() : ""};
    return options;
  }

  static std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                                   const Client& client) {
    return grpc::CreateCustomChannel(address,
                                     grpc::SslCredentials({client.ca, client.identity.key,
                                                           client.identity.certificate}),
                                     DirectChannel());
  }
  static std::shared_ptr<grpc::Channel> NewChannel(const TestServer& server,
                                                   const Client& client) {
    return NewChannel(server.address(), client);
  }

  // How a call on a new connection ends.
  static StatusCode CodeFor(const TestServer& server, const Client& client) {
    return CallAny(NewChannel(server, client), kGetModel).error_code();
  }

  const Authority authority_, client_authority_, stranger_;
  const Identity identity_ = authority_.Sign("first");
  const PemFile certificate_{identity_.certificate, 0644};
  const PemFile key_{identity_.key};
  const PemFile client_ca_{client_authority_.certificate(), 0644};
};

TEST_F(TlsTest, AClientThatTrustsTheAuthorityIsServed) {
  TestServer server(Options(/*mutual=*/false));
  EXPECT_EQ(CodeFor(server, {authority_.certificate()}), StatusCode::OK);
  // A certificate nobody asked for does no harm.
  EXPECT_EQ(CodeFor(server, {authority_.certificate(), client_authority_.Sign("c")}),
            StatusCode::OK);
}

TEST_F(TlsTest, OthersGetNoConnection) {
  TestServer server(Options(/*mutual=*/false));
  EXPECT_EQ(CodeFor(server, {stranger_.certificate()}), StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallAny(server.NewChannel(), kGetModel).error_code(),  // plaintext
            StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeFor(server, {authority_.certificate()}), StatusCode::OK);
}

TEST_F(TlsTest, MutualTlsAsksForACertificateOfItsAuthority) {
  TestServer server(Options(/*mutual=*/true));
  const std::string& ca = authority_.certificate();
  EXPECT_EQ(CodeFor(server, {ca, client_authority_.Sign("client")}), StatusCode::OK);
  EXPECT_EQ(CodeFor(server, {ca}), StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeFor(server, {ca, stranger_.Sign("client")}), StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeFor(server, {ca, authority_.Sign("client")}), StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ACertificateIsNoKey) {
  const TenantFile file(TenantEntry("a", "key-a"));
  const auto tenants = TenantDirectory::Load(file.path()).value();
  TestServerOptions options = Options(/*mutual=*/true);
  options.tenants = tenants.get();
  TestServer server(options);
  const auto channel =
      NewChannel(server, {authority_.certificate(), client_authority_.Sign("a")});
  EXPECT_EQ(CallAny(channel, kGetModel).error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(CallAny(channel, kGetModel, WithKey("key-a")).ok());
}

TEST_F(TlsTest, ANewCertificateIsUsedFromTheNextConnectionOn) {
  TestServer server(Options(/*mutual=*/false));
  const auto old = NewChannel(server, {authority_.certificate()});
  ASSERT_TRUE(CallAny(old, kGetModel).ok());

  const Authority next;
  const Identity renewed = next.Sign("second");
  certificate_.Replace(renewed.certificate);
  // Half done: what fits together stays in use.
  EXPECT_EQ(CodeFor(server, {authority_.certificate()}), StatusCode::OK);
  EXPECT_EQ(CodeFor(server, {next.certificate()}), StatusCode::UNAVAILABLE);
  key_.Replace(renewed.key);
  EXPECT_EQ(CodeFor(server, {next.certificate()}), StatusCode::OK);
  EXPECT_EQ(CodeFor(server, {authority_.certificate()}), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(CallAny(old, kGetModel).ok());  // as it was connected

  for (const char* bad : {"", "nonsense"}) {
    certificate_.Replace(bad);
    EXPECT_EQ(CodeFor(server, {next.certificate()}), StatusCode::OK);
  }
}

// Each of both ports is told of a certificate, the first one and those that follow.
TEST_F(TlsTest, TheAdminPortHasTheSameCertificate) {
  TestServerOptions options = Options(/*mutual=*/true);
  options.admin = "127.0.0.1:0";
  TestServer server(options);
  const auto code_for_admin = [&](const Client& client) {
    return CallAny(NewChannel(server.admin_address(), client), kListRequests)
        .error_code();
  };
  const Client good = {authority_.certificate(), client_authority_.Sign("client")};
  EXPECT_EQ(CodeFor(server, good), StatusCode::OK);
  EXPECT_EQ(code_for_admin(good), StatusCode::OK);
  EXPECT_EQ(code_for_admin({authority_.certificate()}), StatusCode::UNAVAILABLE);

  const Authority next;
  const Identity renewed = next.Sign("second");
  certificate_.Replace(renewed.certificate);
  key_.Replace(renewed.key);
  const Client trusting_next = {next.certificate(), client_authority_.Sign("client")};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(code_for_admin(trusting_next), StatusCode::OK);
    EXPECT_EQ(code_for_admin(good), StatusCode::UNAVAILABLE);
    EXPECT_EQ(CodeFor(server, trusting_next), StatusCode::OK);
    EXPECT_EQ(CodeFor(server, good), StatusCode::UNAVAILABLE);
  }
}

TEST_F(TlsTest, ANewAuthorityOfClientsIsUsedToo) {
  TestServer server(Options(/*mutual=*/true));
  const std::string& ca = authority_.certificate();
  const Identity first = client_authority_.Sign("client");
  EXPECT_EQ(CodeFor(server, {ca, first}), StatusCode::OK);
  client_ca_.Replace("");  // which must not mean that everybody is let in
  EXPECT_EQ(CodeFor(server, {ca}), StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeFor(server, {ca, first}), StatusCode::OK);
  client_ca_.Replace(stranger_.certificate());
  EXPECT_EQ(CodeFor(server, {ca, first}), StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeFor(server, {ca, stranger_.Sign("client")}), StatusCode::OK);
}

TEST_F(TlsTest, AStreamGoesOnWhileTheCertificateChanges) {
  TestServerOptions options = Options(/*mutual=*/false);
  options.engine.num_pages = 100000;
  TestServer server(options);
  const auto stub =
      v1::GenerationService::NewStub(NewChannel(server, {authority_.certificate()}));
  v1::GenerateRequest request = TextRequest("endless", 1000000);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  const Identity renewed = authority_.Sign("second");
  certificate_.Replace(renewed.certificate);
  key_.Replace(renewed.key);
  EXPECT_EQ(CodeFor(server, {authority_.certificate()}), StatusCode::OK);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
}

class TlsFilesTest : public TlsTest {
 protected:
  static std::string ErrorOf(const TlsFiles& files) {
    return std::string(MakeServerCredentials(files).status().message());
  }
};

TEST_F(TlsFilesTest, GoodOnesAreTaken) {
  EXPECT_EQ(ErrorOf({}), "");
  EXPECT_EQ(ErrorOf({certificate_.path(), key_.path(), ""}), "");
  EXPECT_EQ(ErrorOf({certificate_.path(), key_.path(), client_ca_.path()}), "");
  // A chain, and a key that the group may read.
  const PemFile chain(identity_.certificate + authority_.certificate());
  const PemFile key(identity_.key, 0640);
  EXPECT_EQ(ErrorOf({chain.path(), key.path(), chain.path()}), "");
}

TEST_F(TlsFilesTest, BadOnesAreOneLineThatNamesTheFlag) {
  const auto expect = [](const TlsFiles& files, const char* message) {
    EXPECT_THAT(ErrorOf(files), StartsWith(message));
  };
  const std::string& certificate = certificate_.path();
  const std::string& key = key_.path();
  expect({"/no/such/file", key, ""}, "the file of --tls_cert cannot be opened");
  expect({certificate, "/no/such/file", ""}, "the file of --tls_key cannot be opened");
  expect({certificate, key, "/no/such"}, "the file of --tls_client_ca cannot be opened");
  expect({key, key, ""}, "the file of --tls_cert has no certificate");
  expect({certificate, certificate, ""},
         "the file of --tls_key may be read by everybody");
  const PemFile open_key(identity_.key, 0604);
  expect({certificate, open_key.path(), ""},
         "the file of --tls_key may be read by every");
  const PemFile writable(identity_.certificate, 0646);
  expect({writable.path(), key, ""},
         "the file of --tls_cert may be written by everybody");
  const PemFile no_key("nonsense");
  expect({certificate, no_key.path(), ""}, "the file of --tls_key has no private key");
  const PemFile other(authority_.Sign("other").key);
  expect({certificate, other.path(), ""}, "the key of --tls_key is not that of the");
  const PemFile empty("");
  expect({certificate, key, empty.path()}, "the file of --tls_client_ca is empty");
  expect({certificate, key, key}, "the file of --tls_client_ca has no certificate");
  const PemFile broken(identity_.certificate +
                       "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  expect({broken.path(), key, ""}, "the file of --tls_cert has no certificate");
  // Nobody is asked for the passphrase of an encrypted key.
  const PemFile encrypted(
      "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
      "MIH0MF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBBfQ3FMkRNMYyZ1Rp3G\n"
      "-----END ENCRYPTED PRIVATE KEY-----\n");
  expect({certificate, encrypted.path(), ""}, "the file of --tls_key has no private key");
}

}  // namespace
}  // namespace goldfinch
