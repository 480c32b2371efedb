// The server program: mistakes of the operator are one line and exit code 2 or 1; with
// the demo model it serves, drains and exits 0.
#include <civetweb.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/server/cli/program.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::StartsWith;

constexpr char kDemo[] = GOLDFINCH_SOURCE_DIR "/models/demo";

void ExpectRefused(const std::vector<std::string>& arguments, const std::string& message,
                   int exit_code = 2) {
  SCOPED_TRACE(absl::StrJoin(arguments, " "));
  const ProgramOutput output = RunProgram("goldfinch-server", arguments);
  EXPECT_EQ(output.exit_code, exit_code);
  const std::string told = WithoutLog(output.err);
  EXPECT_THAT(told, StartsWith("goldfinch-server: "));
  EXPECT_THAT(told, HasSubstr(message));
  EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 1) << told;
  EXPECT_THAT(output.out, IsEmpty());
}

TEST(ServerFlagsTest, MistakesAreOneLine) {
  ExpectRefused({}, "--model is required");
  ExpectRefused({"--model="}, "--model is empty; it must be a directory");
  ExpectRefused({"--model=x", "--no_such_flag=1"}, "not known: --no_such_flag=1");
  // Not that it is missing.
  ExpectRefused({"--modell=x"}, "not known: --modell=x");
  ExpectRefused({"--model=x", "stray"}, "stray");
  ExpectRefused({"--model=x", "--threads=many"}, "--threads");
  ExpectRefused({"--model=x", "--compute_dtype=f8"}, "f8");
  ExpectRefused({"--model=x", "--weight_dtype=int4"}, "int4");
  ExpectRefused({"--model=x", "--cache_dtype=int4"}, "int4");
  ExpectRefused({"--model=x", "--cache_dtype=fp8"}, "fp8");
  ExpectRefused({"--model=x", "--cpu_isa=sse"}, "sse");
  ExpectRefused({"--model=x", "--backend=tpu"}, "tpu");
  ExpectRefused({"--model=x", "--device=-1"}, "--device");
  ExpectRefused({"--model=x", "--log_level=loud"}, "loud");
  for (const char* flag : {"--listen", "--metrics"}) {
    for (const char* address :
         {"localhost", "50051", ":50051", "[::1]", "a:b", "a:65536"}) {
      ExpectRefused({"--model=x", absl::StrCat(flag, "=", address)},
                    absl::StrCat(flag, " is ", address, "; it must be HOST:PORT"));
    }
  }
  ExpectRefused({"--model=x", "--cache_bytes=1QiB"}, "--cache_bytes: qib unit");
  for (const char* share : {"0%", "96%", "-1%", "60 %", "half%", "%", "6e1%"})
    ExpectRefused(
        {"--model=x", absl::StrCat("--cache_bytes=", share)},
        absl::StrCat("--cache_bytes: a share is ", share, "; it must be in [1%, 95%]"));
}

TEST(ServerFlagsTest, ZeroAndAbsurdLimitsAreRefused) {
  for (const char* flag :
       {"--threads", "--cache_bytes", "--max_sequences", "--step_tokens",
        "--max_context_tokens", "--default_max_tokens", "--max_queued_requests",
        "--max_queued_tokens", "--stream_buffer_tokens", "--max_queue_seconds",
        "--slow_reader_seconds"}) {
    ExpectRefused({"--model=x", absl::StrCat(flag, "=0")},
                  absl::StrCat(flag, " is 0; it must be in ["));
  }
  for (const char* flag :
       {"--threads", "--max_sequences", "--page_tokens", "--step_tokens",
        "--max_context_tokens", "--default_max_tokens", "--max_queued_requests",
        "--max_queued_tokens", "--stream_buffer_tokens", "--max_queue_seconds",
        "--slow_reader_seconds",
        "--drain_seconds"}) {
    ExpectRefused({"--model=x", absl::StrCat(flag, "=9000000000000000000")},
                  absl::StrCat(flag, " is 9000000000000000000; it must be in ["));
    ExpectRefused({"--model=x", absl::StrCat(flag, "=-1")}, absl::StrCat(flag, " is -1"));
  }
  ExpectRefused({"--model=x", "--cache_bytes=1EiB"},
                "--cache_bytes is 1152921504606846976");
  ExpectRefused({"--model=x", "--expanded_bytes=1EiB"}, "--expanded_bytes is");
}

TEST(ServerFlagsTest, HelpNamesEveryFlagAndVersionIsOneLine) {
  ProgramOutput output = RunProgram("goldfinch-server", {"--help"});
  EXPECT_EQ(output.exit_code, 0);
  for (const char* flag : {"--model",
                           "--model_name",
                           "--listen",
                           "--metrics",
                           "--compute_dtype",
                           "--cpu_isa",
                           "--weight_dtype",
                           "--cache_dtype",
                           "--threads",
                           "--cache_bytes",
                           "--expanded_bytes",
                           "--max_sequences",
                           "--page_tokens",
                           "--step_tokens",
                           "--max_context_tokens",
                           "--default_max_tokens",
                           "--max_queued_requests",
                           "--max_queued_tokens",
                           "--stream_buffer_tokens",
                           "--slow_reader_seconds",
                           "--drain_seconds",
                           "--log_level",
                           "--version"}) {
    EXPECT_THAT(output.out, HasSubstr(flag));
  }
  output = RunProgram("goldfinch-server", {"--version"});
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.out,
              MatchesRegex("goldfinch-server [0-9.]+([+][A-Za-z0-9._/+-]+)?\n"));
}

TEST(ServerModelTest, WhatCannotBeReadIsOneLine) {
  ExpectRefused({"--model=/no/such/directory"}, "/no/such/directory", 1);
  // A model without a vocabulary.
  ExpectRefused(
      {absl::StrCat("--model=", GOLDFINCH_SOURCE_DIR, "/tests/golden/goldfinch"),
       "--cache_bytes=1MiB", "--expanded_bytes=1MiB"},
      "vocab.txt", 1);
}

TEST(ServerModelTest, MetricsOnAnAddressThatCannotBeServedAreRefusedFirst) {
  if (mg_check_feature(MG_FEATURES_IPV6) != 0) GTEST_SKIP() << "civetweb knows IPv6 here";
  for (const char* address : {"[::1]:0", "[::]:9464", "::1:9464"}) {
    ExpectRefused({"--model=/no/such/directory", absl::StrCat("--metrics=", address)},
                  absl::StrCat("--metrics is ", address, "; it must be an IPv4 address"),
                  1);
  }
  ExpectRefused({"--model=/no/such/directory", "--metrics=localhost:0"},
                "/no/such/directory", 1);
}

// The server program on the demo model, on free ports.
class ServingTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(absl::StrCat(kDemo, "/model.safetensors")));
  }

  static std::vector<std::string> Flags(const std::vector<std::string>& more) {
    std::vector<std::string> flags = {absl::StrCat("--model=", kDemo), "--threads=2",
                                      "--cache_bytes=16MiB", "--expanded_bytes=64mb"};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  // The port in the server's first line, once it is there.
  static int PortOf(const Program& server, const std::string& name) {
    const std::string label = name + " port ";
    std::string log;
    std::size_t at = std::string::npos;
    EXPECT_TRUE(Eventually([&] {
      log = server.ErrSoFar();
      at = log.find(label);
      return at != std::string::npos && log.find('\n', at) != std::string::npos;
    })) << log;
    return at == std::string::npos ? 0 : std::atoi(log.c_str() + at + label.size());
  }

  static ProgramOutput Client(int port, std::vector<std::string> arguments) {
    arguments.push_back(absl::StrCat("--server=127.0.0.1:", port));
    return RunProgram("goldfinch", arguments);
  }
};

// Finite weights, and no logit is: an answer would be empty, and called one.
TEST(ServerModelTest, AModelWithoutFiniteLogitsIsNotServed) {
  const std::filesystem::path dir =
      absl::StrCat(testing::TempDir(), "/broken_", getpid());
  std::filesystem::copy(kDemo, dir);
  std::fstream weights(dir / "model.safetensors",
                       std::ios::in | std::ios::out | std::ios::binary);
  std::uint64_t header_bytes = 0;
  weights.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  weights.read(header.data(), std::ssize(header));
  const auto range = nlohmann::json::parse(header)["head.weight"]["data_offsets"];
  const std::int64_t begin = range[0], end = range[1];
  weights.seekp(8 + std::ssize(header) + begin);
  weights << std::string(static_cast<std::size_t>(end - begin), '\x7f');  // bf16: 3.4e38
  weights.close();
  ASSERT_TRUE(weights.good());

  ExpectRefused({"--model=" + dir.string(), "--listen=127.0.0.1:0"},
                "failed its first request: its logits are not finite numbers", 1);
  const ProgramOutput output = RunProgram("goldfinch", {"perplexity", dir, "-"}, "The");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("no finite log-probability"));
  std::filesystem::remove_all(dir);
}

TEST_F(ServingTest, ServesUntilItIsToldToStopAndExitsZero) {
  Program server(
      "goldfinch-server",
      Flags({"--listen=127.0.0.1:0", "--metrics=127.0.0.1:0", "--max_sequences=4",
             "--model_name=test name", "--max_context_tokens=2000",
             "--default_max_tokens=3", "--compute_dtype=f32", "--cpu_isa=plain",
             "--page_tokens=32", "--step_tokens=100", "--log_level=info",
             "--weight_dtype=fp8", "--cache_dtype=int8"}));
  const int port = PortOf(server, "serving on");
  EXPECT_EQ(Client(port, {"health", "--wait=60"}).out, "SERVING\n");
  const std::string model = Client(port, {"model"}).out;
  for (const char* line :
       {"name: \"test name\"", "max_context_tokens: 2000", "default_max_tokens: 3",
        "max_sequences: 4", "page_tokens: 32", "compute_dtype: \"f32\"",
        "weight_dtype: \"fp8\"", "cache_dtype: \"int8\""}) {
    EXPECT_THAT(model, HasSubstr(line));
  }
  EXPECT_THAT(model, HasSubstr("plain"));
  const ProgramOutput text =
      Client(port, {"generate", "--prompt=The", "--temperature=0", "--stats"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.err, HasSubstr("generated 3"));
  const std::string metrics = HttpGet(PortOf(server, "metrics on"), "/metrics");
  EXPECT_THAT(metrics,
              HasSubstr("goldfinch_requests_finished_total{reason=\"length\"} 1"));
  // One name of the build, wherever it is told; GetModel has what stays from one commit
  // to the next.
  std::string build = RunProgram("goldfinch-server", {"--version"}).out;
  build = build.substr(build.find(' ') + 1, build.size() - build.find(' ') - 2);
  EXPECT_THAT(metrics,
              HasSubstr(absl::StrCat("goldfinch_build_info{version=\"", build, "\"} 1")));
  EXPECT_THAT(server.ErrSoFar(),
              HasSubstr(absl::StrCat("; goldfinch ", build, ", model")));
  EXPECT_THAT(model, HasSubstr(absl::StrCat("server_version: \"",
                                            build.substr(0, build.find('+')), "\"")));

  // Its ports are taken now.
  ExpectRefused(Flags({absl::StrCat("--listen=127.0.0.1:", port), "--metrics="}),
                absl::StrCat("cannot listen on 127.0.0.1:", port), 1);
  server.Signal(SIGTERM);
  const ProgramOutput output = server.Wait();
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.err, HasSubstr("stopped"));
}

TEST_F(ServingTest, ASecondSignalEndsRunningCallsAtOnce) {
  Program server("goldfinch-server",
                 Flags({"--listen=127.0.0.1:0", "--metrics=", "--drain_seconds=3600"}));
  const int port = PortOf(server, "serving on");
  Program client("goldfinch",
                 {"generate", "--prompt=The", "--max_tokens=100000", "--ignore_eos",
                  absl::StrCat("--server=127.0.0.1:", port)});
  ASSERT_TRUE(Eventually([&] { return !client.OutSoFar().empty(); }));
  server.Signal(SIGINT);
  ASSERT_TRUE(
      Eventually([&] { return Client(port, {"health"}).out == "NOT_SERVING\n"; }));
  EXPECT_THAT(Client(port, {"generate", "--prompt=x"}).err,
              StartsWith("goldfinch: UNAVAILABLE: "));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait().exit_code, 0);
  const ProgramOutput output = client.Wait();
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: UNAVAILABLE: "));
}

// A server that is too slow to start is stopped by what watches over it, and tells where
// it was.
TEST_F(ServingTest, ASignalWhileItLoadsIsLogged) {
  // Somebody listens, and never answers.
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {.sin_family = AF_INET,
                         .sin_port = 0,
                         .sin_addr = {htonl(INADDR_LOOPBACK)},
                         .sin_zero = {}};
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(bind(listener, generic, size), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(getsockname(listener, generic, &size), 0);
  Program server("goldfinch-server",
                 Flags({"--listen=127.0.0.1:0", "--metrics=",
                        absl::StrCat("--session_store=redis://:secret@127.0.0.1:",
                                     ntohs(address.sin_port))}));
  const std::string loading =
      absl::StrCat("\"message\":\"loading ", kDemo, "; goldfinch ");
  EXPECT_TRUE(Eventually([&] {
    const std::string log = server.ErrSoFar();
    return absl::StrContains(log, loading) && absl::StrContains(log, "in a Redis\"}\n");
  })) << server.ErrSoFar();
  server.Signal(SIGTERM);
  const ProgramOutput output = server.Wait();
  close(listener);
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.err, HasSubstr("\"told to stop while loading\"}\n"));
  EXPECT_THAT(output.err, testing::Not(HasSubstr("secret")));
  EXPECT_THAT(WithoutLog(output.err), IsEmpty());
}

TEST_F(ServingTest, NoPatienceIsAllowed) {
  Program server("goldfinch-server", Flags({"--listen=127.0.0.1:0", "--metrics=",
                                            "--drain_seconds=0", "--log_level=off"}));
  // Nothing in the log; so the signal may come while it loads or while it serves.
  server.Signal(SIGTERM);
  const ProgramOutput output = server.Wait();
  EXPECT_THAT(output.exit_code, testing::AnyOf(0, 128 + SIGTERM));
  EXPECT_THAT(output.err, IsEmpty());
}

TEST_F(ServingTest, AnAddressBeyondThisMachineIsWarnedAbout) {
  Program server("goldfinch-server", Flags({"--listen=0.0.0.0:0", "--metrics=",
                                            "--insecure_allow_anonymous"}));
  PortOf(server, "serving on");
  EXPECT_THAT(server.ErrSoFar(), HasSubstr("without authentication or encryption"));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait().exit_code, 0);
}

TEST_F(ServingTest, LimitsOnTheQueueReachTheScheduler) {
  const std::vector<std::string> endless = {"generate", "--prompt=one two three",
                                            "--max_tokens=100000", "--ignore_eos"};
  for (const char* limit : {"--max_queued_requests=1", "--max_queued_tokens=1"}) {
    Program server("goldfinch-server",
                   Flags({"--listen=127.0.0.1:0", "--metrics=127.0.0.1:0",
                          "--max_sequences=1", "--drain_seconds=0", limit}));
    const int port = PortOf(server, "serving on");
    const int metrics = PortOf(server, "metrics on");
    std::vector<std::string> arguments = endless;
    arguments.push_back(absl::StrCat("--server=127.0.0.1:", port));
    Program running("goldfinch", arguments);
    ASSERT_TRUE(Eventually([&] { return !running.OutSoFar().empty(); }));
    Program waiting("goldfinch", arguments);
    ASSERT_TRUE(Eventually([&] {
      return absl::StrContains(HttpGet(metrics, "/metrics"),
                               "goldfinch_requests_waiting{reason=\"admission\"} 1");
    }));
    const ProgramOutput refused = Client(port, endless);
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.err, StartsWith("goldfinch: RESOURCE_EXHAUSTED: "));
    EXPECT_THAT(refused.err, HasSubstr("the limit is 1"));
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait().exit_code, 0);
    EXPECT_EQ(running.Wait().exit_code, 1);
    EXPECT_EQ(waiting.Wait().exit_code, 1);
  }
}

}  // namespace
}  // namespace goldfinch
