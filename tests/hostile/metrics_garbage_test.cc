// What is not a scrape, on the port of the metrics, and names that would spoil what a
// scrape reads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/hostile/attacked_server.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/raw_connection.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::Not;

class MetricsGarbageTest : public AttackedServerTest {};

TEST_F(MetricsGarbageTest, HoldsNobodyUpAndReadsNothingElse) {
  TestServerOptions options = RoomyOptions();
  options.metrics = "127.0.0.1:0";
  Start(options);
  Witness witness(server());
  const int port = server().server().metrics_port();
  std::mt19937 random(1);
  std::string noise(5000, '\0');
  for (char& byte : noise) byte = static_cast<char>(random());
  const std::string end = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const std::vector<std::string> sayings = {
      std::string(),
      noise,
      std::string("\r\n\r\n"),
      std::string(100000, 'x'),
      std::string("GET"),
      std::string("GET /metrics"),
      "GET " + std::string(100000, '/') + end,
      "GET /../../../../etc/passwd" + end,
      "GET /..%2f..%2f..%2fetc/passwd" + end,
      "GET //etc/passwd" + end,
      "GET /metrics?name[]=canary%22%0a" + end,
      "POST /metrics" + end,
      "DELETE /metrics" + end,
      "CANARY /metrics" + end,
      "GET /metrics HTTP/9.9\r\n\r\n",
      "POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + noise,
      "GET /metrics HTTP/1.1\r\nX: " + std::string(100000, 'x') + "\r\n\r\n",
      "GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
      "GET /metrics" + std::string(1, '\0') + end,
  };
  for (const std::string& saying : sayings) {
    const RawConnection connection(port);
    ASSERT_TRUE(connection.connected());
    connection.Send(saying);
    connection.EndSending();
    const std::string answer = connection.ReadToEnd();
    EXPECT_THAT(answer, Not(HasSubstr("root:"))) << saying.substr(0, 50);
    EXPECT_THAT(answer, Not(HasSubstr("canary"))) << saying.substr(0, 50);
  }
  // Some that say nothing and stay.
  std::vector<std::unique_ptr<RawConnection>> silent;
  for (int i = 0; i < 5; ++i) silent.push_back(std::make_unique<RawConnection>(port));
  witness.ExpectGoesOn();
  EXPECT_THAT(HttpGet(port, "/metrics"), HasSubstr("goldfinch_requests_running 1\n"));
  witness.Finish();
}

// A tenant's name is a label: what would need care there is no name.
TEST(HostileNamesTest, AreRefusedWhenTheFileIsRead) {
  for (const char* name :
       {"", "a\\\"b", "a\\nb", "a b", "a{b}", "a=b", "a,b", "\\u00e9", "\xc3\xa9",
        "\\u0000", "a/b", "..\\/..", "\xf0\x9f\x90\xa6", "'", "default", "other",
        "a\\u202eb",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    const TenantFile file(TenantEntry(name, "key"));
    const auto tenants = TenantDirectory::Load(file.path());
    EXPECT_TRUE(absl::IsInvalidArgument(tenants.status())) << name;
    const std::string message(tenants.status().message());
    // One line of letters, whatever the name had.
    EXPECT_TRUE(std::ranges::all_of(message, [](char c) { return c >= ' ' && c <= '~'; }))
        << message;
  }
}

// The oddest names there can be, and what a scrape makes of them.
TEST_F(MetricsGarbageTest, OddNamesAreLabelsLikeAnyOther) {
  const std::vector<std::string> names = {"-",   ".",   "..",      "_",
                                          "NaN", "0x0", "a.b-c_d", std::string(64, 'z')};
  std::vector<std::string> entries;
  for (const std::string& name : names) {
    entries.push_back(TenantEntry(name, "key-of-" + name));
  }
  const TenantFile file(absl::StrJoin(entries, ","));
  const auto tenants = TenantDirectory::Load(file.path()).value();
  TestServerOptions options = RoomyOptions();
  options.tenants = tenants.get();
  key_ = "key-of-..";
  Start(options);
  const std::string metrics = server().server().MetricsText();
  for (const std::string& name : names) {
    EXPECT_THAT(metrics,
                HasSubstr(absl::StrCat("goldfinch_tenant_requests_running{tenant=\"",
                                       name, "\"} 0\n")));
  }
  TearDown();  // before the tenants go
}

}  // namespace
}  // namespace goldfinch
