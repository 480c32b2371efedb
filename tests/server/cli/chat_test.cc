// A chat by pipe, with the demo model. Greedy, so that answers can be told beforehand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/cli/scripted_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::SizeIs;
using testing::StartsWith;

constexpr char kId[] = "[0-9a-f]+";

class ChatTest : public testing::Test {
 protected:
  static std::vector<std::string> Greedy(std::vector<std::string> arguments,
                                         int max_tokens) {
    arguments.insert(arguments.end(), {"--temperature=0", "--ignore_eos",
                                       absl::StrCat("--max_tokens=", max_tokens)});
    return arguments;
  }

  ProgramOutput Chat(const std::string& input, int max_tokens = 8,
                     const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = Greedy({"chat"}, max_tokens);
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Goldfinch(server_.address(), arguments, input);
  }

  // The answers to texts one after another, by `generate` with the whole history.
  std::string Answers(const std::vector<std::string>& texts, int max_tokens = 8) const {
    std::string answers;
    std::string history;  // ids
    const auto append = [&history](const std::string& ids) {
      absl::StrAppend(&history, history.empty() ? "" : ",", ids);
    };
    for (const std::string& text : texts) {
      append(absl::StrReplaceAll(GoldfinchLine(server_.address(), {"tokenize", text}),
                                 {{" ", ","}}));
      const std::string messages = GoldfinchLine(
          server_.address(),
          Greedy({"generate", "--json", "--tokens=" + history}, max_tokens));
      for (const auto line : absl::StrSplit(messages, '\n')) {
        const json message = json::parse(std::string(line));
        absl::StrAppend(&answers, message.value("text", ""));
        const json tokens = message.value("tokens", json::array());
        for (const json& token : tokens) {
          append(absl::StrCat(token.get<int>()));
        }
      }
      absl::StrAppend(&answers, "\n");
    }
    return answers;
  }

  static std::vector<std::string> Lines(const std::string& text) {
    return absl::StrSplit(text, '\n', absl::SkipEmpty());
  }

  // Ids.
  std::vector<std::string> Sessions() const {
    std::vector<std::string> ids;
    for (const std::string& line :
         Lines(GoldfinchLine(server_.address(), {"sessions", "list", "--json"}))) {
      ids.push_back(json::parse(line)["id"]);
    }
    return ids;
  }

  TemporaryFolder folder_;
  DemoServer server_{{"--session_store=" + folder_.path()}};
};

TEST_F(ChatTest, TurnsEqualGenerateWithTheWholeHistory) {
  const std::vector<std::string> texts = {"It was a dark night", " and she said",
                                          "/said he"};
  const ProgramOutput output =
      Chat("It was a dark night\n and she said\n\n//said he\n/quit\nnever said\n");
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.err, IsEmpty()) << "no prompt, the input being no terminal";
  EXPECT_EQ(output.out, Answers(texts));
}

TEST_F(ChatTest, ASessionBeginsWithAPromptAndIsContinuedLater) {
  const std::vector<std::string> texts = {"Once upon a time there was", " and", " but"};
  const ProgramOutput first =
      Chat(" and\n/session\n", 8, {"--system=Once upon a time there was"});
  EXPECT_EQ(first.exit_code, 0);
  const std::string id = Lines(first.out).back();
  const ProgramOutput second = Chat(" but", 8, {"--session=" + id});
  EXPECT_EQ(second.exit_code, 0) << second.err;

  const std::string together = Answers({"Once upon a time there was and", " but"});
  EXPECT_EQ(first.out + second.out,
            absl::StrReplaceAll(together, {{"\n", absl::StrCat("\n", id, "\n")}})
                .substr(0, together.size() + id.size() + 1));
}

TEST_F(ChatTest, CommandsForkParkAndTell) {
  const ProgramOutput output = Chat(
      "/session\nThe\n/fork\n/session\n queen\n/park\n/stats\n king\n/stats\n/help\n");
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, IsEmpty());
  const std::vector<std::string> lines = Lines(output.out);
  const std::string& id = lines.front();
  EXPECT_THAT(id, MatchesRegex(kId));
  EXPECT_EQ(SessionJson(server_.address(), id)["num_tokens"], "9") << "the fork went on";
  EXPECT_THAT(output.out,
              testing::ContainsRegex("\nsession: parked, [0-9]+ tokens, [0-9]+ bytes\n"
                                     "last answer: prompt [0-9]+ tokens "
                                     "\\([0-9]+ cached\\), generated 8; .*first token"));
  EXPECT_THAT(output.out, testing::ContainsRegex("\nsession: (alive|resting), [0-9]+ "
                                                 "tokens, [0-9]+ bytes, idle for "));
  EXPECT_THAT(output.out, HasSubstr("/quit"));
}

TEST_F(ChatTest, ParkedSessionsGoOnAsIfNothingHadHappened) {
  const ProgramOutput output = Chat("The old\n/park\n king\n/park\n said\n");
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, Answers({"The old", " king", " said"}));
}

TEST_F(ChatTest, ExportWritesTheSession) {
  const std::string file = folder_ / "a chat.snapshot";
  const ProgramOutput output = Chat(absl::StrCat("The\n/export ", file, "\n/session\n"));
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, MatchesRegex("exported [0-9]+ bytes, .* MB/s\n"));
  const std::string copy = GoldfinchLine(server_.address(), {"sessions", "import", file});
  EXPECT_EQ(SessionJson(server_.address(), copy)["num_tokens"], "9");
}

TEST_F(ChatTest, AMistakeEndsAScript) {
  for (const char* mistake : {"/sing", "/fork twice", "/export"}) {
    const ProgramOutput output = Chat(absl::StrCat("The\n", mistake, "\n king\n"));
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err,
              absl::StrCat("goldfinch: ", mistake, " is no command; /help lists them\n"));
    EXPECT_EQ(output.out, Answers({"The"}));
  }

  const ProgramOutput unknown =
      Chat("The\n", 8, {"--session=0123456789abcdef0123456789abcdef"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_THAT(unknown.err, StartsWith("goldfinch: NOT_FOUND: "));
  EXPECT_THAT(unknown.out, IsEmpty());
}

TEST_F(ChatTest, SamplingFlagsReachTheServer) {
  const ProgramOutput output = Chat("The\n king\n", 8, {"--top_p=2"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(Lines(output.err), SizeIs(1));
  EXPECT_THAT(output.err, StartsWith("goldfinch: INVALID_ARGUMENT: top_p is 2"));
  EXPECT_EQ(Chat("The\n", 8, {"--logit_bias=5"}).err,
            "goldfinch: --logit_bias is 5; it must be ID:VALUE\n");
}

TEST_F(ChatTest, AnInterruptEndsTheAnswerAndKeepsTheSession) {
  std::vector<std::string> arguments = Greedy({"chat"}, 100000);
  arguments.push_back("--server=" + server_.address());
  Program chat("goldfinch", arguments, Program::Typed());
  chat.Type("The\n");
  ASSERT_TRUE(Eventually([&] { return chat.OutSoFar().size() > 20; }));
  chat.Signal(SIGINT);
  ASSERT_TRUE(Eventually([&] { return chat.ErrSoFar() == "goldfinch: interrupted\n"; }));
  const std::string answer = chat.OutSoFar();
  chat.Type("/stats\n king\n");
  ASSERT_TRUE(Eventually([&] {
    return absl::StrContains(chat.OutSoFar(), "last answer: broken off after ") &&
           chat.OutSoFar().size() > answer.size() + 200;
  })) << chat.ErrSoFar();
  chat.Signal(SIGINT);
  chat.Type("/session\n/quit\n");
  const ProgramOutput output = chat.Wait();
  EXPECT_EQ(output.exit_code, 0);
  const std::string id = Lines(output.out).back();
  EXPECT_THAT(id, MatchesRegex(kId));
  EXPECT_GT(
      std::stoi(SessionJson(server_.address(), id)["num_tokens"].get<std::string>()), 10);
}

TEST_F(ChatTest, AnInterruptAtThePromptEndsIt) {
  for (const int number : {SIGINT, SIGTERM}) {
    Program chat("goldfinch", {"chat", "--server=" + server_.address()},
                 Program::Typed());
    chat.Type("/session\n");
    ASSERT_TRUE(Eventually([&] { return chat.OutSoFar().ends_with('\n'); }));
    chat.Signal(number);
    EXPECT_EQ(chat.Wait().exit_code, 130);
  }
}

TEST_F(ChatTest, UndoTakesTheLastLineBack) {
  const ProgramOutput output = Chat("The\n king\n/undo\n queen\n/session\n");
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, IsEmpty());
  const std::vector<std::string> lines = Lines(output.out);
  const std::string id = lines.back();
  EXPECT_THAT(output.out, HasSubstr(absl::StrCat("\n", id, "\n"))) << "as told by /undo";
  std::string answers = Answers({"The", " king"});
  answers += absl::StrCat(
      id, "\n", Answers({"The", " queen"}).substr(Answers({"The"}).size()), id, "\n");
  EXPECT_EQ(output.out, answers);
  EXPECT_THAT(Sessions(), ElementsAre(id)) << "and nothing else is left";

  EXPECT_EQ(Chat("/undo\n").err, "goldfinch: there is no line to take back\n");
  EXPECT_EQ(Chat("The\n/park\n/retry\n").err,
            "goldfinch: there is no line to take back\n");
}

TEST_F(ChatTest, RetryAnswersTheLineAgain) {
  EXPECT_EQ(Chat("The\n king\n/retry\n/retry\n said\n").out,
            Answers({"The", " king"}) +
                Answers({"The", " king"}).substr(Answers({"The"}).size()) +
                Answers({"The", " king", " said"}).substr(Answers({"The"}).size()));
  EXPECT_THAT(Sessions(), SizeIs(1));
}

TEST_F(ChatTest, EveryAnswerHasASeedOfItsOwn) {
  const auto answer = [&](const std::string& seed) {
    return GoldfinchLine(server_.address(), {"generate", "--prompt=The", "--seed=" + seed,
                                             "--ignore_eos", "--max_tokens=20"}) +
           "\n";
  };
  const auto chat = [&](const std::string& seed) {
    return Goldfinch(server_.address(),
                     {"chat", "--seed=" + seed, "--ignore_eos", "--max_tokens=20"},
                     "The\n/retry\n/retry\n")
        .out;
  };
  EXPECT_EQ(chat("7"), answer("7") + answer("8") + answer("9"));
  EXPECT_NE(answer("7"), answer("8"));
  EXPECT_EQ(chat("18446744073709551615"),
            answer("18446744073709551615") + answer("0") + answer("1"));
}

TEST_F(ChatTest, NoCopyIsLeftHoweverItEnds) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    for (const bool answering : {false, true}) {
      std::vector<std::string> arguments = Greedy({"chat"}, answering ? 100000 : 3);
      arguments.push_back("--server=" + server_.address());
      Program chat("goldfinch", arguments, Program::Typed());
      chat.Type(answering ? "The\n" : "The\n king\n");
      // Two answers at their ends, or one within it.
      ASSERT_TRUE(Eventually([&] {
        const std::string out = chat.OutSoFar();
        return answering ? out.size() > 20
                         : std::count(out.begin(), out.end(), '\n') == 2;
      }));
      EXPECT_THAT(Sessions(), SizeIs(2));
      chat.Signal(number);
      if (answering && number == SIGINT) chat.Type("/quit\n");
      const ProgramOutput output = chat.Wait();
      EXPECT_EQ(output.exit_code, answering && number == SIGINT ? 0 : 130);
      const std::vector<std::string> left = Sessions();
      EXPECT_THAT(left, SizeIs(1)) << number;
      for (const std::string& id : left) {
        GoldfinchLine(server_.address(), {"sessions", "delete", id});
      }
    }
  }
}

TEST_F(ChatTest, GenerateContinuesASessionToo) {
  const std::string address = server_.address();
  const std::string id =
      GoldfinchLine(address, {"sessions", "create", "--prompt=The old king"});
  const std::vector<std::string> more = Greedy({"generate", "--session=" + id}, 4);
  const std::string first = GoldfinchLine(address, more);
  const std::string second = GoldfinchLine(address, more);
  EXPECT_EQ(absl::StrCat(first, second, "\n"), Answers({"The old king"}))
      << "without a text it goes on by itself";
}

TEST(ScriptedChatTest, ARetryThatFailsKeepsTheAnswerBefore) {
  const ScriptedServer server({{{LastPiece(1, "an answer")}, grpc::Status::OK},
                               {{}, {grpc::StatusCode::INVALID_ARGUMENT, "too long"}}});
  const ProgramOutput output = Goldfinch(server.address(), {"chat"}, "line\n/retry\n");
  EXPECT_EQ(output.exit_code, 1);
  ASSERT_EQ(server.requests().size(), 2u);
  EXPECT_EQ(server.requests()[0].session(), "made");
  EXPECT_EQ(server.requests()[1].session(), "copy1");
  EXPECT_THAT(server.deleted(), ElementsAre("copy1", "copy2"))
      << "the session that has the answer stays";
}

TEST(ScriptedChatTest, WhatTheUserForkedStaysWhenItIsUndone) {
  const ScriptedServer server({{{LastPiece(1, "an answer")}, grpc::Status::OK}});
  const ProgramOutput output =
      Goldfinch(server.address(), {"chat"}, "line\n/fork\n/undo\n/session\n");
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, "an answer\ncopy2\ncopy1\ncopy1\n");
  EXPECT_THAT(server.deleted(), IsEmpty());
}

TEST(ChatRestartTest, AChatSurvivesTheRestartOfItsServers) {
  const TemporaryFolder folder;
  const std::vector<std::string> flags = {"--session_store=" + folder.path(),
                                          "--drain_seconds=30"};
  DemoServer one(flags);
  DemoServer other(flags);
  const std::vector<std::string> sampling = {"--temperature=0.7", "--seed=3",
                                             "--max_tokens=3000", "--ignore_eos"};
  std::vector<std::string> arguments = {
      "chat", absl::StrCat("--server=", one.address(), ",", other.address())};
  arguments.insert(arguments.end(), sampling.begin(), sampling.end());
  Program chat("goldfinch", arguments, Program::Typed());
  chat.Type("It was a dark night\n");
  ASSERT_TRUE(Eventually([&] { return chat.OutSoFar().size() > 100; }))
      << chat.ErrSoFar();
  EXPECT_EQ(one.Stop().exit_code, 0);
  chat.Type("/stats\n/quit\n");
  const ProgramOutput output = chat.Wait();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("generated 3000; "));

  std::vector<std::string> unbroken = {"generate", "--prompt=It was a dark night"};
  unbroken.insert(unbroken.end(), sampling.begin(), sampling.end());
  EXPECT_THAT(output.out, StartsWith(GoldfinchLine(other.address(), unbroken) + "\n"));
}

TEST(ChatRestartTest, GenerateSurvivesTheRestartOfItsServer) {
  const TemporaryFolder folder;
  const std::vector<std::string> flags = {"--session_store=" + folder.path(),
                                          "--drain_seconds=30"};
  DemoServer one(flags);
  DemoServer other(flags);
  std::vector<std::string> arguments = {"generate",     "--prompt=The king",
                                        "--seed=5",     "--max_tokens=3000",
                                        "--ignore_eos", "--stats"};
  std::vector<std::string> with_both = arguments;
  with_both.push_back(absl::StrCat("--server=", one.address(), ",", other.address()));
  Program client("goldfinch", with_both);
  ASSERT_TRUE(Eventually([&] { return client.OutSoFar().size() > 100; }));
  EXPECT_EQ(one.Stop().exit_code, 0);
  const ProgramOutput output = client.Wait();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, HasSubstr("generated 3000; "));
  EXPECT_THAT(output.err, HasSubstr("interruptions: 1\n"));
  EXPECT_EQ(output.out, Goldfinch(other.address(), arguments).out);
  EXPECT_THAT(GoldfinchLine(other.address(), {"sessions", "list", "--json"}), IsEmpty())
      << "nobody asked for a session";
}

}  // namespace
}  // namespace goldfinch
