// The admin subcommand with the demo model: every action, down to the end of the server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/cli/demo_server.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

class AdminCommandTest : public testing::Test {
 protected:
  ProgramOutput Admin(std::vector<std::string> arguments,
                      const std::string& key = "key-root") const {
    arguments.insert(arguments.begin(), "admin");
    arguments.push_back("--key=" + key);
    return Goldfinch(server_.admin(), arguments);
  }

  // One that only an operator ends.
  Program StartEndless() const {
    return Program("goldfinch",
                   {"generate", "--prompt=The", "--max_tokens=100000", "--ignore_eos",
                    "--key=key-a", "--server=" + server_.address()});
  }

  // Its id, once it generates.
  std::uint64_t IdOfEndless() const {
    json request;
    EXPECT_TRUE(Eventually([&] {
      const std::string line = Admin({"requests", "--json"}).out;
      request = json::parse(line, nullptr, /*allow_exceptions=*/false);
      return request.is_object() && request.value("generated_tokens", "0") != "0";
    }));
    if (HasFailure()) return 0;
    EXPECT_EQ(request["tenant"], "a");
    EXPECT_EQ(request["state"], "REQUEST_STATE_DECODING");
    EXPECT_EQ(request["max_tokens"], "100000");
    return std::stoull(request.value("id", "0"));
  }

  const TenantFile file_{TenantEntry("root", "key-root", ", \"admin\": true") + "," +
                         TenantEntry("a", "key-a")};
  DemoServer server_{{"--admin_listen=127.0.0.1:0", "--tenants_file=" + file_.path()}};
};

TEST_F(AdminCommandTest, IsForAdmins) {
  const ProgramOutput output = Admin({"requests"}, "key-a");
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, StartsWith("goldfinch: PERMISSION_DENIED: "));
}

TEST_F(AdminCommandTest, AnotherPortIsToldFromAnAdminPort) {
  const std::vector<std::vector<std::string>> commands = {
      {"admin", "requests"}, {"admin", "reload"}, {"admin", "cancel", "1"}};
  for (std::vector<std::string> command : commands) {
    command.push_back("--key=key-root");
    const ProgramOutput output = Goldfinch(server_.address(), command);
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.err,
              "goldfinch: UNIMPLEMENTED: this is not an admin port (see "
              "--admin_listen)\n");
  }
}

TEST_F(AdminCommandTest, RequestsAreListedAndCancelled) {
  EXPECT_THAT(Admin({"requests"}).out, StartsWith("      ID  TENANT "));
  Program endless = StartEndless();
  const std::uint64_t id = IdOfEndless();
  const std::string list = Admin({"requests", "--tenant=a"}).out;
  EXPECT_THAT(list, HasSubstr(absl::StrCat("\n       ", id, "  a ")));
  EXPECT_THAT(list, HasSubstr("  generate  decoding  "));
  EXPECT_THAT(Admin({"requests", "--tenant=root", "--json"}).out, IsEmpty());

  // One that is not there does not keep the next one from its end.
  const ProgramOutput cancelled = Admin({"cancel", "999999", absl::StrCat(id)});
  EXPECT_EQ(cancelled.exit_code, 1);
  EXPECT_EQ(cancelled.err, "goldfinch: NOT_FOUND: no request 999999 waits or runs\n");
  const ProgramOutput ended = endless.Wait();
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_THAT(ended.err, HasSubstr("CANCELLED: the request was cancelled by the server"));
}

TEST_F(AdminCommandTest, TheServerIsTold) {
  EXPECT_EQ(Admin({"log_level", "warning"}).out, "was info\n");
  EXPECT_EQ(Admin({"log_level", "info"}).out, "was warning\n");
  EXPECT_EQ(Admin({"log_level", "loud"}).exit_code, 2);
  EXPECT_EQ(Admin({"reload"}).out, "2 tenants\n");
  file_.Write(TenantEntry("root", "key-root", ", \"admin\": true"));
  EXPECT_EQ(Admin({"reload"}).out, "1 tenants\n");
  file_.Write("nonsense");
  EXPECT_THAT(Admin({"reload"}).err, StartsWith("goldfinch: INVALID_ARGUMENT: "));

  Program endless = StartEndless();  // of a tenant that is gone
  EXPECT_THAT(endless.Wait().err, HasSubstr("UNAUTHENTICATED"));
}

TEST_F(AdminCommandTest, ADrainEndsTheServer) {
  Program endless = StartEndless();
  IdOfEndless();
  EXPECT_EQ(Admin({"drain"}).exit_code, 0);
  EXPECT_THAT(Goldfinch(server_.address(), {"model", "--key=key-a"}).err,
              StartsWith("goldfinch: UNAVAILABLE: "));
  // It waits for what runs; whoever looks after it need not.
  IdOfEndless();
  EXPECT_EQ(Admin({"drain", "--hurry"}).exit_code, 0);
  EXPECT_THAT(endless.Wait().err, HasSubstr("UNAVAILABLE"));
  EXPECT_EQ(server_.program().Wait().exit_code, 0);
}

}  // namespace
}  // namespace goldfinch
