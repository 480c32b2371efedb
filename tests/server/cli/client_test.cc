// The client program against a server in this process: its flags, output and exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/cli/program.h"
#include "tests/server/cli/proxy.h"
#include "tests/server/cli/scripted_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;

class ClientTest : public testing::Test {
 protected:
  ProgramOutput Goldfinch(std::vector<std::string> arguments,
                          const std::string& standard_input = "") {
    arguments.push_back("--server=" + server_.address());
    return RunProgram("goldfinch", arguments, standard_input);
  }

  // The messages of `generate --json`.
  std::vector<json> Messages(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", "--json"});
    const ProgramOutput output = Goldfinch(arguments);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    std::vector<json> messages;
    for (const std::string& line : Lines(output.out)) {
      if (!line.empty()) messages.push_back(json::parse(line));
    }
    return messages;
  }

  std::vector<TokenId> TokensOf(const std::vector<json>& messages) {
    std::vector<TokenId> tokens;
    for (const json& message : messages) {
      for (const json& token : message.value("tokens", json::array())) {
        tokens.push_back(token.get<TokenId>());
      }
    }
    return tokens;
  }

  static std::vector<std::string> Lines(const std::string& text) {
    return absl::StrSplit(text, '\n');
  }

  TestServer server_{{.engine = {.num_pages = 1000000}}};
};

TEST_F(ClientTest, GenerateStreamsTheTextOfItsPrompt) {
  const std::vector<TokenId> tokens = ExpectedTokens(TextRequest("the prompt", 30));
  const std::vector<std::string> flags = {"generate", "--max_tokens=30", "--seed=7"};
  std::vector<std::string> with_prompt = flags;
  with_prompt.insert(with_prompt.end(), {"--prompt", "the prompt"});
  ProgramOutput output = Goldfinch(with_prompt);
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_EQ(output.out, TextOf(tokens) + "\n");
  EXPECT_THAT(output.err, IsEmpty());
  EXPECT_EQ(Goldfinch(flags, "the prompt").out, output.out) << "from standard input";
  EXPECT_EQ(Goldfinch(flags, "the prompt\n").out, output.out) << "as of echo";
  EXPECT_EQ(
      Goldfinch({"generate", "--max_tokens=30", "--seed=7", "--prompt=-"}, "the prompt\n")
          .out,
      output.out);
  EXPECT_EQ(Goldfinch(flags, "the prompt\n\n").out,
            TextOf(ExpectedTokens(TextRequest("the prompt\n", 30))) + "\n");
  std::vector<std::string> with_ids = flags;
  with_ids.push_back("--tokens=" + absl::StrJoin(Encode("the prompt"), ","));
  EXPECT_EQ(Goldfinch(with_ids).out, output.out);
}

TEST_F(ClientTest, GenerateSendsEverySamplingFlag) {
  // Each is out of its bounds, so that the server's answer shows that it arrived.
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"--max_tokens=0", "max_tokens is 0"},
      {"--min_tokens=-1", "min_tokens is -1"},
      {"--temperature=-1", "temperature is -1; it must be in [0, 100]"},
      {"--top_p=2", "top_p is 2"},
      {"--top_k=-3", "top_k is -3"},
      {"--min_p=-1", "min_p is -1"},
      {"--repetition_penalty=0", "repetition_penalty is 0"},
      {"--frequency_penalty=nan", "frequency_penalty is nan"},
      {"--presence_penalty=101", "presence_penalty is 101"},
      {"--stop=", "stop[0] has 0 bytes"},
      {"--stop_token_ids=5,1000", "stop_token_ids[1] is 1000"},
      {"--logit_bias=5:101", "logit_bias of token 5 is 101"},
      {"--logprobs=21", "logprobs is 21"},
      {"--n=17", "n is 17"},
      {"--priority=101", "priority is 101"},
      {"--tokens=1000", "tokens[0] is 1000"},
  };
  for (const auto& [flag, message] : cases) {
    const ProgramOutput output = Goldfinch({"generate", "--json", flag}, "x");
    EXPECT_EQ(output.exit_code, 1) << flag;
    EXPECT_THAT(output.err, StartsWith("goldfinch: INVALID_ARGUMENT: " + message));
    EXPECT_THAT(output.out, IsEmpty());
  }
}

TEST_F(ClientTest, GenerateSendsTheFlagsThatHaveNoBounds) {
  v1::GenerateRequest request = TextRequest("x", 64);
  request.mutable_sampling()->set_seed(123);
  request.mutable_sampling()->set_ignore_eos(true);
  const std::vector<TokenId> tokens = ExpectedTokens(request);
  std::vector<std::string> flags = {"--prompt=x", "--max_tokens=64", "--seed=123",
                                    "--ignore_eos"};
  EXPECT_EQ(TokensOf(Messages(flags)), tokens);
  const std::string whole = TextOf(tokens);
  const std::string stop = TextOf({tokens[10]});
  flags.push_back("--stop=" + stop);
  flags.push_back("--stop=another one");
  const auto text_of = [](const std::vector<json>& messages) {
    std::string text;
    for (const json& message : messages) text += message.value("text", "");
    return text;
  };
  std::vector<json> messages = Messages(flags);
  EXPECT_EQ(text_of(messages), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(messages.back()["matched_stop"], stop);
  flags.push_back("--include_stop_str_in_output");
  messages = Messages(flags);
  EXPECT_EQ(text_of(messages), whole.substr(0, whole.find(stop) + stop.size()));
}

TEST_F(ClientTest, JsonHasOneObjectAMessageWithTheNamesOfTheContract) {
  // More tokens than a message has, or there could be one only.
  const std::vector<json> messages = Messages(
      {"--prompt=x", "--max_tokens=1500", "--ignore_eos", "--logprobs=2", "--seed=3"});
  EXPECT_EQ(messages.front()["seed"], "3");
  EXPECT_EQ(messages.front()["logprobs"][0]["top"].size(), 2u);
  EXPECT_EQ(messages.back()["finish_reason"], "FINISH_REASON_LENGTH");
  EXPECT_EQ(messages.back()["usage"]["generated_tokens"], "1500");
  // What is 0 is there, too.
  EXPECT_EQ(messages.back()["usage"]["cached_prompt_tokens"], "0");
  for (const json& message : messages) {
    EXPECT_EQ(message["candidate"], 0);
    for (const json& entry : message["logprobs"]) EXPECT_TRUE(entry.contains("logprob"));
  }
  EXPECT_EQ(messages.front()["finish_reason"], "FINISH_REASON_UNSPECIFIED");
  EXPECT_FALSE(messages.front().contains("usage")) << "which can be unset";
}

TEST_F(ClientTest, SeveralCandidatesAreShownApart) {
  v1::GenerateRequest request = TextRequest("x", 8);
  const ProgramOutput output =
      Goldfinch({"generate", "--prompt=x", "--max_tokens=8", "--seed=7", "--n=3"});
  EXPECT_EQ(output.exit_code, 0);
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_THAT(output.out,
                HasSubstr(absl::StrCat("--- candidate ", i, " ---\n",
                                       TextOf(ExpectedTokens(request, i)), "\n")));
  }
}

TEST_F(ClientTest, StatsGoToStandardError) {
  const ProgramOutput output =
      Goldfinch({"generate", "--prompt=x", "--max_tokens=8", "--ignore_eos", "--stats"});
  EXPECT_THAT(output.err,
              HasSubstr("candidate 0: prompt 1 tokens (0 cached), generated 8"));
  EXPECT_THAT(output.err, EndsWith("; finish reason length\n"));
  // With the seed it got at random the text is the same again.
  EXPECT_THAT(output.err, StartsWith("seed: "));
  const std::string seed = output.err.substr(6, output.err.find('\n') - 6);
  EXPECT_EQ(Goldfinch({"generate", "--prompt=x", "--max_tokens=8", "--ignore_eos",
                       "--seed=" + seed})
                .out,
            output.out);
}

TEST_F(ClientTest, TimeoutIsTheDeadlineOfTheCall) {
  const ProgramOutput output = Goldfinch({"generate", "--prompt=x", "--timeout=0.05",
                                          "--max_tokens=1000000", "--ignore_eos"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: DEADLINE_EXCEEDED: "));
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(ClientTest, AnInterruptCancelsTheCall) {
  Program program("goldfinch", {"generate", "--prompt=x", "--max_tokens=1000000",
                                "--ignore_eos", "--server=" + server_.address()});
  ASSERT_TRUE(Eventually([&] { return !program.OutSoFar().empty(); }));
  program.Signal(SIGINT);
  const ProgramOutput output = program.Wait();
  EXPECT_EQ(output.exit_code, 130);
  EXPECT_EQ(output.err, "goldfinch: interrupted\n");
  EXPECT_TRUE(server_.BecomesIdle());
}

TEST_F(ClientTest, ScoreListsTokensAndTheirSum) {
  const ProgramOutput output =
      Goldfinch({"score", "--context=the", "--continuation= the end"});
  EXPECT_EQ(output.exit_code, 0);
  const std::vector<std::string> lines = Lines(output.out);
  const std::vector<TokenId> continuation = Encode(" the end");
  ASSERT_EQ(lines.size(), continuation.size() + 2);
  EXPECT_THAT(lines[0], StartsWith(absl::StrCat(continuation[0], "\t-")));
  EXPECT_THAT(lines[continuation.size()], StartsWith("total\t-"));
  EXPECT_EQ(Goldfinch({"score", "--continuation="}).exit_code, 1);
}

TEST_F(ClientTest, ScoreTakesTokensAndPrintsJson) {
  const std::string text =
      Goldfinch({"score", "--context=the", "--continuation= the end"}).out;
  const std::string context = absl::StrJoin(Encode("the"), ",");
  const std::string continuation = absl::StrJoin(Encode(" the end"), ",");
  EXPECT_EQ(Goldfinch({"score", "--context_tokens=" + context,
                       "--continuation_tokens=" + continuation})
                .out,
            text);
  const ProgramOutput output = Goldfinch(
      {"score", "--context=the", "--continuation_tokens=-", "--json"}, continuation);
  EXPECT_EQ(output.exit_code, 0) << output.err;
  const json scores = json::parse(output.out);
  EXPECT_EQ(scores["tokens"].size(), Encode(" the end").size());
  EXPECT_THAT(text, HasSubstr(absl::StrFormat("total\t%.6f",
                                              scores["total_logprob"].get<double>())));
  EXPECT_EQ(std::count(output.out.begin(), output.out.end(), '\n'), 1);
}

// Beyond what an argument may have.
TEST_F(ClientTest, LongTextsComeFromFilesAndStandardInput) {
  const TemporaryFolder folder;
  const std::string file = folder / "text";
  std::string text;
  while (text.size() < 140000) text += "the café and the end ";
  text += "\n";
  std::ofstream(file) << text << "\n";
  const std::string num_tokens = absl::StrCat(Encode(text).size());
  const std::vector<std::vector<std::string>> prompts = {
      {"--prompt=-"}, {"--prompt_file=-"}, {"--prompt_file=" + file}};
  for (const std::vector<std::string>& prompt : prompts) {
    SCOPED_TRACE(prompt.front());
    std::vector<std::string> generate = {"generate", "--max_tokens=1", "--stats"};
    std::vector<std::string> create = {"sessions", "create", "--json"};
    std::vector<std::string> score = {"score", "--json", "--continuation= end"};
    generate.push_back(prompt.front());
    create.push_back(prompt.front());
    score.push_back(absl::StrReplaceAll(prompt.front(), {{"prompt", "context"}}));
    EXPECT_THAT(Goldfinch(generate, text + "\n").err,
                HasSubstr(absl::StrCat("prompt ", num_tokens, " tokens")));
    const ProgramOutput created = Goldfinch(create, text + "\n");
    EXPECT_EQ(json::parse(created.out)["num_tokens"], num_tokens) << created.err;
    const ProgramOutput scored = Goldfinch(score, text + "\n");
    EXPECT_EQ(json::parse(scored.out)["usage"]["prompt_tokens"], num_tokens)
        << scored.err;
  }
  const ProgramOutput chat =
      Goldfinch({"chat", "--system_file=" + file, "--max_tokens=1"}, "x\n/stats\n");
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_THAT(chat.out, HasSubstr(absl::StrCat(Encode(text).size() + 2, " tokens, ")));

  const std::string ids = Goldfinch({"tokenize"}, text).out;
  EXPECT_THAT(Goldfinch({"generate", "--max_tokens=1", "--stats", "--tokens=-"}, ids).err,
              HasSubstr(absl::StrCat("prompt ", num_tokens, " tokens")));
  EXPECT_EQ(Goldfinch({"detokenize"}, ids).out, text + "\n");
}

TEST_F(ClientTest, AFileThatCannotBeReadIsNamed) {
  const TemporaryFolder folder;
  const std::string missing = folder / "missing";
  ProgramOutput output = Goldfinch({"generate", "--prompt_file=" + missing});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err, absl::StrCat("goldfinch: cannot read ", missing,
                                     ": No such file or directory\n"));
  output = Goldfinch({"score", "--continuation=x", "--context_file=" + folder.path()});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.err,
            absl::StrCat("goldfinch: cannot read ", folder.path(), ": Is a directory\n"));
}

TEST_F(ClientTest, TokenizeAndDetokenizeAreInverse) {
  const std::string text = "the café and the 🐦";
  const std::string ids = absl::StrJoin(Encode(text), " ");
  EXPECT_EQ(Goldfinch({"tokenize", text}).out, ids + "\n");
  EXPECT_EQ(Goldfinch({"tokenize"}, text).out, ids + "\n");
  EXPECT_EQ(Goldfinch({"tokenize"}, text + "\n").out,
            absl::StrJoin(Encode(text + "\n"), " ") + "\n");
  EXPECT_EQ(Goldfinch({"detokenize", absl::StrJoin(Encode(text), ",")}).out, text + "\n");
  std::vector<std::string> arguments = absl::StrSplit("detokenize " + ids, ' ');
  EXPECT_EQ(Goldfinch(arguments).out, text + "\n");
  EXPECT_EQ(Goldfinch({"detokenize"}, ids + "\n").out, text + "\n");
  EXPECT_EQ(Goldfinch({"detokenize", "-"}, absl::StrJoin(Encode(text), ",\n")).out,
            text + "\n");
  EXPECT_EQ(Goldfinch({"detokenize", "1000"}).exit_code, 1);
}

TEST_F(ClientTest, ModelShowsWhatIsServed) {
  const ProgramOutput output = Goldfinch({"model"});
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.out, HasSubstr("name: \"fake\"\n"));
  EXPECT_THAT(output.out, HasSubstr("vocab_size: 1000\n"));
}

// The first is not there, the second has no time for it.
TEST_F(ClientTest, ServersStandInForOneAnother) {
  TestServer draining;
  draining.server().BeginDrain();
  const std::vector<std::vector<std::string>> commands = {
      {"score", "--context=the", "--continuation= end"},
      {"tokenize", "the end"},
      {"detokenize", "5"},
      {"model"},
  };
  for (const std::vector<std::string>& command : commands) {
    SCOPED_TRACE(command.front());
    std::vector<std::string> with_all = command;
    with_all.push_back(absl::StrCat("--server=127.0.0.1:1,127.0.0.1:", draining.port(),
                                    ",", server_.address()));
    const ProgramOutput output = RunProgram("goldfinch", with_all);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(output.out, Goldfinch(command).out);
  }
}

TEST_F(ClientTest, HealthSaysWhetherTheServerServes) {
  ProgramOutput output = Goldfinch({"health"});
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_EQ(output.out, "SERVING\n");
  EXPECT_EQ(Goldfinch({"health", "--wait=60"}).exit_code, 0);
  server_.server().BeginDrain();
  output = Goldfinch({"health"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.out, "NOT_SERVING\n");
}

TEST_F(ClientTest, OutputThatIsLostIsAnError) {
  const std::vector<std::vector<std::string>> commands = {
      {"generate", "--prompt=x", "--max_tokens=3"},
      {"generate", "--prompt=x", "--max_tokens=3", "--json"},
      {"tokenize", "x"},
      {"detokenize", "5"},
      {"score", "--continuation=x"},
      {"model"},
      {"health"},
      {"sessions", "create"},
      {"sessions", "list"},
      {"--help"},
      {"--version"},
  };
  for (std::vector<std::string> command : commands) {
    SCOPED_TRACE(absl::StrJoin(command, " "));
    if (!command.front().starts_with("--")) {
      command.push_back("--server=" + server_.address());
    }
    const ProgramOutput output =
        Program("goldfinch", command, Program::Into{"/dev/full"}).Wait();
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err, "goldfinch: standard output could not be written\n");
  }
  // What had failed before keeps its exit code.
  EXPECT_EQ(Program("goldfinch", {"sing"}, Program::Into{"/dev/full"}).Wait().exit_code,
            2);
}

TEST_F(ClientTest, WhatNobodyCanReadIsNotGenerated) {
  for (const char* candidates : {"--n=1", "--n=2"}) {
    const ProgramOutput output =
        Program("goldfinch",
                {"generate", "--prompt=x", "--max_tokens=20000", "--ignore_eos", "--json",
                 "--stats", candidates, "--server=" + server_.address()},
                Program::Into{"/dev/full"})
            .Wait();
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err,
                EndsWith("\ngoldfinch: standard output could not be written\n"));
    EXPECT_THAT(output.err, Not(HasSubstr("finish reason"))) << "it came to its end";
    EXPECT_THAT(output.err, Not(HasSubstr("CANCELLED")));
    EXPECT_TRUE(server_.BecomesIdle());
  }
}

// A server that takes the connection and says nothing.
TEST_F(ClientTest, TheTimeoutOfHealthIsThatOfOneCheck) {
  Proxy proxy(server_.port());
  proxy.Freeze();
  const std::string there = "--server=" + proxy.address();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(RunProgram("goldfinch", {"health", there, "--timeout=2"}).exit_code, 1);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  const int before = proxy.num_accepted();
  EXPECT_EQ(
      RunProgram("goldfinch", {"health", there, "--timeout=0.2", "--wait=3"}).exit_code,
      1);
  EXPECT_GE(proxy.num_accepted() - before, 2) << "it asks again";
  EXPECT_EQ(Goldfinch({"health", "--timeout=1e300", "--wait=1e300"}).out, "SERVING\n");
}

TEST(ClientCandidatesTest, WhatThereIsOfUnfinishedOnesIsShownToo) {
  const auto of = [](std::uint32_t candidate, v1::GenerateResponse message) {
    message.set_candidate(candidate);
    return message;
  };
  const ScriptedServer server(
      {{{of(0, Piece(1, "a king ")), of(1, Piece(2, "a queen")),
         of(0, LastPiece(3, "sat")), of(1, Piece(4, " stood"))},
        grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "over")}});
  const ProgramOutput output = RunProgram(
      "goldfinch", {"generate", "--prompt=x", "--n=3", "--server=" + server.address()});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_EQ(output.out,
            "--- candidate 0 ---\na king sat\n--- candidate 1 ---\na queen stood\n");
  EXPECT_EQ(output.err, "goldfinch: DEADLINE_EXCEEDED: over\n");
}

TEST(ClientSessionTest, ItsTextComesFromStandardInputOnlyWhenAsked) {
  const ScriptedServer server({{{LastPiece(1, "x")}, {}}});
  const std::vector<std::string> flags = {"generate", "--session=a",
                                          "--server=" + server.address()};
  // As in `while read id; do goldfinch generate --session=$id; done <ids`.
  EXPECT_EQ(RunProgram("goldfinch", flags, "b\nc\n").exit_code, 0);
  // Nobody ever writes to this pipe, or closes it.
  EXPECT_EQ(Program("goldfinch", flags, Program::Typed()).Wait().exit_code, 0);
  std::vector<std::string> asked = flags;
  asked.push_back("--prompt=-");
  EXPECT_EQ(RunProgram("goldfinch", asked, "the text\n").exit_code, 0);
  EXPECT_EQ(RunProgram("goldfinch", asked, "").exit_code, 0);
  const std::vector<v1::GenerateRequest> requests = server.requests();
  ASSERT_EQ(requests.size(), 4u);
  for (const std::size_t alone : {0u, 1u, 3u}) {
    EXPECT_EQ(requests[alone].session(), "a");
    EXPECT_EQ(requests[alone].input_case(), v1::GenerateRequest::INPUT_NOT_SET) << alone;
  }
  EXPECT_EQ(requests[2].text(), "the text");
}

TEST(ClientWithoutServerTest, SaysSoAndFails) {
  const std::string nowhere = "--server=127.0.0.1:1";
  ProgramOutput output = RunProgram("goldfinch", {"health", nowhere});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: UNAVAILABLE: "));
  EXPECT_THAT(output.err, HasSubstr("Connection refused"));
  output = RunProgram("goldfinch", {"health", nowhere, "--wait=0.3"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("Connection refused"));
  output = RunProgram("goldfinch", {"generate", "--prompt=x", nowhere});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: UNAVAILABLE: "));
}

TEST(ClientUsageTest, AMistakeIsOneLineAndExitCodeTwo) {
  const std::vector<std::vector<std::string>> mistakes = {
      {},
      {"sing"},
      {"generate", "--no_such_flag"},
      {"generate", "--temperature=warm"},
      {"generate", "--prompt=x", "--logprobs=1"},
      {"generate", "--prompt=x", "--tokens=1"},
      {"generate", "--timeout=-1"},
      {"generate", "--seed=-1"},
      {"generate", "--prompt=x", "--logit_bias=5"},
      {"score"},
      {"score", "--context=x"},
      {"score", "--continuation=x", "--continuation_tokens=1"},
      {"score", "--context=-", "--continuation_file=-"},
      {"generate", "--prompt=x", "--prompt_file=y"},
      {"generate", "--prompt_file=x", "--tokens=1"},
      {"generate", "--tokens=one"},
      {"chat", "--prompt=-"},
      {"chat", "--prompt_file=-"},
      {"chat", "--prompt_file=x", "--session=y"},
      {"detokenize", "1.5"},
      {"health", "--wait=-1"},
      {"model", "--retry_seconds=-1"},
      {"sessions", "import", "file", "--retry_seconds=1"},
      {"verify"},
      {"verify", "dir", "file", "--compute_dtype=f8"},
      {"verify", "dir", "file", "--chunk=0"},
      {"verify", "dir", "file", "--batch=0"},
      {"verify", "dir", "file", "--batch=4097"},
      {"perplexity", "dir"},
      {"perplexity", "dir", "file", "--window=0"},
      {"perplexity", "dir", "file", "--window=1048577"},
  };
  for (const std::vector<std::string>& mistake : mistakes) {
    SCOPED_TRACE(absl::StrJoin(mistake, " "));
    const ProgramOutput output = RunProgram("goldfinch", mistake);
    EXPECT_EQ(output.exit_code, 2);
    EXPECT_THAT(output.err, StartsWith("goldfinch: "));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
    EXPECT_THAT(output.out, IsEmpty());
  }
}

TEST(ClientUsageTest, AMistakeIsNamed) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "A subcommand is required"},
      {{"sing"}, "not known: sing"},
      {{"sessions", "sing"}, "not known: sing"},
      {{"score", "--continuatoin=x"}, "not known: --continuatoin=x"},
      {{"generate", "--prompt=x", "--logit_bias=5"},
       "--logit_bias is 5; it must be ID:VALUE"},
      {{"generate", "--prompt=x", "--logprobs=1"}, "--logprobs requires --json"},
      {{"score"}, "--continuation is required"},
      {{"score", "--context=-", "--continuation=-"}, "standard input is given twice"},
      {{"detokenize", "5", "99999999999"}, "99999999999 is no token id"},
      {{"chat", "--prompt=-"}, "standard input has the lines; give --prompt_file"},
      {{"generate", "--seed=-1"}, "--seed: is -1; it must be 0 or more"},
      {{"generate", "--timeout=0"}, "--timeout: is 0; it must be above 0"},
      {{"verify", "dir", "file", "--batch=5000"},
       "--batch: is 5000; it must be in [1, 4096]"},
      {{"verify", "dir", "file", "--chunk=nan"}, "--chunk: is nan; it must be above 0"},
  };
  for (const auto& [arguments, message] : cases) {
    const ProgramOutput output = RunProgram("goldfinch", arguments);
    EXPECT_EQ(output.exit_code, 2);
    EXPECT_EQ(output.err, "goldfinch: " + message + "\n");
  }
}

TEST(ClientUsageTest, TextThatIsNotUtf8IsNotSent) {
  const std::string bad = "caf\xE9";
  const std::vector<std::vector<std::string>> commands = {
      {"generate", "--prompt=" + bad},
      {"generate", "--prompt=x", "--stop=fine", "--stop=" + bad},
      {"generate", "--prompt=x", "--session=" + bad},
      {"chat", "--prompt=" + bad},
      {"chat", "--session=" + bad},
      {"sessions", "create", "--prompt=" + bad},
      {"sessions", "get", bad},
      {"sessions", "delete", bad},
      {"admin", "requests", "--tenant=" + bad},
      {"score", "--continuation=" + bad},
      {"score", "--context=" + bad, "--continuation=x"},
      {"tokenize", bad},
      {"generate"},
      {"generate", "--tokens=-"},
      {"sessions", "create", "--prompt=-"},
      {"score", "--continuation=x", "--context_file=-"},
      {"tokenize"},
      {"detokenize"},
      {"perplexity", "dir", "-"},
  };
  for (std::vector<std::string> command : commands) {
    SCOPED_TRACE(absl::StrJoin(command, " "));
    if (command.front() != "perplexity") command.push_back("--server=127.0.0.1:1");
    const ProgramOutput output = RunProgram("goldfinch", command, bad);
    EXPECT_EQ(output.exit_code, 2);
    EXPECT_THAT(output.err, StartsWith("goldfinch: "));
    EXPECT_THAT(output.err, EndsWith(": the text is not UTF-8: byte 3\n"));
    EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
  }
}

TEST(PerplexityTest, ATextThatCannotBeReadIsNamed) {
  const TemporaryFolder folder;
  const std::string empty = folder / "empty";
  std::ofstream(empty).flush();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {folder / "missing", absl::StrCat("goldfinch: cannot read ", folder / "missing",
                                        ": No such file or directory\n")},
      {folder.path(), "goldfinch: cannot read " + folder.path() + ": Is a directory\n"},
      {empty, "goldfinch perplexity: " + empty + " is empty\n"},
  };
  for (const auto& [path, message] : cases) {
    const ProgramOutput output =
        RunProgram("goldfinch", {"perplexity", "no model", path});
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err, message);
  }
}

TEST(PerplexityTest, OnlyATerminalIsToldOfProgress) {
  const ProgramOutput output = RunProgram(
      "goldfinch", {"perplexity", GOLDFINCH_SOURCE_DIR "/models/demo", "-", "--window=4"},
      "The king said to his daughter that she must marry.");
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("bits a byte\n"));
  EXPECT_THAT(output.err, IsEmpty());
}

TEST(ClientUsageTest, HelpAndVersionAreNotErrors) {
  ProgramOutput output = RunProgram("goldfinch", {"--help"});
  EXPECT_EQ(output.exit_code, 0);
  for (const char* command :
       {"generate", "score", "tokenize", "detokenize", "model", "health", "verify"}) {
    EXPECT_THAT(output.out, HasSubstr(command));
  }
  output = RunProgram("goldfinch", {"--version"});
  EXPECT_EQ(output.exit_code, 0);
  // The commit is of the build: none where there is no git.
  EXPECT_THAT(output.out, MatchesRegex("goldfinch [0-9.]+([+][A-Za-z0-9._/+-]+)?\n"));
}

}  // namespace
}  // namespace goldfinch
