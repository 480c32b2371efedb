// The tenants file: what it may say, and that every mistake is one line that names the
// place and shows no hash.
#include "server/tenants/tenants_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/server/tenants/keys.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const std::string& Hash() {
  static const std::string hash = HashOfKey("key");
  return hash;
}

// A file with one tenant of these fields.
std::string With(const std::string& fields) {
  return absl::StrCat("{\"tenants\": [{", fields, "}]}");
}

// A tenant "a" that is complete, and more fields.
std::string A(const std::string& more) {
  return With(absl::StrCat("\"name\": \"a\", \"key_sha256\": [\"", Hash(), "\"]", more));
}

std::string Limits(const std::string& limits) {
  return A(absl::StrCat(", \"limits\": {", limits, "}"));
}

TEST(TenantsFileTest, WhatIsLeftOutHasFiniteDefaults) {
  const auto tenants = ParseTenants(A(""));
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  ASSERT_EQ(tenants->size(), 1u);
  const Tenant& a = tenants->front();
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.key_hashes.size(), 1u);
  EXPECT_FALSE(a.admin);
  EXPECT_EQ(a.policy.weight, 1);
  EXPECT_EQ(a.policy.max_running_requests, TenantPolicy{}.max_running_requests);
  EXPECT_EQ(a.sessions.max_parked_bytes, SessionQuota{}.max_parked_bytes);
}

TEST(TenantsFileTest, EveryFieldIsRead) {
  const auto tenants = ParseTenants(absl::StrCat(
      R"({"tenants": [{"name": "A.b-c_9", "admin": true, "weight": 2.5, "key_sha256": [")",
      Hash(), "\", \"", absl::StrReplaceAll(HashOfKey("b"), {{"a", "A"}, {"f", "F"}}),
      R"("], "limits": {
        "max_running_requests": 1, "max_queued_requests": 2, "max_queued_tokens": 3,
        "max_tokens_per_minute": 4, "max_prompt_tokens": 5, "max_priority": -6,
        "max_sessions": 0, "max_resident_bytes": 17179869184, "max_parked_bytes": 8}},
        {"name": "b", "key_sha256": [")",
      HashOfKey("c"), "\"], \"weight\": 1000, \"admin\": false, \"limits\": {}}]}"));
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  ASSERT_EQ(tenants->size(), 2u);
  const Tenant& a = tenants->front();
  EXPECT_EQ(a.name, "A.b-c_9");
  EXPECT_TRUE(a.admin);
  EXPECT_EQ(a.key_hashes.size(), 2u);
  EXPECT_EQ(a.policy.weight, 2.5);
  EXPECT_EQ(a.policy.max_running_requests, 1);
  EXPECT_EQ(a.policy.max_queued_requests, 2);
  EXPECT_EQ(a.policy.max_queued_tokens, 3);
  EXPECT_EQ(a.policy.max_tokens_per_minute, 4);
  EXPECT_EQ(a.policy.max_prompt_tokens, 5);
  EXPECT_EQ(a.policy.max_priority, -6);
  EXPECT_EQ(a.sessions.max_sessions, 0);
  EXPECT_EQ(a.sessions.max_resident_bytes, std::int64_t{16} << 30);
  EXPECT_EQ(a.sessions.max_parked_bytes, 8);
  EXPECT_EQ((*tenants)[1].policy.weight, 1000);
}

struct Mistake {
  std::string text;
  std::string message;  // without "the tenants file: "
};

std::vector<Mistake> Mistakes() {
  const std::string hash = Hash();
  const std::string name64(64, 'n');
  return {
      {"", "it is not JSON, at byte 1"},
      {"{\"tenants\": [}", "it is not JSON, at byte 14"},
      {A("") + "x", "it is not JSON, at byte "},
      {A("\xff"), "it is not JSON, at byte "},
      {"[]", "it must be an object"},
      {"null", "it must be an object"},
      {"{}", "tenants is missing"},
      {"{\"tenants\": {}}", "tenants is an object; it must be a list"},
      {"{\"tenants\": []}", "tenants has 0 entries; it must have 1 to 10000"},
      {"{\"tenants\": [1]}", "tenants[0] is 1; it must be an object"},
      {"{\"tenants\": [{}]}", "tenants[0]: name is missing"},
      {absl::StrCat("{\"tenants\": [", TenantEntry("a", "x"), "], \"tenant\": 1}"),
       "field tenant is unknown"},
      {With("\"name\": 1"), "tenants[0]: name is 1; it must be 1 to 64 letters"},
      {With("\"name\": \"\""), "tenants[0]: name must be 1 to 64 letters"},
      {With("\"name\": \"a b\""), "tenants[0]: name must be 1 to 64 letters"},
      {With("\"name\": \"a\\n\""), "tenants[0]: name must be 1 to 64 letters"},
      {With("\"name\": \"\u00e9\""), "tenants[0]: name must be 1 to 64 letters"},
      {With(absl::StrCat("\"name\": \"", name64, "n\"")),
       "tenants[0]: name must be 1 to 64 letters"},
      {With(absl::StrCat("\"name\": \"", name64, "\"")),
       absl::StrCat("tenant ", name64, ": key_sha256 is missing")},
      {With("\"name\": \"default\""),
       "tenants[0]: name is \"default\", which is reserved"},
      {With("\"name\": \"other\""), "tenants[0]: name is \"other\", which is reserved"},
      {With("\"name\": \"a\""), "tenant a: key_sha256 is missing"},
      {With(absl::StrCat("\"name\": \"a\", \"key_sha256\": \"", hash, "\"")),
       "tenant a: key_sha256 is a string; it must be a list of 1 to 16 hashes"},
      {With("\"name\": \"a\", \"key_sha256\": []"), "tenant a: key_sha256 has 0 entries"},
      {With("\"name\": \"a\", \"key_sha256\": [1]"),
       "tenant a: key_sha256[0] must be a string of 64 hexadecimal digits"},
      {With(absl::StrCat("\"name\": \"a\", \"key_sha256\": [\"", hash, "\", \"",
                         hash.substr(1), "\"]")),
       "tenant a: key_sha256[1] must be a string of 64 hexadecimal digits"},
      {With(absl::StrCat("\"name\": \"a\", \"key_sha256\": [\"", hash, "0\"]")),
       "tenant a: key_sha256[0] must be"},
      {With(absl::StrCat("\"name\": \"a\", \"key_sha256\": [\"", hash.substr(1), "g\"]")),
       "tenant a: key_sha256[0] must be"},
      {With(absl::StrCat("\"name\": \"a\", \"key_sha256\": [\"", hash, "\", \"", hash,
                         "\"]")),
       "tenant a: key_sha256 has a hash that occurs twice"},
      {absl::StrCat("{\"tenants\": [", TenantEntry("a", "x"), ",", TenantEntry("b", "x"),
                    "]}"),
       "tenant b: key_sha256 has a hash that occurs twice"},
      {absl::StrCat("{\"tenants\": [", TenantEntry("a", "x"), ",", TenantEntry("a", "y"),
                    "]}"),
       "tenant a: name occurs twice"},
      {A(", \"name\": \"b\""), "a field name occurs twice in one object"},
      {Limits("\"max_sessions\": 1, \"max_sessions\": 2"),
       "a field max_sessions occurs twice in one object"},
      {A(", \"limit\": {}"), "tenant a: field limit is unknown"},
      {A(absl::StrCat(", \"", hash, "\": 1")),
       "tenant a: field with a name that is not shown is unknown"},
      {A(", \"a\\nb\": 1"), "tenant a: field with a name that is not shown is unknown"},
      {A(", \"weight\": 0"),
       "tenant a: weight is 0; it must be a number in [0.001, 1000]"},
      {A(", \"weight\": 1000.5"), "tenant a: weight is 1000.5; it must be"},
      {A(", \"weight\": -1"), "tenant a: weight is -1; it must be"},
      {A(", \"weight\": 1e999"), "it is not JSON"},
      {A(", \"weight\": true"), "tenant a: weight is true; it must be a number"},
      {A(absl::StrCat(", \"weight\": \"", hash, "\"")),
       "tenant a: weight is a string; it must be a number"},
      {A(", \"admin\": 1"), "tenant a: admin is 1; it must be true or false"},
      {A(", \"limits\": []"), "tenant a: limits is a list; it must be an object"},
      {Limits("\"max_request\": 1"), "tenant a: limits.field max_request is unknown"},
      {Limits("\"max_running_requests\": 0"),
       "tenant a: limits.max_running_requests is 0; it must be a whole number in [1, "
       "1000000]"},
      {Limits("\"max_queued_requests\": 1000001"),
       "tenant a: limits.max_queued_requests"},
      {Limits("\"max_queued_tokens\": 0"), "tenant a: limits.max_queued_tokens is 0"},
      {Limits("\"max_tokens_per_minute\": -5"),
       "tenant a: limits.max_tokens_per_minute is -5"},
      {Limits("\"max_prompt_tokens\": 18446744073709551615"),
       "tenant a: limits.max_prompt_tokens is 18446744073709551615"},
      {Limits("\"max_priority\": 101"), "tenant a: limits.max_priority is 101"},
      {Limits("\"max_priority\": null"), "tenant a: limits.max_priority is null"},
      {Limits("\"max_sessions\": -1"), "tenant a: limits.max_sessions is -1"},
      {Limits("\"max_sessions\": 1.5"),
       "tenant a: limits.max_sessions is 1.5; it must be a whole number"},
      {Limits("\"max_sessions\": 99999999999999999999"), "tenant a: limits.max_sessions"},
      {Limits("\"max_resident_bytes\": 0"), "tenant a: limits.max_resident_bytes is 0"},
      {Limits("\"max_parked_bytes\": \"1GiB\""),
       "tenant a: limits.max_parked_bytes is a string; it must be a whole number"},
      {Limits("\"max_parked_bytes\": [[1]]"), "lists and objects are too deep"},
      {std::string(1000000, '['), "lists and objects are too deep"},
      {A(absl::StrCat(", \"x\": ", std::string(100000, '['), std::string(100000, ']'))),
       "lists and objects are too deep"},
  };
}

TEST(TenantsFileTest, EveryMistakeIsOneLineThatNamesThePlace) {
  for (const Mistake& mistake : Mistakes()) {
    SCOPED_TRACE(mistake.text.substr(0, 300));
    const auto tenants = ParseTenants(mistake.text);
    ASSERT_FALSE(tenants.ok());
    EXPECT_EQ(tenants.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(tenants.status().message());
    EXPECT_THAT(message, StartsWith("the tenants file: "));
    EXPECT_THAT(message, HasSubstr(mistake.message));
    EXPECT_LT(message.size(), 300u);
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    EXPECT_THAT(message, Not(HasSubstr(Hash().substr(1, 10))));
  }
}

TEST(TenantsFileTest, TheExampleIsGoodOnceItHasItsHashes) {
  std::ifstream file(GOLDFINCH_SOURCE_DIR "/deploy/kubernetes/tenants.example.json");
  std::string text{std::istreambuf_iterator<char>(file),
                   std::istreambuf_iterator<char>()};
  EXPECT_THAT(std::string(ParseTenants(text).status().message()),
              HasSubstr("tenant example: key_sha256[0] must be a string of 64"));
  text = absl::StrReplaceAll(text, {{"REPLACE WITH THE SHA-256 OF A KEY", Hash()}});
  EXPECT_THAT(std::string(ParseTenants(text).status().message()),
              HasSubstr("tenant operator: key_sha256[0] must be a string of 64"));
  text = absl::StrReplaceAll(
      text, {{"REPLACE WITH THE SHA-256 OF ANOTHER KEY", HashOfKey("another")}});
  EXPECT_TRUE(ParseTenants(text).ok()) << ParseTenants(text).status();
}

TEST(TenantsFileTest, EveryBeginningOfAFileIsAMistake) {
  const std::string text = Limits("\"max_sessions\": 10, \"max_priority\": -1");
  ASSERT_TRUE(ParseTenants(text).ok());
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(ParseTenants(text.substr(0, size)).ok()) << size;
  }
}

TEST(TenantsFileTest, ThereMayBeTenThousandTenants) {
  std::string text = "{\"tenants\": [";
  for (int i = 0; i < 10000; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ",",
                    TenantEntry(absl::StrCat("t", i), absl::StrCat(i)));
  }
  EXPECT_TRUE(ParseTenants(text + "]}").ok());
  EXPECT_THAT(
      std::string(
          ParseTenants(text + "," + TenantEntry("x", "x") + "]}").status().message()),
      HasSubstr("tenants has 10001 entries; it must have 1 to 10000"));
}

class ReadTenantsFileTest : public testing::Test {
 protected:
  ~ReadTenantsFileTest() override { std::remove(path_.c_str()); }

  std::string ErrorOf(const std::string& text, mode_t mode) const {
    std::ofstream(path_, std::ios::binary) << text;
    EXPECT_EQ(chmod(path_.c_str(), mode), 0);
    return std::string(ReadTenantsFile(path_).status().message());
  }

  const std::string path_ =
      absl::StrCat(testing::TempDir(), "/goldfinch_tenants_", getpid(), ".json");
};

TEST_F(ReadTenantsFileTest, AFileThatEverybodyMayWriteIsRefused) {
  EXPECT_EQ(ErrorOf(A(""), 0600), "");
  EXPECT_EQ(ErrorOf(A(""), 0644), "");
  EXPECT_THAT(ErrorOf(A(""), 0646),
              StartsWith("the tenants file may be written by everybody"));
}

TEST_F(ReadTenantsFileTest, WhatCannotBeReadIsRefused) {
  EXPECT_EQ(
      ReadTenantsFile("/no/such/file").status().message(),
      "the tenants file cannot be opened: /no/such/file: No such file or directory");
  EXPECT_EQ(ReadTenantsFile("/").status().message(),
            "the tenants file is not a regular file");
  EXPECT_EQ(ErrorOf(std::string((4 << 20) + 1, ' '), 0600),
            "the tenants file has more than 4194304 bytes, the limit");
  EXPECT_EQ(ErrorOf(A("") + std::string((4 << 20) - A("").size(), ' '), 0600), "");
}

}  // namespace
}  // namespace goldfinch
