// `goldfinch top` against servers that run, go away and come back, in a pipe and on a
// terminal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/check.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/cli/program.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::ContainsRegex;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

// The screens; in each, an empty line may come before the table of tenants.
std::vector<std::string> Blocks(const std::string& text) {
  std::vector<std::string> blocks;
  for (const auto part : absl::StrSplit(text, "\n\n")) {
    if (!blocks.empty() && absl::StartsWith(part, "TENANT")) {
      absl::StrAppend(&blocks.back(), "\n\n", part);
    } else {
      blocks.emplace_back(part);
    }
  }
  return blocks;
}

std::string MetricsAddress(TestServer& server) {
  return absl::StrCat("127.0.0.1:", server.server().metrics_port());
}

// A port that somebody listened on a moment ago.
int FreePort() {
  TestServer server({.metrics = "127.0.0.1:0"});
  return server.server().metrics_port();
}

TEST(TopTest, ShowsARequestThatRuns) {
  DemoServer server({"--metrics=127.0.0.1:0"});
  Program client("goldfinch", {"generate", "--prompt=The", "--max_tokens=100000",
                               "--ignore_eos", "--server=" + server.address()});
  ASSERT_TRUE(Eventually([&] { return !client.OutSoFar().empty(); }));
  const ProgramOutput output =
      RunProgram("goldfinch",
                 {"top", "--metrics=" + server.metrics(), "--count=2", "--interval=0.2"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, IsEmpty());
  EXPECT_THAT(output.out, Not(HasSubstr("\x1b")));
  const std::vector<std::string> blocks = Blocks(output.out);
  ASSERT_EQ(blocks.size(), 2u) << output.out;
  for (const std::string& block : blocks) {
    EXPECT_THAT(block, StartsWith("goldfinch "));
    EXPECT_THAT(block, HasSubstr(" at " + server.metrics() + ", up "));
    EXPECT_THAT(block, HasSubstr("requests      running 1, sequences 1, waiting 0 "
                                 "(admission 0, put_aside 0, slow_reader 0)\n"));
    EXPECT_THAT(block, ContainsRegex("tokens/s      prompt 0.0, generated [1-9]"));
    EXPECT_THAT(block, ContainsRegex("next token    p50 [0-9.]+ ms, p99 [0-9.]+ ms"));
    EXPECT_THAT(block,
                ContainsRegex("arena         [1-9][0-9]* of [0-9]+ .*hits [0-9]+%"));
    EXPECT_THAT(block,
                ContainsRegex("device        .*weights [0-9.]+ MiB, cache 16.0 MiB"));
    EXPECT_THAT(block, ContainsRegex("process       .*processors [0-9]"));
    EXPECT_THAT(block, ContainsRegex("\ndefault +1 +0 "));
  }
  client.Signal(SIGINT);
  client.Wait();
}

TEST(TopTest, WithoutAServerSaysSoAndFails) {
  const std::string address = absl::StrCat("127.0.0.1:", FreePort());
  const ProgramOutput output = RunProgram(
      "goldfinch", {"top", "--metrics=" + address, "--count=2", "--interval=0.1"});
  EXPECT_EQ(output.exit_code, 1);
  const std::vector<std::string> blocks = Blocks(output.out);
  ASSERT_EQ(blocks.size(), 2u) << output.out;
  EXPECT_THAT(blocks[0], StartsWith("goldfinch: no metrics from " + address +
                                    ": it does not answer: "));
  EXPECT_THAT(blocks[0], EndsWith("\ntrying again every 0.1 s"));
  EXPECT_THAT(blocks[1], Not(HasSubstr("trying again"))) << "nobody does";
}

TEST(TopTest, WhatIsNotAMetricsEndpointIsNamed) {
  TestServer server({.metrics = "127.0.0.1:0"});
  // The port of gRPC speaks HTTP/2 only.
  const ProgramOutput output =
      RunProgram("goldfinch", {"top", "--metrics=" + server.address(), "--count=1"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.out, StartsWith("goldfinch: no metrics from " + server.address()));
}

TEST(TopTest, MistakesOnTheCommandLineExitWithTwo) {
  for (const char* wrong :
       {"--metrics=localhost", "--metrics=:9464", "--metrics=a:0", "--metrics=a:65536",
        "--metrics=http://a:1/x:2", "--interval=0", "--interval=nan", "--count=-1"}) {
    const ProgramOutput output = RunProgram("goldfinch", {"top", wrong});
    EXPECT_EQ(output.exit_code, 2) << wrong;
    EXPECT_THAT(output.err, StartsWith("goldfinch: ")) << wrong;
    EXPECT_THAT(output.out, IsEmpty());
  }
}

TEST(TopTest, AServerThatComesBackIsFoundByItself) {
  const std::string address = absl::StrCat("127.0.0.1:", FreePort());
  Program top("goldfinch", {"top", "--metrics=" + address, "--interval=0.1"});
  const auto shows = [&top](const std::string& what) {
    const std::string out = top.OutSoFar();
    // The last screen; a blank line may also be within one.
    const std::size_t begin = out.rfind("goldfinch");
    return begin != std::string::npos && out.find(what, begin) != std::string::npos;
  };
  ASSERT_TRUE(Eventually([&] { return shows("no metrics from"); }));
  for (int round = 0; round < 2; ++round) {
    TestServer server({.metrics = address});
    ASSERT_TRUE(Generate(server.stub(), TextRequest("counted", 10)).status.ok());
    ASSERT_TRUE(Eventually([&] { return shows("tokens/s      prompt 0.0"); }));
  }
  ASSERT_TRUE(Eventually([&] { return shows("no metrics from"); }));
  top.Signal(SIGINT);
  EXPECT_EQ(top.Wait().exit_code, 130);
}

// `goldfinch top` on a terminal of this test's own.
class TerminalTest : public testing::Test {
 protected:
  static constexpr char kEnter[] = "\x1b[?1049h\x1b[?25l";
  static constexpr char kLeave[] = "\x1b[?25h\x1b[?1049l";

  void SetUp() override {
    server_ = std::make_unique<TestServer>(TestServerOptions{.metrics = "127.0.0.1:0"});
    const std::string metrics = "--metrics=" + MetricsAddress(*server_);
    const std::string program = absl::StrCat(GOLDFINCH_BINARY_DIR, "/goldfinch");
    winsize size = {.ws_row = 30, .ws_col = 100, .ws_xpixel = 0, .ws_ypixel = 0};
    setenv("TERM", "xterm", 1);
    pid_ = forkpty(&terminal_, nullptr, nullptr, &size);
    GOLDFINCH_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      execl(program.c_str(), "goldfinch", "top", metrics.c_str(), "--interval=0.1",
            nullptr);
      _exit(127);
    }
    fcntl(terminal_, F_SETFL, O_NONBLOCK);
    ASSERT_TRUE(Shows("process "));
  }
  void TearDown() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(terminal_);
  }

  void Read() {
    char part[4096];
    for (ssize_t count = 0; (count = read(terminal_, part, sizeof part)) > 0;)
      seen_.append(part, static_cast<std::size_t>(count));
  }
  // Whether it comes, after what is read already.
  bool Shows(const std::string& what) {
    seen_.clear();
    return Eventually([&] {
      Read();
      return seen_.find(what) != std::string::npos;
    });
  }
  void Type(const std::string& keys) const {
    ASSERT_EQ(write(terminal_, keys.data(), keys.size()),
              static_cast<ssize_t>(keys.size()));
  }
  // Waits for its end while reading, since a full terminal would hold it up.
  int ExitCode() {
    int status = 0;
    EXPECT_TRUE(Eventually([&] {
      Read();
      if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
      pid_ = -1;
      return true;
    }));
    Read();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool Echoes() const {
    termios modes{};
    tcgetattr(terminal_, &modes);
    return (modes.c_lflag & ECHO) != 0 && (modes.c_lflag & ICANON) != 0;
  }

  std::unique_ptr<TestServer> server_;
  int terminal_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
};

TEST_F(TerminalTest, QEndsItAndTheTerminalIsAsBefore) {
  EXPECT_THAT(seen_, HasSubstr(kEnter));
  EXPECT_FALSE(Echoes());
  Type("xyz");
  ASSERT_TRUE(Shows("requests "));
  Type("q");
  EXPECT_EQ(ExitCode(), 0);
  EXPECT_THAT(seen_, EndsWith(kLeave));
  EXPECT_TRUE(Echoes());
}

TEST_F(TerminalTest, SignalsEndItTheSameWay) {
  Type("\x03");  // ctrl-C
  EXPECT_EQ(ExitCode(), 130);
  EXPECT_THAT(seen_, EndsWith(kLeave));
  EXPECT_TRUE(Echoes());
}

TEST_F(TerminalTest, SigtermEndsItTheSameWay) {
  kill(pid_, SIGTERM);
  EXPECT_EQ(ExitCode(), 130);
  EXPECT_THAT(seen_, EndsWith(kLeave));
  EXPECT_TRUE(Echoes());
}

TEST_F(TerminalTest, StoppingGivesTheTerminalBackAndGoingOnTakesIt) {
  Type("\x1a");  // ctrl-Z
  ASSERT_TRUE(Shows(kLeave));
  int status = 0;
  ASSERT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
  EXPECT_TRUE(WIFSTOPPED(status));
  EXPECT_TRUE(Echoes());
  kill(pid_, SIGCONT);
  ASSERT_TRUE(Shows(kEnter));
  ASSERT_TRUE(Shows("requests "));
  EXPECT_FALSE(Echoes());
  Type("q");
  EXPECT_EQ(ExitCode(), 0);
}

TEST_F(TerminalTest, LinesAreCutToATerminalThatShrinks) {
  const winsize small = {.ws_row = 3, .ws_col = 20, .ws_xpixel = 0, .ws_ypixel = 0};
  ioctl(terminal_, TIOCSWINSZ, &small);
  ASSERT_TRUE(Eventually([&] {
    seen_.clear();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    Read();
    return !seen_.empty() && seen_.find("tokens/s") == std::string::npos;
  }));
  ASSERT_TRUE(Shows("\x1b[H"));
  ASSERT_TRUE(Shows("\x1b[H"));
  const std::string screen = seen_.substr(seen_.rfind("\x1b[H"));
  EXPECT_THAT(screen, StartsWith("\x1b[Hgoldfinch "));
  EXPECT_THAT(screen, Not(HasSubstr("tokens/s")));
  EXPECT_THAT(screen, Not(HasSubstr("sequences")));
  Type("q");
  EXPECT_EQ(ExitCode(), 0);
}

}  // namespace
}  // namespace goldfinch
