#include "bench/load/scenario.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::Not;

const char kTenant[] =
    R"({"name": "a", "concurrent": 2, "prompt_tokens": 10, "max_tokens": 5})";

std::string With(const std::string& tenants, const std::string& more = "") {
  return "{\"duration_seconds\": 30, \"tenants\": [" + tenants + "]" + more + "}";
}

std::string MistakeIn(const std::string& text) {
  const absl::StatusOr<Scenario> scenario = ParseScenario(text);
  EXPECT_EQ(scenario.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(scenario.status().message());
}

TEST(ScenarioTest, EveryFieldIsRead) {
  const absl::StatusOr<Scenario> scenario = ParseScenario(R"({
      "duration_seconds": 30, "warmup_seconds": 5, "tail_seconds": 2.5, "seed": 9,
      "tenants": [
        {"name": "flood", "key": "secret", "concurrent": 64, "prompt_tokens": 4000,
         "max_tokens": 500, "priority": -3},
        {"name": "short", "rate": 2.5, "prompt_tokens": 64, "max_tokens": 32,
         "group": "g"}]})");
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  EXPECT_EQ(scenario->duration_seconds, 30);
  EXPECT_EQ(scenario->warmup_seconds, 5);
  EXPECT_EQ(scenario->tail_seconds, 2.5);
  EXPECT_EQ(scenario->seed, 9u);
  ASSERT_EQ(scenario->tenants.size(), 2u);
  const LoadTenant& flood = scenario->tenants[0];
  EXPECT_EQ(flood.name, "flood");
  EXPECT_EQ(flood.key, "secret");
  EXPECT_EQ(flood.concurrent, 64);
  EXPECT_EQ(flood.rate, 0);
  EXPECT_EQ(flood.prompt_tokens, 4000);
  EXPECT_EQ(flood.max_tokens, 500);
  EXPECT_EQ(flood.priority, -3);
  const LoadTenant& small = scenario->tenants[1];
  EXPECT_EQ(small.key, "");
  EXPECT_EQ(small.concurrent, 0);
  EXPECT_EQ(small.rate, 2.5);
  EXPECT_EQ(small.group, "g");
}

TEST(ScenarioTest, WhatIsLeftOutHasADefault) {
  const absl::StatusOr<Scenario> scenario = ParseScenario(With(kTenant));
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  EXPECT_EQ(scenario->warmup_seconds, 0);
  EXPECT_EQ(scenario->tail_seconds, 10);
  EXPECT_EQ(scenario->seed, 1u);
  EXPECT_EQ(scenario->tenants[0].priority, 0);
}

TEST(ScenarioTest, MistakesNameTheField) {
  EXPECT_EQ(MistakeIn("[]"), "scenario: it must be an object");
  EXPECT_EQ(MistakeIn("{}"), "scenario: duration_seconds is missing");
  EXPECT_EQ(MistakeIn(R"({"duration_seconds": 1})"), "scenario: tenants is missing");
  EXPECT_EQ(MistakeIn(With("")), "scenario: tenants must be a list of 1 to 1000");
  EXPECT_EQ(MistakeIn(With(kTenant, R"(, "seconds": 1)")),
            "scenario: seconds is not a field of it");
  EXPECT_EQ(MistakeIn(With(kTenant, R"(, "seed": 1.5)")),
            "scenario: seed is 1.5; it must be a whole number in [0, 9.0072e+15]");
  EXPECT_EQ(MistakeIn(R"({"duration_seconds": 0, "tenants": []})"),
            "scenario: duration_seconds is 0; it must be a number in [0.1, 86400]");
  EXPECT_EQ(MistakeIn(With(std::string(kTenant) + ", 7")),
            "tenants[1]: it must be an object");
  EXPECT_EQ(MistakeIn(With(std::string(kTenant) + "," + kTenant)),
            "tenants[1]: name is a, as of another");
}

TEST(ScenarioTest, MistakesOfATenantNameTheField) {
  const auto mistake = [](const std::string& fields) {
    return MistakeIn(With("{" + fields + "}"));
  };
  const std::string lengths = R"("prompt_tokens": 1, "max_tokens": 1)";
  EXPECT_EQ(mistake(lengths), "tenants[0]: name is missing");
  EXPECT_EQ(mistake(R"("name": "", "rate": 1, )" + lengths),
            "tenants[0]: name must not be empty");
  const char kEither[] =
      "tenants[0]: either concurrent or rate must be there, and not both";
  EXPECT_EQ(mistake(R"("name": "a", )" + lengths), kEither);
  EXPECT_EQ(mistake(R"("name": "a", "rate": 1, "concurrent": 1, )" + lengths), kEither);
  EXPECT_EQ(mistake(R"("name": "a", "concurrent": 0, )" + lengths),
            "tenants[0]: concurrent is 0; it must be a whole number in [1, 100000]");
  EXPECT_EQ(mistake(R"("name": "a", "concurrent": 1.5, )" + lengths),
            "tenants[0]: concurrent is 1.5; it must be a whole number in [1, 100000]");
  EXPECT_EQ(mistake(R"("name": "a", "rate": "1", )" + lengths),
            "tenants[0]: rate is \"1\"; it must be a number in [0.001, 100000]");
  EXPECT_EQ(mistake(R"("name": "a", "rate": 1, "prompt_tokens": 1)"),
            "tenants[0]: max_tokens is missing");
  EXPECT_EQ(mistake(R"("name": "a", "rate": 1, "priority": 101, )" + lengths),
            "tenants[0]: priority is 101; it must be a whole number in [-100, 100]");
}

TEST(ScenarioTest, ANumberBeyondAllIsAMistake) {
  EXPECT_EQ(MistakeIn(With(kTenant, R"(, "seed": 1e999)")),
            "the scenario has a number that is beyond what can be read");
  EXPECT_EQ(MistakeIn(With(kTenant, R"(, "warmup_seconds": -1e999)")),
            "the scenario has a number that is beyond what can be read");
}

// In the place of a key there may be one.
TEST(ScenarioTest, NoMistakeShowsAKey) {
  EXPECT_EQ(MistakeIn(With(R"({"name": "a", "key": ["canary"], "rate": 1,
                              "prompt_tokens": 1, "max_tokens": 1})")),
            "tenants[0]: key must be a string");
  const std::string broken =
      MistakeIn(R"({"tenants": [{"name": "a", "key": "canary" "rate": 1}]})");
  EXPECT_THAT(broken, HasSubstr("the scenario is not JSON; see byte "));
  EXPECT_THAT(broken, Not(HasSubstr("canary")));
}

}  // namespace
}  // namespace goldfinch
