#include "tests/server/cli/demo_server.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/check.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

// The defaults of these tests, but for those that `more` has.
std::vector<std::string> FlagsWith(const std::vector<std::string>& more) {
  std::vector<std::string> flags = more;
  for (const std::string& flag : {
           absl::StrCat("--model=", GOLDFINCH_SOURCE_DIR, "/models/demo"),
           std::string("--listen=127.0.0.1:0"),
           std::string("--threads=2"),
           std::string("--cache_bytes=16MiB"),
           std::string("--expanded_bytes=64MiB"),
           std::string("--session_bytes=64MiB"),
           std::string("--metrics="),
       }) {
    const std::string name = flag.substr(0, flag.find('=') + 1);
    const bool given = std::any_of(more.begin(), more.end(), [&](const std::string& one) {
      return one.starts_with(name);
    });
    if (!given) flags.push_back(flag);
  }
  return flags;
}

}  // namespace

DemoServer::DemoServer(const std::vector<std::string>& flags)
    : program_("goldfinch-server", FlagsWith(flags)) {
  std::string log;
  EXPECT_TRUE(Eventually([&] {
    log = program_.ErrSoFar();
    const std::size_t at = log.find("serving on port ");
    return at != std::string::npos && log.find('\n', at) != std::string::npos;
  })) << log;
  const auto address_after = [&log](const std::string& label) {
    const std::size_t at = log.find(label);
    const int port =
        at == std::string::npos ? 0 : std::atoi(log.c_str() + at + label.size());
    return absl::StrCat("127.0.0.1:", port);
  };
  address_ = address_after("serving on port ");
  metrics_ = address_after("metrics on port ");
  admin_ = address_after("admin on port ");
}

ProgramOutput DemoServer::Stop() {
  program_.Signal(SIGTERM);
  // The second one is lost if it comes before the first was seen.
  EXPECT_TRUE(Eventually(
      [&] { return program_.ErrSoFar().find("draining") != std::string::npos; }));
  program_.Signal(SIGTERM);
  return program_.Wait();
}

ProgramOutput Goldfinch(const std::string& address, std::vector<std::string> arguments,
                        const std::string& standard_input) {
  arguments.push_back("--server=" + address);
  return RunProgram("goldfinch", arguments, standard_input);
}

std::string GoldfinchLine(const std::string& address,
                          std::vector<std::string> arguments) {
  ProgramOutput output = Goldfinch(address, arguments);
  EXPECT_EQ(output.exit_code, 0) << absl::StrJoin(arguments, " ") << ": " << output.err;
  if (output.out.ends_with('\n')) output.out.pop_back();
  return output.out;
}

nlohmann::json SessionJson(const std::string& address, const std::string& id) {
  const std::string line = GoldfinchLine(address, {"sessions", "get", id, "--json"});
  const nlohmann::json session = nlohmann::json::parse(line, nullptr, false);
  EXPECT_FALSE(session.is_discarded()) << line;
  return session;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = testing::TempDir() + "/goldfinch_XXXXXX";
  GOLDFINCH_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::Names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace goldfinch
