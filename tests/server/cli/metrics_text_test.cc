// Prometheus's text format, and what is not it.
#include "server/cli/metrics_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;

MetricsText Parsed(absl::string_view text) {
  absl::StatusOr<MetricsText> metrics = MetricsText::Parse(text);
  EXPECT_TRUE(metrics.ok()) << metrics.status().message();
  return metrics.ok() ? *std::move(metrics) : MetricsText();
}

void ExpectWrong(absl::string_view text, const std::string& message) {
  const absl::StatusOr<MetricsText> metrics = MetricsText::Parse(text);
  ASSERT_FALSE(metrics.ok()) << text.substr(0, 100);
  EXPECT_EQ(metrics.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(metrics.status().message()), HasSubstr(message));
}

TEST(MetricsTextTest, ReadsWhatTheFormatAllows) {
  const MetricsText metrics = Parsed(
      "# HELP a Some words, {with} \"anything\"\n"
      "# TYPE a counter\n"
      "a 1\n"
      "\n"
      "b{x=\"1\",y=\"two words\"} 2.5 1700000000000\n"
      "b { x = \"2\" , } -3e2\r\n"
      "\tns:c_total{} +Inf\n"
      "d NaN\n"
      "e{q=\"a\\\\b\\\"c\\nd\"} 7");
  EXPECT_EQ(metrics.Find("a"), 1);
  EXPECT_EQ(metrics.Find("ns:c_total"), INFINITY);
  EXPECT_TRUE(std::isnan(*metrics.Find("d")));
  ASSERT_EQ(metrics.All("b").size(), 2u);
  EXPECT_EQ(*metrics.All("b")[0].Label("y"), "two words");
  EXPECT_EQ(metrics.All("b")[0].Label("z"), nullptr);
  EXPECT_EQ(metrics.Find("b", {{"x", "2"}}), -300);
  EXPECT_EQ(metrics.Find("b", {{"x", "2"}, {"y", "two words"}}), std::nullopt);
  EXPECT_EQ(*metrics.All("e")[0].Label("q"), "a\\b\"c\nd");
  EXPECT_EQ(metrics.Find("nothing"), std::nullopt);
  EXPECT_TRUE(metrics.All("nothing").empty());
  EXPECT_TRUE(Parsed("").All("").empty());
}

TEST(MetricsTextTest, TellsWhichLineIsWrong) {
  ExpectWrong("a 1\n<html>\n", "line 2: there is no name");
  ExpectWrong("1a 1", "line 1: there is no name");
  ExpectWrong("a", "a value is not a number");
  ExpectWrong("a one", "a value is not a number");
  ExpectWrong("a 1 2.5", "a time stamp is not a whole number");
  ExpectWrong("a 1 2 3", "something follows");
  ExpectWrong("a{", "there is no name");
  ExpectWrong("a{x", "a label has no =");
  ExpectWrong("a{x=", "is not quoted");
  ExpectWrong("a{x=1} 2", "is not quoted");
  ExpectWrong("a{x=\"", "does not end");
  ExpectWrong("a{x=\"\\", "does not end");
  ExpectWrong("a{x=\"\\t\"} 1", "unknown escape");
  ExpectWrong("a{x=\"1\"", "neither , nor }");
  ExpectWrong("a{x=\"1\" y=\"2\"} 1", "neither , nor }");
  ExpectWrong("a{,} 1", "there is no name");
  ExpectWrong("a{x:y=\"1\"} 1", "a label has no =");
  ExpectWrong(absl::string_view("a\0b 1", 5), "a value is not a number");
}

TEST(MetricsTextTest, EveryLengthHasALimit) {
  const std::string long_name(MetricsText::kMaxNameBytes + 1, 'a');
  ExpectWrong(absl::StrCat(long_name, " 1"), "a name has 257 bytes; the limit is 256");
  ExpectWrong(absl::StrCat("a{", long_name, "=\"\"} 1"), "the limit is 256");
  EXPECT_EQ(Parsed(absl::StrCat(long_name.substr(1), " 1")).Find(long_name.substr(1)), 1);

  const std::string long_value(MetricsText::kMaxValueBytes + 1, 'v');
  ExpectWrong(absl::StrCat("a{x=\"", long_value, "\"} 1"), "more than 1024 bytes");
  Parsed(absl::StrCat("a{x=\"", long_value.substr(1), "\"} 1"));

  std::string labels, series, names;
  for (std::size_t i = 0; i <= MetricsText::kMaxLabels; ++i)
    absl::StrAppend(&labels, "l", i, "=\"\",");
  ExpectWrong(absl::StrCat("a{", labels, "} 1"), "more than 32 labels");
  for (std::size_t i = 0; i <= MetricsText::kMaxSeriesOfName; ++i)
    absl::StrAppend(&series, "a{x=\"", i, "\"} 1\n");
  ExpectWrong(series, "more than 20002 series of a");
  for (std::size_t i = 0; i <= MetricsText::kMaxSeries; ++i)
    absl::StrAppend(&names, "a", i, " 1\n");
  ExpectWrong(names, "more than 100000 series");
  ExpectWrong(std::string(MetricsText::kMaxBytes + 1, '\n'), "the limit is 16777216");
}

TEST(MetricsTextTest, DamagedTextIsReadOrRefused) {
  const std::string good =
      "# TYPE a histogram\na_bucket{le=\"0.5\",x=\"y\\n\"} 3 17\na_sum 1.5e3\nb 2\n";
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (unsigned i = 0; i <= random() % 4; ++i) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0) {
        text[at] = static_cast<char>(random());
      } else {
        text.erase(at, random() % 8);
      }
      if (text.empty()) text.push_back('x');
    }
    const absl::StatusOr<MetricsText> metrics = MetricsText::Parse(text);
    if (!metrics.ok()) {
      EXPECT_FALSE(metrics.status().message().empty());
    }
  }
}

}  // namespace
}  // namespace goldfinch
