// goldfinch-load against the server program, as its user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/cli/program.h"
#include "tests/server/grpc/tenant_file.h"
#include "tests/server/tenants/keys.h"

namespace goldfinch {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using Json = nlohmann::json;

class LoadProgramTest : public testing::Test {
 protected:
  ProgramOutput Run(const std::string& server, const std::string& scenario,
                    std::vector<std::string> more = {}) {
    const std::string path = folder_ / "scenario.json";
    std::ofstream(path) << scenario;
    std::vector<std::string> arguments = {"run", path, "--server=" + server};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunProgram("goldfinch-load", arguments);
  }

 private:
  TemporaryFolder folder_;
};

// A queue of two requests, so that most are refused and told when to come again.
TEST_F(LoadProgramTest, EveryRequestIsCountedAndNoKeyIsShown) {
  const TenantFile tenants(
      TenantEntry("a", "canary-a", R"(, "limits": {"max_queued_requests": 2})") + ", " +
      TenantEntry("b", "canary-b"));
  DemoServer server(
      {"--tenants_file=" + tenants.path(), "--threads=1", "--max_sequences=2"});
  const std::string scenario = R"({"duration_seconds": 2, "warmup_seconds": 0.5,
      "tail_seconds": 60, "tenants": [
      {"name": "first", "key": "canary-a", "concurrent": 8, "prompt_tokens": 200,
       "max_tokens": 20},
      {"name": "second", "key": "canary-b", "rate": 10, "prompt_tokens": 20,
       "max_tokens": 5, "group": "those"},
      {"name": "third", "key": "canary-b", "rate": 10, "prompt_tokens": 20,
       "max_tokens": 5, "group": "those"}]})";
  const ProgramOutput output = Run(server.address(), scenario, {"--json"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, HasSubstr("the window begins\n"));
  EXPECT_THAT(output.err, HasSubstr("the window ends\n"));
  EXPECT_THAT(output.out + output.err, Not(HasSubstr("canary")));
  const Json report = Json::parse(output.out, nullptr, /*exceptions=*/false);
  ASSERT_TRUE(report.is_object()) << output.out;
  EXPECT_EQ(report["window_seconds"], 2);

  const Json& first = report["tenants"][0];
  EXPECT_GT(first["refused"], 0);
  EXPECT_GT(first["generated_tokens"], 0);
  EXPECT_GT(first["share"], 0);
  EXPECT_EQ(first["failed"], Json::object());
  // Those with a rate are waited for.
  for (const int i : {1, 2}) {
    const Json& tenant = report["tenants"][i];
    EXPECT_GT(tenant["requests"], 0);
    EXPECT_EQ(tenant["finished"], tenant["requests"]);
    EXPECT_EQ(tenant["first_token_seconds"]["count"], tenant["requests"]);
    EXPECT_EQ(tenant["cut"], 0);
  }
  const Json& group = report["groups"][0];
  EXPECT_EQ(group["name"], "those");
  EXPECT_EQ(group["requests"], report["tenants"][1]["requests"].get<std::int64_t>() +
                                   report["tenants"][2]["requests"].get<std::int64_t>());
  EXPECT_GT(group["first_token_seconds"]["p99"], 0);
  EXPECT_EQ(server.Stop().exit_code, 0);
}

TEST_F(LoadProgramTest, AWrongKeyIsAnError) {
  const TenantFile tenants(TenantEntry("a", "right"));
  DemoServer server({"--tenants_file=" + tenants.path()});
  const ProgramOutput output =
      Run(server.address(), R"({"duration_seconds": 1, "tenants": [
      {"name": "first", "key": "canary", "rate": 1, "prompt_tokens": 1,
       "max_tokens": 1}]})");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch-load: first: "));
  EXPECT_THAT(output.out + output.err, Not(HasSubstr("canary")));
}

TEST_F(LoadProgramTest, FailedCallsAreInTheReport) {
  DemoServer server({"--max_context_tokens=100", "--default_max_tokens=10"});
  const ProgramOutput output =
      Run(server.address(), R"({"duration_seconds": 0.5, "tenants": [
      {"name": "first", "concurrent": 1, "prompt_tokens": 100, "max_tokens": 100}]})",
          {"--json"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  const Json report = Json::parse(output.out, nullptr, /*exceptions=*/false);
  ASSERT_TRUE(report.is_object()) << output.out;
  const Json& failed = report["tenants"][0]["failed"];
  EXPECT_EQ(failed.size(), 1u);
  EXPECT_GT(failed.value("INVALID_ARGUMENT", 0), 0);
}

TEST_F(LoadProgramTest, ConnectionsMayBeAsManyAsTheHardLimitOfFiles) {
  DemoServer server;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  Program load("goldfinch-load",
               {"connections", "--server=" + server.address(), "--connections=200",
                "--streams=20", "--seconds=0.1", "--max_tokens=2"});
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  const ProgramOutput output = load.Wait();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("200 of them used, 200 open at the end\n"));
  EXPECT_THAT(output.out, Not(HasSubstr("failed")));
}

TEST_F(LoadProgramTest, AStreamPausesAfterACallThatFailed) {
  DemoServer server({"--max_context_tokens=10", "--default_max_tokens=5"});
  const ProgramOutput output = RunProgram(
      "goldfinch-load", {"connections", "--server=" + server.address(), "--connections=1",
                         "--streams=1", "--seconds=0.5", "--prompt_tokens=20", "--json"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  const Json report = Json::parse(output.out, nullptr, /*exceptions=*/false);
  ASSERT_TRUE(report.is_object()) << output.out;
  EXPECT_EQ(report["finished"], 0);
  EXPECT_GE(report["failed"].value("INVALID_ARGUMENT", 0), 1);
  // Ten a second; without a pause they are some thousands.
  EXPECT_LE(report["failed"].value("INVALID_ARGUMENT", 0), 50);
}

TEST_F(LoadProgramTest, AReportThatIsLostIsNoSuccess) {
  DemoServer server;
  const auto run = [](const std::vector<std::string>& arguments) {
    return Program("goldfinch-load", arguments, Program::Into{"/dev/full"}).Wait();
  };
  const ProgramOutput output =
      run({"connections", "--server=" + server.address(), "--connections=1",
           "--streams=1", "--seconds=0.1", "--max_tokens=1"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err,
              EndsWith("goldfinch-load: standard output could not be written\n"));
  EXPECT_EQ(run({"--help"}).exit_code, 1);
  EXPECT_EQ(run({"dance"}).exit_code, 2);
}

TEST_F(LoadProgramTest, MistakesAreOneLine) {
  const auto expect = [](const ProgramOutput& output, int code, const char* message) {
    EXPECT_EQ(output.exit_code, code);
    EXPECT_THAT(output.err, StartsWith(absl::StrCat("goldfinch-load: ", message)));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  };
  expect(Run("127.0.0.1:1", "{}"), 2, "scenario: duration_seconds is missing");
  expect(RunProgram("goldfinch-load", {"run", "/no/such/file"}), 2,
         "cannot read /no/such/file");
  expect(RunProgram("goldfinch-load", {"run", "x", "--jsom"}), 2, "");
  expect(RunProgram("goldfinch-load", {"connections", "--connections=0"}), 2, "");
  // Nobody listens there.
  expect(RunProgram("goldfinch-load", {"connections", "--server=127.0.0.1:1"}), 1,
         "connection ");
}

}  // namespace
}  // namespace goldfinch
