// The sessions subcommand with the demo model: every action, on one server and from one
// to another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/cli/scripted_server.h"

namespace goldfinch {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::SizeIs;
using testing::StartsWith;

constexpr char kNobody[] = "0123456789abcdef0123456789abcdef";

std::string Slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class SessionsTest : public testing::Test {
 protected:
  ProgramOutput Sessions(std::vector<std::string> arguments,
                         const std::string& standard_input = "") const {
    arguments.insert(arguments.begin(), "sessions");
    return Goldfinch(server_.address(), arguments, standard_input);
  }

  std::string NewSession(const std::string& prompt) const {
    return GoldfinchLine(server_.address(), {"sessions", "create", "--prompt=" + prompt});
  }

  // Eight tokens after the session, which has them then.
  static std::string Continue(const std::string& address, const std::string& id) {
    return GoldfinchLine(address, {"generate", "--session=" + id, "--temperature=0",
                                   "--max_tokens=8", "--ignore_eos"});
  }

  std::vector<json> List() const {
    std::vector<json> sessions;
    const std::string out = Sessions({"list", "--json"}).out;
    for (const auto line : absl::StrSplit(out, '\n', absl::SkipEmpty())) {
      sessions.push_back(json::parse(std::string(line)));
    }
    return sessions;
  }

  TemporaryFolder store_;
  TemporaryFolder folder_;
  DemoServer server_{{"--session_store=" + store_.path()}};
};

TEST_F(SessionsTest, CreateForkParkListAndDelete) {
  const std::string id = NewSession("The old king");
  EXPECT_THAT(id, MatchesRegex("[0-9a-f]+"));
  EXPECT_THAT(id, SizeIs(32));
  const json made = SessionJson(server_.address(), id);
  EXPECT_EQ(made["place"], "SESSION_PLACE_ALIVE");

  const std::string fork = GoldfinchLine(server_.address(), {"sessions", "fork", id});
  EXPECT_EQ(SessionJson(server_.address(), fork)["num_tokens"], made["num_tokens"]);
  EXPECT_EQ(Continue(server_.address(), fork), Continue(server_.address(), id));

  const ProgramOutput park = Sessions({"park", id});
  EXPECT_EQ(park.exit_code, 0) << park.err;
  EXPECT_THAT(park.out, IsEmpty());
  EXPECT_EQ(SessionJson(server_.address(), id)["place"], "SESSION_PLACE_PARKED");
  EXPECT_EQ(Continue(server_.address(), id), Continue(server_.address(), fork));

  EXPECT_THAT(List(), SizeIs(2));
  EXPECT_EQ(Sessions({"delete", id, fork}).exit_code, 0);
  EXPECT_THAT(List(), IsEmpty());
}

TEST_F(SessionsTest, TextsAreAppendedAndReadBack) {
  const std::string id = NewSession("The old king");
  EXPECT_EQ(Sessions({"history", id}).out, "The old king");
  const ProgramOutput append = Sessions({"append", id, "--prompt= had a"});
  EXPECT_EQ(append.exit_code, 0) << append.err;
  EXPECT_THAT(append.out, IsEmpty());
  EXPECT_EQ(Sessions({"append", id, "--prompt=-"}, " daughter\n").exit_code, 0);
  EXPECT_EQ(Sessions({"history", id}).out, "The old king had a daughter");

  const std::string whole = NewSession("The old king had a daughter");
  const std::string answer = Continue(server_.address(), id);
  EXPECT_EQ(answer, Continue(server_.address(), whole));
  EXPECT_EQ(Sessions({"history", id}).out, "The old king had a daughter" + answer);

  const json page = json::parse(Sessions({"history", id, "--json"}).out);
  const std::size_t num_tokens = page["tokens"].size();
  EXPECT_EQ(page["num_tokens"], std::to_string(num_tokens));
  const json rest =
      json::parse(Sessions({"history", id, "--json", "--first_token=3"}).out);
  EXPECT_EQ(rest["tokens"].size(), num_tokens - 3);
  EXPECT_EQ(rest["tokens"][0], page["tokens"][3]);

  const ProgramOutput nothing = Sessions({"append", id});
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_THAT(nothing.err, HasSubstr("input has 0 tokens; it must have at least 1"));
  const ProgramOutput behind =
      Sessions({"history", id, absl::StrCat("--first_token=", num_tokens + 1)});
  EXPECT_EQ(behind.exit_code, 1);
  EXPECT_THAT(behind.err, HasSubstr("first_token is"));
  EXPECT_EQ(Sessions({"history", kNobody}).exit_code, 1);
  EXPECT_EQ(Sessions({"history", id, "--first_token=-1"}).exit_code, 2);
}

TEST_F(SessionsTest, ListIsATable) {
  const std::string id = NewSession("The old king");
  const std::string parked = NewSession("The queen");
  EXPECT_EQ(Sessions({"park", parked}).exit_code, 0);
  const std::string out = Sessions({"list"}).out;
  EXPECT_THAT(out, StartsWith("ID "));
  EXPECT_THAT(out, testing::ContainsRegex(
                       absl::StrCat(id, " +alive +[0-9]+ +[0-9]+ +[0-9.]+[smhd] +-\n")));
  EXPECT_THAT(out, testing::ContainsRegex(
                       absl::StrCat(parked, " +parked +[0-9]+ +[0-9]+ +- +-\n")));
}

TEST_F(SessionsTest, GetNamesFieldsAsTheContractDoes) {
  const std::string id = NewSession("The old king");
  const ProgramOutput output = Sessions({"get", id});
  EXPECT_THAT(output.out, HasSubstr(absl::StrCat("id: \"", id, "\"\n")));
  EXPECT_THAT(output.out, HasSubstr("place: SESSION_PLACE_ALIVE\n"));
}

TEST_F(SessionsTest, AnExportedSessionGoesOnOnAnotherServer) {
  const std::string id = NewSession("The old king");
  const std::string file = folder_ / "king";
  const ProgramOutput exported = Sessions({"export", id, file});
  EXPECT_EQ(exported.exit_code, 0) << exported.err;
  EXPECT_THAT(exported.out, IsEmpty());
  EXPECT_THAT(exported.err, MatchesRegex("exported [0-9]+ bytes, [0-9.]+ MB/s\n"));
  EXPECT_THAT(exported.err,
              HasSubstr(absl::StrCat(" ", std::filesystem::file_size(file), " bytes")));
  EXPECT_THAT(folder_.Names(), ElementsAre("king"));

  const DemoServer other;  // with a store of its own: none
  const ProgramOutput imported = Goldfinch(other.address(), {"sessions", "import", file});
  EXPECT_EQ(imported.exit_code, 0) << imported.err;
  EXPECT_THAT(imported.err, StartsWith("imported "));
  const std::string copy = imported.out.substr(0, 32);
  EXPECT_NE(copy, id);
  EXPECT_EQ(Continue(other.address(), copy), Continue(server_.address(), id));
}

TEST_F(SessionsTest, ADashIsStandardOutputOrInput) {
  const std::string id = NewSession("The old king");
  const ProgramOutput exported = Sessions({"export", id, "-"});
  EXPECT_EQ(exported.exit_code, 0) << exported.err;
  const ProgramOutput imported = Sessions({"import", "-", "--json"}, exported.out);
  EXPECT_EQ(imported.exit_code, 0) << imported.err;
  EXPECT_EQ(json::parse(imported.out)["num_tokens"],
            SessionJson(server_.address(), id)["num_tokens"]);
}

TEST_F(SessionsTest, AFileIsReplacedByAWholeSnapshotOnly) {
  const std::string id = NewSession("The old king");
  const std::string file = folder_ / "king";
  std::ofstream(file) << "what was there";
  const ProgramOutput failed = Sessions({"export", kNobody, file});
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, StartsWith("goldfinch: NOT_FOUND: "));
  EXPECT_EQ(Slurp(file), "what was there");

  EXPECT_EQ(Sessions({"export", id, file}).exit_code, 0);
  EXPECT_NE(Slurp(file), "what was there");
  EXPECT_THAT(folder_.Names(), ElementsAre("king"));
  struct stat found = {};
  ASSERT_EQ(stat(file.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777u, 0600u) << "a conversation is nobody else's business";

  const ProgramOutput nowhere = Sessions({"export", id, folder_ / "no/such/folder"});
  EXPECT_EQ(nowhere.exit_code, 1);
  EXPECT_THAT(nowhere.err, MatchesRegex("goldfinch: cannot write .*: No such file.*\n"));
  EXPECT_EQ(Sessions({"export", id, folder_.path()}).exit_code, 1);
  EXPECT_EQ(Sessions({"export", id, "/dev/null"}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(SessionsTest, WhatIsNoSnapshotIsRefused) {
  const std::string id = NewSession("The old king");
  std::string snapshot = Sessions({"export", id, "-"}).out;
  ProgramOutput output = Sessions({"import", "-"}, "garbage");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: DATA_LOSS: "));
  snapshot[snapshot.size() / 2] ^= 1;
  EXPECT_THAT(Sessions({"import", "-"}, snapshot).err,
              StartsWith("goldfinch: DATA_LOSS: "));
  EXPECT_THAT(Sessions({"import", "-"}, snapshot.substr(0, snapshot.size() - 1)).err,
              StartsWith("goldfinch: DATA_LOSS: "));
  EXPECT_THAT(Sessions({"import", "-"}).err, StartsWith("goldfinch: DATA_LOSS: "));
  output = Sessions({"import", folder_ / "missing"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, MatchesRegex("goldfinch: cannot read .*: No such file.*\n"));
  EXPECT_THAT(Sessions({"import", folder_.path()}).err,
              MatchesRegex("goldfinch: cannot read .*: Is a directory\n"));
  EXPECT_THAT(List(), SizeIs(1));
}

TEST_F(SessionsTest, AnUnknownSessionIsToldSo) {
  for (const char* action : {"get", "fork", "park", "delete"}) {
    const ProgramOutput output = Sessions({action, kNobody});
    EXPECT_EQ(output.exit_code, 1) << action;
    EXPECT_THAT(output.err, StartsWith("goldfinch: NOT_FOUND: ")) << action;
    EXPECT_THAT(output.out, IsEmpty()) << action;
  }
  EXPECT_THAT(Sessions({"get", "no id"}).err,
              AnyOf(StartsWith("goldfinch: INVALID_ARGUMENT: "),
                    StartsWith("goldfinch: NOT_FOUND: ")));
  // The others are deleted all the same.
  const std::string id = NewSession("The old king");
  const ProgramOutput output = Sessions({"delete", kNobody, id});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith(absl::StrCat("goldfinch: NOT_FOUND: ", kNobody)));
  EXPECT_THAT(List(), IsEmpty());
}

// The first server says that another one holds it.
TEST_F(SessionsTest, ASessionIsFoundOnWhicheverServerHoldsIt) {
  const std::string id = NewSession("The old king"), other = NewSession("The queen");
  const DemoServer empty({"--session_store=" + store_.path()});
  const std::string both = absl::StrCat(empty.address(), ",", server_.address());
  const auto expect_done = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "sessions");
    const ProgramOutput output = Goldfinch(both, arguments);
    EXPECT_EQ(output.exit_code, 0) << arguments[1] << ": " << output.err;
    return output.out;
  };
  EXPECT_THAT(expect_done({"get", id}), HasSubstr("SESSION_PLACE_ALIVE"));
  EXPECT_THAT(expect_done({"fork", id}), SizeIs(33));
  const std::string file = folder_ / "king";
  expect_done({"export", id, file});
  EXPECT_EQ(Sessions({"import", file}).exit_code, 0);
  expect_done({"park", other, "--json"});
  EXPECT_EQ(SessionJson(empty.address(), other)["place"], "SESSION_PLACE_PARKED");
  // One on each.
  Continue(empty.address(), other);
  expect_done({"delete", id, other});
  for (const std::string& gone : {id, other}) {
    const ProgramOutput output = Goldfinch(both, {"sessions", "get", gone});
    EXPECT_THAT(output.err, StartsWith("goldfinch: NOT_FOUND: "));
  }
}

TEST(SessionsListTest, HasAllPages) {
  const ScriptedServer server({ScriptedServer::Answer()});
  const std::string lines =
      Goldfinch(server.address(), {"sessions", "list", "--json"}).out;
  std::vector<std::string> ids;
  for (const auto line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    ids.push_back(json::parse(std::string(line))["id"]);
  }
  EXPECT_THAT(ids, ElementsAre("a", "b", "c"));
  const ProgramOutput table = Goldfinch(server.address(), {"sessions", "list"});
  EXPECT_EQ(table.out.rfind("ID "), 0u) << "one head";
}

TEST(SessionsUsageTest, AMistakeIsOneLineAndExitCodeTwo) {
  const std::vector<std::vector<std::string>> mistakes = {
      {},
      {"sing"},
      {"get"},
      {"get", "one", "two"},
      {"export", "id"},
      {"import"},
      {"delete"},
      {"create", "--prompt=x", "--tokens=1"},
  };
  for (std::vector<std::string> mistake : mistakes) {
    mistake.insert(mistake.begin(), "sessions");
    const ProgramOutput output = RunProgram("goldfinch", mistake);
    EXPECT_EQ(output.exit_code, 2);
    EXPECT_THAT(output.err, MatchesRegex("goldfinch: [^\n]+\n"));
  }
  EXPECT_EQ(RunProgram("goldfinch", {"chat", "--session=x", "--prompt=y"}).exit_code, 2);
  EXPECT_EQ(RunProgram("goldfinch", {"generate", "--resume=perhaps"}).exit_code, 2);
}

}  // namespace
}  // namespace goldfinch
