#include "bench/load/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::Not;

ScenarioResult TwoTenants() {
  ScenarioResult result;
  result.window_seconds = 10;
  TenantResult one;
  one.name = "one";
  one.requests = 5;
  one.finished = 2;
  one.refused = 7;
  one.failed = {{"INTERNAL", 2}};
  one.cut = 1;
  one.unanswered = 1;
  one.prompt_tokens = 700;
  one.generated_tokens = 50;
  one.first_token = {.count = 4, .p50 = 0.001, .p90 = 0.002, .p99 = 0.003, .max = 0.004};
  TenantResult other;
  other.name = "other";
  other.prompt_tokens = 100;
  other.generated_tokens = 150;
  result.tenants = {one, other};
  TenantResult group = one;
  group.name = "together";
  result.groups = {group};
  return result;
}

TEST(ReportTest, JsonHasAllOfIt) {
  const nlohmann::json json = nlohmann::json::parse(ReportJson(TwoTenants()));
  EXPECT_EQ(json["window_seconds"], 10);
  EXPECT_EQ(json["tokens_per_second"], 100);
  EXPECT_EQ(json["generated_tokens_per_second"], 20);
  const nlohmann::json& one = json["tenants"][0];
  EXPECT_EQ(one["name"], "one");
  EXPECT_EQ(one["requests"], 5);
  EXPECT_EQ(one["finished"], 2);
  EXPECT_EQ(one["refused"], 7);
  EXPECT_EQ(one["failed"], nlohmann::json({{"INTERNAL", 2}}));
  EXPECT_EQ(one["cut"], 1);
  EXPECT_EQ(one["unanswered"], 1);
  EXPECT_EQ(one["share"], 0.75);
  EXPECT_EQ(one["generated_share"], 0.25);
  EXPECT_EQ(one["first_token_seconds"]["p99"], 0.003);
  EXPECT_EQ(one["inter_token_seconds"]["count"], 0);
  EXPECT_EQ(json["tenants"][1]["failed"], nlohmann::json::object());
  EXPECT_EQ(json["groups"][0]["name"], "together");
}

TEST(ReportTest, TextHasARowForEachAndSaysWhatFailed) {
  const std::string text = ReportText(TwoTenants());
  EXPECT_THAT(text, HasSubstr("75.00%       1.00      2.00      3.00"));
  EXPECT_THAT(text, HasSubstr("25.00%          -         -         -"));
  EXPECT_THAT(text, HasSubstr("failed: 2 INTERNAL\n"));
  EXPECT_THAT(text, HasSubstr("without a first token at the end: 1\n"));
  EXPECT_THAT(text, HasSubstr("together"));
  EXPECT_THAT(text, HasSubstr("100 tokens/s, 20 of them generated, over 10 s\n"));
}

TEST(ReportTest, ConnectionsSayWhatFailedIfAnythingDid) {
  ConnectionsResult result;
  result.opened = result.used = result.open_at_end = 10;
  result.open_seconds = 0.5;
  result.finished = 30;
  result.generated_tokens = 480;
  EXPECT_THAT(ReportText(result),
              HasSubstr("10 open in 0.50 s, 10 of them used, 10 open at the end\n"));
  EXPECT_THAT(ReportText(result), Not(HasSubstr("failed")));
  result.failed = {{"INTERNAL", 1}, {"UNAVAILABLE", 2}};
  EXPECT_THAT(ReportText(result), HasSubstr("1 INTERNAL, 2 UNAVAILABLE\n"));
  const nlohmann::json json = nlohmann::json::parse(ReportJson(result));
  EXPECT_EQ(json["finished"], 30);
  EXPECT_EQ(json["failed"]["UNAVAILABLE"], 2);
}

}  // namespace
}  // namespace goldfinch
