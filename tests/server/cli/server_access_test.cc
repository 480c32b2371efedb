// The two programs and who may call: what the server refuses to start with, keys that
// change under it, TLS, and a client that keeps its key to itself.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/cli/program.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/certificates.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr char kDemo[] = GOLDFINCH_SOURCE_DIR "/models/demo";
constexpr char kNoModel[] = "the model directory x is not a directory";
constexpr char kUnauthenticated[] = "goldfinch: UNAUTHENTICATED: ";

// Flags that are fine lead to what is wrong in files, with another exit code.
void ExpectRefused(const std::vector<std::string>& more, const std::string& message,
                   int exit_code = 2) {
  std::vector<std::string> arguments = {"--model=x"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  SCOPED_TRACE(absl::StrJoin(arguments, " "));
  const ProgramOutput output = RunProgram("goldfinch-server", arguments);
  EXPECT_EQ(output.exit_code, exit_code);
  const std::string told = WithoutLog(output.err);
  EXPECT_THAT(told, StartsWith("goldfinch-server: " + message));
  EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 1) << told;
  EXPECT_THAT(output.out, IsEmpty());
}

TEST(ServerAccessFlagsTest, BeyondThisMachineATenantsFileIsNeeded) {
  for (const char* address :
       {"0.0.0.0:0", "[::]:0", "10.0.0.1:0", "example.com:0", "127.example.com:0",
        "localhost.example.com:0", "128.0.0.1:0", "127.1:0", "*:0"}) {
    ExpectRefused({absl::StrCat("--listen=", address)},
                  absl::StrCat("--listen is ", address,
                               ", which other machines reach; give --tenants_file"));
  }
  // These get as far as the model.
  for (const char* address :
       {"127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "localhost:0", "unix:0"}) {
    ExpectRefused({absl::StrCat("--listen=", address)}, kNoModel, 1);
  }
  ExpectRefused({"--listen=0.0.0.0:0", "--insecure_allow_anonymous"}, kNoModel, 1);
  const TenantFile file(TenantEntry("a", "key-a"));
  ExpectRefused({"--listen=0.0.0.0:0", "--tenants_file=" + file.path()}, kNoModel, 1);
}

TEST(ServerAccessFlagsTest, AnAdminServiceForOtherMachinesNeedsATenantsFile) {
  ExpectRefused({"--admin_listen=nonsense"}, "--admin_listen is nonsense; it must be");
  ExpectRefused({"--admin_listen=0.0.0.0:0", "--insecure_allow_anonymous"},
                "--admin_listen is 0.0.0.0:0, which other machines reach");
  ExpectRefused({"--admin_listen=127.0.0.1:0"}, kNoModel, 1);
  const TenantFile file(TenantEntry("a", "key-a"));
  ExpectRefused({"--admin_listen=0.0.0.0:0", "--tenants_file=" + file.path()}, kNoModel,
                1);
}

TEST(ServerAccessFlagsTest, LimitsOfConnectionsHaveBounds) {
  for (const char* flag :
       {"--max_message_bytes", "--max_metadata_bytes", "--max_streams_per_connection",
        "--max_connection_age_seconds", "--max_connection_age_grace_seconds",
        "--min_ping_interval_seconds", "--max_ping_strikes", "--grpc_memory_bytes",
        "--max_memory_bytes"}) {
    for (const char* value : {"0", "-1", "9000000000000000000"}) {
      const std::string argument = absl::StrCat(flag, "=", value);
      SCOPED_TRACE(argument);
      const ProgramOutput output =
          RunProgram("goldfinch-server", {"--model=x", argument});
      EXPECT_EQ(output.exit_code, 2);
      EXPECT_THAT(output.err, StartsWith(absl::StrCat("goldfinch-server: ", flag)));
    }
  }
  ExpectRefused({"--max_message_bytes=1GiB", "--grpc_memory_bytes=1GiB"},
                "--grpc_memory_bytes is 1073741824; it must be in [2147483648, ");
  // Else no chunk of a snapshot would fit.
  ExpectRefused({"--max_message_bytes=1MiB"},
                "--max_message_bytes is 1048576; it must be in [4194304, ");
  ExpectRefused({"--reflection=maybe"}, "--reflection");
}

TEST(ServerAccessFlagsTest, ABadTenantsFileIsOneLineBeforeAnythingIsLoaded) {
  ExpectRefused({"--tenants_file=/no/such/file"}, "the tenants file cannot be opened", 1);
  const TenantFile file("nonsense");
  ExpectRefused({"--tenants_file=" + file.path()},
                "the tenants file: it is not JSON, at byte ", 1);
  file.Write(TenantEntry("a", "key-a", ", \"limits\": {\"max_sessions\": -1}"));
  ExpectRefused({"--tenants_file=" + file.path()},
                "the tenants file: tenant a: limits.max_sessions is -1", 1);
  file.Write(TenantEntry("a", "key-a"));
  ASSERT_EQ(chmod(file.path().c_str(), 0602), 0);
  ExpectRefused({"--tenants_file=" + file.path()},
                "the tenants file may be written by everybody", 1);
}

TEST(ServerAccessFlagsTest, BadCertificatesAreOneLine) {
  const Authority authority;
  const Identity identity = authority.Sign("server");
  const PemFile certificate(identity.certificate), key(identity.key);
  const PemFile other(authority.Sign("other").key), open_key(identity.key, 0644);
  const std::string tls_cert = "--tls_cert=" + certificate.path();
  ExpectRefused({tls_cert}, "--tls_cert and --tls_key are given together");
  ExpectRefused({"--tls_key=" + key.path()}, "--tls_cert and --tls_key are given toget");
  ExpectRefused({"--tls_client_ca=" + certificate.path()},
                "--tls_client_ca is of no use");
  ExpectRefused({tls_cert, "--tls_key=/no/such/file"}, "the file of --tls_key cannot be",
                1);
  ExpectRefused({tls_cert, "--tls_key=" + other.path()}, "the key of --tls_key is not",
                1);
  ExpectRefused({tls_cert, "--tls_key=" + open_key.path()},
                "the file of --tls_key may be read by everybody", 1);
  ExpectRefused({tls_cert, "--tls_key=" + key.path(), "--tls_client_ca=" + key.path()},
                "the file of --tls_client_ca has no certificate", 1);
}

// The server program on the demo model.
class ServerAccessTest : public testing::Test {
 protected:
  static std::vector<std::string> Flags(const std::vector<std::string>& more) {
    std::vector<std::string> flags = {absl::StrCat("--model=", kDemo),
                                      "--listen=127.0.0.1:0",
                                      "--metrics=",
                                      "--threads=1",
                                      "--cache_bytes=16MiB",
                                      "--expanded_bytes=64mb",
                                      "--log_level=debug"};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  // The address in the log, once it is there.
  static std::string AddressOf(const Program& server) {
    constexpr char kLabel[] = "serving on port ";
    std::string log;
    std::size_t at = std::string::npos;
    EXPECT_TRUE(Eventually([&] {
      log = server.ErrSoFar();
      at = log.find(kLabel);
      return at != std::string::npos && log.find('\n', at) != std::string::npos;
    })) << log;
    if (at == std::string::npos) return "";
    return absl::StrCat("127.0.0.1:", std::atoi(log.c_str() + at + sizeof(kLabel) - 1));
  }

  static ProgramOutput Client(const std::string& address,
                              std::vector<std::string> arguments) {
    arguments.push_back("--server=" + address);
    return RunProgram("goldfinch", arguments);
  }
};

TEST_F(ServerAccessTest, KeysChangeOnSighupUnderARunningCall) {
  const TenantFile file(TenantEntry("a", "key-a"));
  Program server("goldfinch-server", Flags({"--tenants_file=" + file.path()}));
  const std::string address = AddressOf(server);
  EXPECT_EQ(Client(address, {"health", "--wait=60"}).out, "SERVING\n");
  EXPECT_THAT(Client(address, {"model"}).err, StartsWith(kUnauthenticated));
  EXPECT_THAT(Client(address, {"model", "--key=key-b"}).err,
              StartsWith(kUnauthenticated));
  EXPECT_EQ(Client(address, {"model", "--key=key-a"}).exit_code, 0);

  Program stream("goldfinch", {"generate", "--prompt=The", "--max_tokens=100000",
                               "--ignore_eos", "--key=key-a", "--server=" + address});
  const auto goes_on = [&stream] {
    const std::size_t so_far = stream.OutSoFar().size();
    return Eventually([&] { return stream.OutSoFar().size() > so_far + 100; });
  };
  ASSERT_TRUE(goes_on());
  file.Write(TenantEntry("b", "key-b"));
  server.Signal(SIGHUP);
  ASSERT_TRUE(Eventually([&] {
    return Client(address, {"model", "--key=key-b"}).exit_code == 0;
  }));
  EXPECT_THAT(Client(address, {"model", "--key=key-a"}).err,
              StartsWith(kUnauthenticated));
  ASSERT_TRUE(goes_on());

  file.Write("{\"name\": \"b\"}");
  server.Signal(SIGHUP);
  ASSERT_TRUE(Eventually([&] {
    return server.ErrSoFar().find(
               "the tenants stay as they were: the tenants file: "
               "tenant b: key_sha256 is missing") != std::string::npos;
  }));
  EXPECT_EQ(Client(address, {"model", "--key=key-b"}).exit_code, 0);
  ASSERT_TRUE(goes_on());

  stream.Signal(SIGINT);
  EXPECT_EQ(stream.Wait().exit_code, 130);
  server.Signal(SIGTERM);
  const ProgramOutput output = server.Wait();
  EXPECT_EQ(output.exit_code, 0);
  for (const char* secret : {"key-a", "key-b"}) {
    EXPECT_THAT(output.err, Not(HasSubstr(secret)));
    EXPECT_THAT(output.err, Not(HasSubstr(HashOfKey(secret).substr(0, 16))));
  }
}

TEST_F(ServerAccessTest, TheClientSendsItsKeyWithEveryCall) {
  const TenantFile file(TenantEntry("a", "key-a"));
  Program server("goldfinch-server", Flags({"--tenants_file=" + file.path()}));
  const std::string address = AddressOf(server);
  // From its environment, where it may be for all of them.
  ASSERT_EQ(setenv("GOLDFINCH_KEY", "key-a", 1), 0);
  const ProgramOutput created = Client(address, {"sessions", "create", "--prompt=The"});
  EXPECT_EQ(created.exit_code, 0) << created.err;
  const std::string id = created.out.substr(0, created.out.find('\n'));
  const std::string path = absl::StrCat(testing::TempDir(), "/goldfinch_", getpid());
  for (const std::vector<std::string>& call : std::vector<std::vector<std::string>>{
           {"health"},
           {"model"},
           {"tokenize", "text"},
           {"detokenize", "100"},
           {"score", "--continuation=x"},
           {"generate", "--prompt=x", "--max_tokens=1"},
           {"generate", "--prompt=x", "--max_tokens=1", "--session=" + id},
           {"sessions", "list"},
           {"sessions", "get", id},
           {"sessions", "fork", id},
           {"sessions", "export", id, path},
           {"sessions", "import", path},
           {"chat", "--session=" + id},
           {"sessions", "delete", id},
       }) {
    const ProgramOutput output = Client(address, call);
    EXPECT_EQ(output.exit_code, 0) << absl::StrJoin(call, " ") << ": " << output.err;
  }
  std::remove(path.c_str());
  // What is said on the command line goes before.
  EXPECT_THAT(Client(address, {"model", "--key=wrong"}).err,
              StartsWith(kUnauthenticated));
  ASSERT_EQ(unsetenv("GOLDFINCH_KEY"), 0);
  EXPECT_THAT(Client(address, {"model"}).err, StartsWith(kUnauthenticated));
}

TEST_F(ServerAccessTest, BothSpeakTlsAndKnowEachOther) {
  const Authority authority, client_authority;
  const Identity identity = authority.Sign("server");
  const Identity client = client_authority.Sign("client");
  const PemFile certificate(identity.certificate), key(identity.key);
  const PemFile ca(authority.certificate()), client_ca(client_authority.certificate());
  const PemFile client_certificate(client.certificate), client_key(client.key);
  const TenantFile file(TenantEntry("a", "key-a"));
  Program server(
      "goldfinch-server",
      Flags({"--tenants_file=" + file.path(), "--tls_cert=" + certificate.path(),
             "--tls_key=" + key.path(), "--tls_client_ca=" + client_ca.path()}));
  const std::string address = AddressOf(server);
  const std::vector<std::string> tls = {"--tls_ca=" + ca.path(),
                                        "--tls_cert=" + client_certificate.path(),
                                        "--tls_key=" + client_key.path()};
  const auto call = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), tls.begin(), tls.end());
    return Client(address, arguments);
  };
  EXPECT_EQ(call({"health", "--wait=60"}).out, "SERVING\n");
  EXPECT_EQ(call({"model", "--key=key-a"}).exit_code, 0);
  EXPECT_EQ(call({"model", "--key=key-a", "--tls_server_name=localhost"}).exit_code, 0);
  EXPECT_THAT(call({"model", "--key=key-a", "--tls_server_name=elsewhere"}).err,
              StartsWith("goldfinch: UNAVAILABLE: "));
  EXPECT_THAT(call({"model"}).err, StartsWith(kUnauthenticated));
  EXPECT_THAT(Client(address, {"model", "--key=key-a", tls[0]}).err,
              StartsWith("goldfinch: UNAVAILABLE: "));
  // Whom the system trusts has not signed this.
  EXPECT_THAT(Client(address, {"model", "--key=key-a", "--tls", tls[1], tls[2]}).err,
              StartsWith("goldfinch: UNAVAILABLE: "));
  EXPECT_THAT(Client(address, {"model", "--key=key-a"}).err,
              StartsWith("goldfinch: UNAVAILABLE: "));
  // `health` tells the reason, too.
  EXPECT_THAT(Client(address, {"health", "--tls", tls[1], tls[2]}).err,
              HasSubstr("certificate verify failed"));
  EXPECT_THAT(Client(address, {"health"}).err, HasSubstr("failed to connect"));
}

TEST_F(ServerAccessTest, MemoryThatTheModelDoesNotFitIsRefusedAtStart) {
  const ProgramOutput output =
      RunProgram("goldfinch-server", Flags({"--max_memory_bytes=16MiB"}));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("goldfinch-server: the model alone takes "));
  EXPECT_THAT(output.err, HasSubstr("; --max_memory_bytes allows 16777216\n"));
}

TEST_F(ServerAccessTest, PartsThatTogetherMayTakeTooMuchAreAWarning) {
  const auto log_with = [](const std::string& flag) {
    Program server("goldfinch-server", Flags({flag, "--session_bytes=1GiB"}));
    AddressOf(server);
    server.Signal(SIGTERM);
    return server.Wait().err;
  };
  EXPECT_THAT(log_with("--max_memory_bytes=1GiB"),
              HasSubstr("beyond 1073741824 calls are refused"));
  EXPECT_THAT(log_with("--max_memory_bytes=64GiB"), Not(HasSubstr("calls are refused")));
}

TEST_F(ServerAccessTest, FilesMayBeOpenedUpToTheHardLimit) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_max, 100);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  Program server("goldfinch-server", Flags({}));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  AddressOf(server);
  rlimit raised{};
  ASSERT_EQ(prlimit(server.pid(), RLIMIT_NOFILE, nullptr, &raised), 0);
  EXPECT_EQ(raised.rlim_cur, before.rlim_max);
}

TEST(ReflectionTest, IsOnUnlessItIsSwitchedOff) {
  for (const bool on : {true, false}) {
    const DemoServer server(on ? std::vector<std::string>()
                               : std::vector<std::string>{"--reflection=off"});
    const auto channel = grpc::CreateCustomChannel(
        server.address(), grpc::InsecureChannelCredentials(), DirectChannel());
    const grpc::Status status = CallAny(
        channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
    EXPECT_EQ(status.error_code(),
              on ? grpc::StatusCode::OK : grpc::StatusCode::UNIMPLEMENTED);
  }
}

TEST(ClientAccessTest, AKeyIsNotSentInTheClearToAnotherMachine) {
  for (const char* server : {"192.0.2.1:1", "127.0.0.1:1,192.0.2.1:1", "example.com:1"}) {
    const ProgramOutput output = RunProgram(
        "goldfinch",
        {"model", "--key=canary", "--timeout=1", absl::StrCat("--server=", server)});
    EXPECT_EQ(output.exit_code, 2);
    EXPECT_THAT(output.err, StartsWith("goldfinch: the key would be sent to "));
    EXPECT_THAT(output.err, Not(HasSubstr("canary")));
  }
  // Without a listener, but with leave to try.
  EXPECT_EQ(RunProgram("goldfinch", {"model", "--key=canary", "--timeout=0.1",
                                     "--insecure_send_key", "--server=192.0.2.1:1"})
                .exit_code,
            1);
}

TEST(ClientAccessTest, MistakesAreOneLine) {
  const auto expect = [](const std::vector<std::string>& flags, const char* message) {
    std::vector<std::string> arguments = {"model"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const ProgramOutput output = RunProgram("goldfinch", arguments);
    EXPECT_EQ(output.exit_code, 2);
    EXPECT_THAT(output.err, StartsWith(absl::StrCat("goldfinch: ", message)));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  };
  for (const char* key : {"--key=two words", "--key=line\nbreak", "--key=\xff"}) {
    expect({key}, "the key must be at most 512 ASCII characters");
  }
  expect({"--key=" + std::string(513, 'k')}, "the key must be at most 512");
  expect({"--tls_ca=/no/such/file"}, "the file of --tls_ca cannot be opened");
  expect({"--tls_cert=x"}, "--tls_cert and --tls_key are given together");
}

}  // namespace
}  // namespace goldfinch
