// The client when servers go away: what it asks again, where, and when it gives up. The
// pauses are those that a server asks for, of one second.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "scheduler/retry_after.h"
#include "server/status.h"
#include "tests/server/cli/program.h"
#include "tests/server/cli/proxy.h"
#include "tests/server/cli/scripted_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;
using testing::StartsWith;

using Answer = ScriptedServer::Answer;

constexpr char kKept[] = "0123456789abcdef0123456789abcdef";

Answer Refusal() { return {{}, ToGrpcStatus(absl::UnavailableError("draining"))}; }

// A server that is well but has no room.
Answer Full() {
  return {{}, ToGrpcStatus(absl::ResourceExhaustedError("the queue is full"))};
}

std::string Command(const ScriptedServer& server, int tokens_received) {
  return absl::StrCat("goldfinch: session ", kKept, " keeps it; ", tokens_received,
                      " tokens were received; it goes on with goldfinch generate "
                      "--resume_session=",
                      kKept, " --tokens_received=", tokens_received,
                      " --server=", server.address(), "\n");
}

// Two tokens, then the server had to stop.
Answer Interrupted() {
  v1::GenerateResponse first = Piece(1, "one ");
  first.set_seed(7);
  return {{first, Piece(2, "two ")},
          InterruptedStatus(absl::UnavailableError("shutting down"), kKept, 2)};
}

Answer Rest() {
  v1::GenerateResponse first = Piece(3, "three ");
  first.set_seed(7);
  return {{first, LastPiece(4, "four")}, grpc::Status::OK};
}

std::vector<std::string> Generate(const std::string& servers,
                                  const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {"generate", "--prompt=x", "--max_tokens=9",
                                        absl::StrCat("--server=", servers)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(ResumeTest, GenerateGoesOnAfterTheLastTokenItGot) {
  const ScriptedServer server({Interrupted(), Rest()});
  const ProgramOutput output =
      RunProgram("goldfinch", Generate(server.address(), {"--stats"}));
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_EQ(output.out, "one two three four\n");
  EXPECT_THAT(output.err, HasSubstr("interruptions: 1\n"));
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 2u);
  v1::GenerateRequest resume;  // and nothing else
  resume.mutable_resume()->set_session_id(kKept);
  resume.mutable_resume()->set_tokens_received(2);
  EXPECT_EQ(requests[1].SerializeAsString(), resume.SerializeAsString());
  // It had not asked for a session.
  EXPECT_THAT(server.deleted(), ElementsAre(kKept));
}

TEST(ResumeTest, JsonHasTheSeedOnce) {
  const ScriptedServer server({Interrupted(), Rest()});
  const ProgramOutput output =
      RunProgram("goldfinch", Generate(server.address(), {"--json"}));
  const std::vector<std::string> pieces = absl::StrSplit(output.out, "\"seed\"");
  EXPECT_THAT(pieces, SizeIs(2)) << output.out;
}

TEST(ResumeTest, ASessionOfTheUsersStays) {
  const ScriptedServer server({Interrupted(), Rest()});
  const std::string session = absl::StrCat("--session=", kKept);
  EXPECT_EQ(RunProgram("goldfinch", Generate(server.address(), {session})).out,
            "one two three four\n");
  EXPECT_EQ(server.requests().front().session(), kKept);
  EXPECT_THAT(server.deleted(), IsEmpty());
}

TEST(ResumeTest, AnotherServerGoesOnAtOnce) {
  const ScriptedServer one({Interrupted(), Refusal()});
  const ScriptedServer other({Rest()});
  const std::string both =
      absl::StrCat("127.0.0.1:1,", one.address(), ",", other.address());
  const ProgramOutput output = RunProgram("goldfinch", Generate(both));
  EXPECT_EQ(output.out, "one two three four\n");
  EXPECT_EQ(one.requests().size(), 1u);
  ASSERT_EQ(other.requests().size(), 1u);
  EXPECT_EQ(other.requests()[0].resume().tokens_received(), 2);
}

TEST(ResumeTest, ItWaitsUntilTheSessionIsFree) {
  const ScriptedServer server({Interrupted(), Refusal(), Rest()});
  EXPECT_EQ(RunProgram("goldfinch", Generate(server.address())).out,
            "one two three four\n");
  EXPECT_EQ(server.requests().size(), 3u);
}

TEST(ResumeTest, ItWaitsUntilThereIsRoom) {
  const ScriptedServer server({Interrupted(), Full(), Full(), Rest()});
  const ProgramOutput output = RunProgram("goldfinch", Generate(server.address()));
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, "one two three four\n");
  EXPECT_EQ(server.requests().size(), 4u);
  EXPECT_THAT(server.deleted(), ElementsAre(kKept));
}

TEST(ResumeTest, AFullServerSendsItToTheNextOneAtOnce) {
  const ScriptedServer one({Interrupted(), Full()});
  const ScriptedServer other({Full(), Rest()});
  const std::string both = absl::StrCat(one.address(), ",", other.address());
  EXPECT_EQ(RunProgram("goldfinch", Generate(both)).out, "one two three four\n");
}

TEST(ResumeTest, WhatIsRefusedForGoodIsNotAskedAgain) {
  // As when a server refuses what is beyond its limits.
  const grpc::Status too_much(grpc::StatusCode::RESOURCE_EXHAUSTED, "too much");
  const ScriptedServer server({Interrupted(), {{}, too_much}});
  const ProgramOutput output = RunProgram("goldfinch", Generate(server.address()));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err, absl::StrCat("goldfinch: RESOURCE_EXHAUSTED: too much\n",
                                     Command(server, 2)));
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(ResumeTest, ARequestThatIsNoResumeDoesNotWaitForRoom) {
  const ScriptedServer server({Full(), Rest()});
  const ProgramOutput output = RunProgram("goldfinch", Generate(server.address()));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err, "goldfinch: RESOURCE_EXHAUSTED: the queue is full\n");
}

TEST(ResumeTest, WithPatienceItDoes) {
  for (const Answer& refusal : {Full(), Refusal()}) {
    const ScriptedServer server({refusal, refusal, Rest()});
    const ProgramOutput output =
        RunProgram("goldfinch", Generate(server.address(), {"--retry_seconds=60"}));
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(output.out, "three four\n");
    EXPECT_EQ(server.requests().size(), 3u);
  }
  const ScriptedServer server({Full()});
  const ProgramOutput output =
      RunProgram("goldfinch", Generate(server.address(), {"--retry_seconds=2"}));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err, "goldfinch: RESOURCE_EXHAUSTED: the queue is full\n");
  EXPECT_GE(server.requests().size(), 2u);
  EXPECT_LE(server.requests().size(), 4u);
}

TEST(ResumeTest, AFullServerSendsARequestToTheNextOne) {
  const ScriptedServer one({Full()});
  const ScriptedServer other({Rest()});
  const std::string both = absl::StrCat(one.address(), ",", other.address());
  EXPECT_EQ(RunProgram("goldfinch", Generate(both)).out, "three four\n");
}

TEST(ResumeTest, NobodyWaitsInVain) {
  const ScriptedServer server(
      {{{},
        ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("an hour's worth"),
                                    std::chrono::hours(1)))}});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(
      RunProgram("goldfinch", Generate(server.address(), {"--retry_seconds=60"})).err,
      "goldfinch: RESOURCE_EXHAUSTED: an hour's worth\n");
  EXPECT_EQ(RunProgram("goldfinch", {"chat", "--server=" + server.address()}, "x\n").err,
            "goldfinch: RESOURCE_EXHAUSTED: an hour's worth\n");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  // What only the caller can clear is not asked again either.
  const ScriptedServer quota(
      {{{}, ToGrpcStatus(ForCallerToClear(absl::ResourceExhaustedError("too many")))}});
  EXPECT_EQ(
      RunProgram("goldfinch", Generate(quota.address(), {"--retry_seconds=60"})).err,
      "goldfinch: RESOURCE_EXHAUSTED: too many\n");
  EXPECT_EQ(quota.requests().size(), 1u);
}

TEST(ResumeTest, EveryInterruptionCountsAllTokens) {
  const Answer once_more = {
      {Piece(3, "three ")},
      InterruptedStatus(absl::UnavailableError("shutting down"), kKept, 3)};
  const ScriptedServer server({Interrupted(), once_more, {{LastPiece(4, "four")}, {}}});
  EXPECT_EQ(RunProgram("goldfinch", Generate(server.address())).out,
            "one two three four\n");
  ASSERT_EQ(server.requests().size(), 3u);
  EXPECT_EQ(server.requests()[2].resume().tokens_received(), 3);
}

TEST(ResumeTest, ItCanBeTurnedOff) {
  const ScriptedServer server({Interrupted(), Rest()});
  const ProgramOutput output =
      RunProgram("goldfinch", Generate(server.address(), {"--resume=off"}));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.out, "one two \n");
  EXPECT_EQ(output.err,
            absl::StrCat("goldfinch: UNAVAILABLE: shutting down\n", Command(server, 2)));
  EXPECT_EQ(server.requests().size(), 1u);
  EXPECT_THAT(server.deleted(), IsEmpty());
}

TEST(ResumeTest, ItCanBeDoneByHand) {
  const Answer once_more = {
      {Piece(3, "three ")},
      InterruptedStatus(absl::UnavailableError("shutting down"), kKept, 3)};
  const ScriptedServer server({once_more, {{LastPiece(4, "four")}, {}}});
  const ProgramOutput output = RunProgram(
      "goldfinch", {"generate", absl::StrCat("--resume_session=", kKept),
                    "--tokens_received=2", absl::StrCat("--server=", server.address())});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, "three four\n");
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 2u);
  v1::GenerateRequest resume;  // and nothing else
  resume.mutable_resume()->set_session_id(kKept);
  resume.mutable_resume()->set_tokens_received(2);
  EXPECT_EQ(requests[0].SerializeAsString(), resume.SerializeAsString());
  EXPECT_EQ(requests[1].resume().tokens_received(), 3);
  // It was there before.
  EXPECT_THAT(server.deleted(), IsEmpty());
}

TEST(ResumeTest, TheCommandWorksInAShellAsItIsPrinted) {
  const ScriptedServer server({Interrupted(), Rest()});
  const std::string servers = absl::StrCat("127.0.0.1:1,", server.address());
  const ProgramOutput output = RunProgram(
      "goldfinch", Generate(servers, {"--resume=off", "--json", "--stats",
                                      "--tls_server_name=it's $HOME; exit 1"}));
  EXPECT_EQ(output.exit_code, 1);
  const std::vector<std::string> parts = absl::StrSplit(output.err, "it goes on with ");
  ASSERT_THAT(parts, SizeIs(2)) << output.err;
  const ProgramOutput resumed = RunProgram(
      "/bin/sh", {"-c", absl::StrCat("PATH=", GOLDFINCH_BINARY_DIR, "; ", parts[1])});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_THAT(resumed.out, HasSubstr("\"text\":\"four\""));
  EXPECT_THAT(resumed.err, HasSubstr("finish reason length"));
  ASSERT_EQ(server.requests().size(), 2u);
  EXPECT_EQ(server.requests()[1].resume().tokens_received(), 2);
}

TEST(ResumeTest, TheCommandKeepsTheKeyToItself) {
  const ScriptedServer server({Interrupted()});
  const std::vector<std::string> generate =
      Generate(server.address(), {"--resume=off", "--key=secret"});
  std::string err = RunProgram("goldfinch", generate).err;
  EXPECT_THAT(err, HasSubstr("it goes on with the same --key and goldfinch generate "));
  EXPECT_THAT(err, Not(HasSubstr("secret")));
  setenv("GOLDFINCH_KEY", "secret", 1);
  err = RunProgram("goldfinch", Generate(server.address(), {"--resume=off"})).err;
  unsetenv("GOLDFINCH_KEY");
  EXPECT_THAT(err, EndsWith(Command(server, 2)));
}

TEST(ResumeTest, ByHandItTellsHowToGoOnFromWhereItGot) {
  const grpc::Status lost(grpc::StatusCode::INTERNAL, "lost");
  const ScriptedServer server({{{Piece(3, "three ")}, lost}, {{}, lost}});
  const auto run = [&] {
    return RunProgram("goldfinch", {"generate", absl::StrCat("--resume_session=", kKept),
                                    "--tokens_received=2",
                                    absl::StrCat("--server=", server.address())});
  };
  EXPECT_EQ(run().err, absl::StrCat("goldfinch: INTERNAL: lost\n", Command(server, 3)));
  // Nothing came: the user knows the command.
  EXPECT_EQ(run().err, "goldfinch: INTERNAL: lost\n");
}

TEST(ResumeTest, ItCannotBeChangedByHand) {
  const ScriptedServer server({Rest()});
  const auto exit_code = [&](const std::string& flag) {
    return RunProgram("goldfinch", {"generate", absl::StrCat("--resume_session=", kKept),
                                    flag, absl::StrCat("--server=", server.address())})
        .exit_code;
  };
  EXPECT_EQ(exit_code("--prompt=x"), 2);
  EXPECT_EQ(exit_code("--tokens=1"), 2);
  EXPECT_EQ(exit_code("--session=x"), 2);
  EXPECT_EQ(exit_code("--tokens_received=-1"), 2);
  EXPECT_TRUE(server.requests().empty());
  EXPECT_EQ(exit_code("--temperature=0"), 0);
  EXPECT_TRUE(server.requests()[0].has_sampling()) << "a server refuses that";
  EXPECT_EQ(RunProgram("goldfinch", {"generate", "--prompt=x", "--tokens_received=1"})
                .exit_code,
            2);
}

// This server may be without the store of the one that was interrupted, or not have
// noticed yet that the session's last call broke off.
TEST(ResumeTest, AnErrorThatIsNotOfTheMomentIsReportedAndNothingDeleted) {
  for (const auto& [code, name] :
       {std::pair(grpc::StatusCode::NOT_FOUND, "NOT_FOUND"),
        std::pair(grpc::StatusCode::FAILED_PRECONDITION, "FAILED_PRECONDITION")}) {
    const ScriptedServer server({Interrupted(), {{}, grpc::Status(code, "not now")}});
    const ProgramOutput output = RunProgram("goldfinch", Generate(server.address()));
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err,
              absl::StrCat("goldfinch: ", name, ": not now\n", Command(server, 2)));
    EXPECT_EQ(server.requests().size(), 2u);
    EXPECT_THAT(server.deleted(), IsEmpty());
  }
}

TEST(ResumeTest, WhatBrokeOffWithoutAWordIsNotAskedAgain) {
  const ScriptedServer server(
      {{{Piece(1, "one ")}, ToGrpcStatus(absl::UnavailableError("out of patience"))}});
  const ProgramOutput output = RunProgram("goldfinch", Generate(server.address()));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: UNAVAILABLE: out of patience"));
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST(ResumeTest, ARefusalSendsItToTheNextServerOnce) {
  const ScriptedServer one({Refusal()});
  const ScriptedServer other({Refusal(), Rest()});
  const std::string both = absl::StrCat(one.address(), ",", other.address());
  EXPECT_EQ(RunProgram("goldfinch", Generate(both)).exit_code, 1);
  EXPECT_EQ(one.requests().size(), 1u);
  EXPECT_EQ(other.requests().size(), 1u);
  EXPECT_EQ(RunProgram("goldfinch", Generate(both)).out, "three four\n");
}

TEST(ResumeTest, TheDeadlineIsOfAllTriesTogetherAndLosesNothing) {
  const ScriptedServer server({Interrupted(), Refusal(), Full()});
  const ProgramOutput output =
      RunProgram("goldfinch", Generate(server.address(), {"--timeout=2.5"}));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: DEADLINE_EXCEEDED: "));
  EXPECT_THAT(output.err, EndsWith(Command(server, 2)));
  EXPECT_LE(server.requests().size(), 4u);
  EXPECT_THAT(server.deleted(), IsEmpty());
}

TEST(ResumeTest, AnInterruptEndsTheWaiting) {
  const ScriptedServer server({Interrupted(), Refusal()});
  Program program("goldfinch", Generate(server.address()));
  ASSERT_TRUE(Eventually([&] { return server.requests().size() > 1; }));
  program.Signal(SIGINT);
  const ProgramOutput output = program.Wait();
  EXPECT_EQ(output.exit_code, 130);
  EXPECT_EQ(output.err, "goldfinch: interrupted\n");
  EXPECT_THAT(server.deleted(), ElementsAre(kKept));
}

TEST(ResumeTest, AChatWaitsForAServerThatTakesItsLine) {
  const ScriptedServer server({Refusal(), Refusal(), Rest()});
  const ProgramOutput output = RunProgram(
      "goldfinch", {"chat", absl::StrCat("--server=", server.address())}, "hello\n");
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_EQ(output.out, "three four\n");
  EXPECT_THAT(output.err, IsEmpty());
  ASSERT_EQ(server.requests().size(), 3u);
  EXPECT_EQ(server.requests()[2].session(), "made");
  EXPECT_EQ(server.requests()[2].text(), "hello");
}

// A connection may come so late that its server was given up.
TEST(ResumeTest, AChatSendsALineOnceHoweverLateAConnectionIs) {
  const Answer broken = {{}, grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken off")};
  for (const int num_servers : {1, 2}) {
    const ScriptedServer server({Refusal(), broken, Rest()});
    // Longer than is waited for one of several servers.
    Proxy proxy(
        server.port(),
        {.first = 1, .count = num_servers, .delay = std::chrono::milliseconds(3500)});
    std::string servers = proxy.address();
    for (int i = 1; i < num_servers; ++i) absl::StrAppend(&servers, ",", proxy.address());
    const ProgramOutput output =
        RunProgram("goldfinch", {"chat", absl::StrCat("--server=", servers)}, "hello\n");
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err, "goldfinch: UNAVAILABLE: broken off\n");
    EXPECT_EQ(server.requests().size(), 2u);
    EXPECT_EQ(proxy.num_accepted(), 2 * num_servers);
  }
}

TEST(ResumeTest, AnInterruptEndsTheWaitForAConnection) {
  const ScriptedServer server({Rest()});
  Proxy proxy(server.port());
  proxy.Freeze();
  for (const std::string& servers :
       {proxy.address(), absl::StrCat(proxy.address(), ",", proxy.address())}) {
    const int before = proxy.num_accepted();
    Program program("goldfinch", Generate(servers));
    ASSERT_TRUE(Eventually([&] { return proxy.num_accepted() > before; }));
    program.Signal(SIGINT);
    const ProgramOutput output = program.Wait();
    EXPECT_EQ(output.exit_code, 130);
    EXPECT_EQ(output.err, "goldfinch: interrupted\n");
  }
  EXPECT_TRUE(server.requests().empty());
}

TEST(ResumeTest, AServerThatIsNotReachedInTimeIsNamed) {
  const ScriptedServer server({Rest()});
  Proxy proxy(server.port());
  proxy.Freeze();
  const ProgramOutput output =
      RunProgram("goldfinch", Generate(proxy.address(), {"--timeout=0.3"}));
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err,
            absl::StrCat("goldfinch: DEADLINE_EXCEEDED: the time was over before ",
                         proxy.address(), " was reached\n"));
}

TEST(ResumeTest, AChatDoesNotSendALineThatIsNotUtf8) {
  const ScriptedServer server({Rest()});
  const ProgramOutput output =
      RunProgram("goldfinch", {"chat", absl::StrCat("--server=", server.address())},
                 "caf\xE9\nhello\n");
  EXPECT_EQ(output.exit_code, 2);
  EXPECT_EQ(output.err, "goldfinch: the text is not UTF-8: byte 3\n");
  EXPECT_THAT(output.out, IsEmpty());
}

TEST(ResumeTest, AScriptedChatEndsWithTheFirstAnswerThatFails) {
  const grpc::Status lost(grpc::StatusCode::INTERNAL, "lost");
  const ScriptedServer server({Rest(), {{Piece(3, "three ")}, lost}, Rest()});
  const ProgramOutput output =
      RunProgram("goldfinch", {"chat", absl::StrCat("--server=", server.address())},
                 "one\ntwo\nthree\n");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err, "goldfinch: INTERNAL: lost\n");
  EXPECT_EQ(output.out, "three four\nthree \n");
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(ResumeTest, AChatGoesOnWithAnInterruptedAnswer) {
  const ScriptedServer server({Interrupted(), Rest()});
  EXPECT_EQ(RunProgram("goldfinch", {"chat", absl::StrCat("--server=", server.address())},
                       "hello\n")
                .out,
            "one two three four\n");
  EXPECT_THAT(server.deleted(), ElementsAre("copy1")) << "which /undo would have used";
}

TEST(ResumeTest, AChatGoesOnWithoutUndoWhereItMayHaveNoCopy) {
  ScriptedServer server({Rest()});
  server.RefuseForks(ToGrpcStatus(absl::ResourceExhaustedError("enough sessions")));
  const ProgramOutput output =
      RunProgram("goldfinch", {"chat", absl::StrCat("--server=", server.address())},
                 "one\ntwo\n/undo\nthree\n");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.out, "three four\nthree four\n");
  EXPECT_EQ(output.err,
            "goldfinch: RESOURCE_EXHAUSTED: no /undo and /retry: enough sessions\n"
            "goldfinch: there is no line to take back\n");
  EXPECT_THAT(server.deleted(), IsEmpty());
}

TEST(ResumeTest, AChatDeletesNoSessionThatWasThereBefore) {
  const ScriptedServer server({Rest()});
  const ProgramOutput output = RunProgram(
      "goldfinch", {"chat", "--prompt=x", absl::StrCat("--server=", server.address())},
      "one\n/undo\n/undo\n");
  EXPECT_EQ(output.exit_code, 1) << "there is one copy";
  EXPECT_EQ(output.out, "three four\ncopy1\n");
  EXPECT_THAT(server.deleted(), ElementsAre("made"));

  const TestServer other;
  const std::string there = absl::StrCat("--server=", other.address());
  std::string id = RunProgram("goldfinch", {"sessions", "create", there}).out;
  id.pop_back();
  EXPECT_EQ(RunProgram("goldfinch", {"chat", "--session=" + id, "--max_tokens=3", there},
                       "one\n/undo\n")
                .exit_code,
            0);
  const std::string list = RunProgram("goldfinch", {"sessions", "list", there}).out;
  EXPECT_THAT(list, HasSubstr(id));
  EXPECT_EQ(std::count(list.begin(), list.end(), '\n'), 3) << "a head, it and the copy";
}

}  // namespace
}  // namespace goldfinch
