// What the server's flags make of sessions, by the program: when they move down and go,
// and whose snapshots are believed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;

std::string NewSession(const DemoServer& server) {
  return GoldfinchLine(server.address(), {"sessions", "create", "--prompt=The old king"});
}

class ServerSessionsTest : public testing::Test {
 protected:
  std::string Store() const { return "--session_store=" + store_.path(); }

  // Whether a session that nobody calls gets to `place`. A second is its time; what is
  // not to come has none.
  static bool Becomes(const DemoServer& server, const std::string& place) {
    const std::string id = NewSession(server);
    return Eventually([&] {
      return SessionJson(server.address(), id)["place"] == "SESSION_PLACE_" + place;
    });
  }

  TemporaryFolder store_;
  TemporaryFolder folder_;
};

TEST_F(ServerSessionsTest, AnIdleOneLeavesTheDevice) {
  const DemoServer server({Store(), "--session_idle_to_rest=1"});
  EXPECT_TRUE(Becomes(server, "RESTING"));
}

TEST_F(ServerSessionsTest, AnIdleOneIsParked) {
  const DemoServer server({Store(), "--session_idle_to_park=1"});
  EXPECT_TRUE(Becomes(server, "PARKED"));
}

TEST_F(ServerSessionsTest, AnIdleOneIsDeletedAfterItsTimeToLive) {
  const DemoServer server({"--session_ttl=1"});
  const std::string id = NewSession(server);
  EXPECT_TRUE(Eventually([&] {
    const ProgramOutput output = Goldfinch(server.address(), {"sessions", "get", id});
    return output.exit_code != 0 && output.err.find("NOT_FOUND") != std::string::npos;
  }));
}

TEST_F(ServerSessionsTest, SnapshotsOfAnotherKeyAreRefused) {
  const auto key = [&](char byte) {
    const std::string path = folder_ / std::string(1, byte);
    std::ofstream(path) << std::string(32, byte);
    return "--snapshot_key_file=" + path;
  };
  const DemoServer one({Store(), key('a')}), two({Store(), key('b')});
  const std::string id = NewSession(one);
  const std::string exported = folder_ / "exported";
  GoldfinchLine(one.address(), {"sessions", "export", id, exported});
  GoldfinchLine(one.address(), {"sessions", "import", exported});
  const ProgramOutput imported =
      Goldfinch(two.address(), {"sessions", "import", exported});
  EXPECT_NE(imported.exit_code, 0);
  EXPECT_THAT(imported.err, HasSubstr("DATA_LOSS"));

  const std::vector<std::string> go_on = {"generate", "--session=" + id, "--prompt=was",
                                          "--max_tokens=1"};
  GoldfinchLine(one.address(), {"sessions", "park", id});
  const ProgramOutput refused = Goldfinch(two.address(), go_on);
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_THAT(refused.err, HasSubstr("DATA_LOSS"));
  const ProgramOutput output = Goldfinch(one.address(), go_on);
  EXPECT_EQ(output.exit_code, 0) << output.err;
}

}  // namespace
}  // namespace goldfinch
