// The lines of `goldfinch top`, word for word.
#include "server/cli/top_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/histogram_delta.h"
#include "server/cli/top_text.h"

namespace goldfinch {
namespace {

using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

MetricsText Parsed(const std::string& text) {
  absl::StatusOr<MetricsText> metrics = MetricsText::Parse(text);
  EXPECT_TRUE(metrics.ok()) << metrics.status().message();
  return *std::move(metrics);
}

// Cumulative counts up to 10 ms, 100 ms, 1 s and beyond.
std::string Histogram(const std::string& name, int ten, int hundred, int second, int all,
                      double sum = 0) {
  return absl::StrCat(name, "_bucket{le=\"0.01\"} ", ten, "\n", name,
                      "_bucket{le=\"0.1\"} ", hundred, "\n", name, "_bucket{le=\"1\"} ",
                      second, "\n", name, "_bucket{le=\"+Inf\"} ", all, "\n", name,
                      "_sum ", sum, "\n", name, "_count ", all, "\n");
}

constexpr char kLevels[] = R"(
goldfinch_build_info{version="0.1.0"} 1
goldfinch_model_info{model="demo",fingerprint="f",compute_dtype="bf16",numerics_id="cpu-x"} 1
goldfinch_requests_running 3
goldfinch_sequences_running 5
goldfinch_requests_waiting{reason="admission"} 2
goldfinch_requests_waiting{reason="slow_reader"} 1
goldfinch_waiting_prompt_tokens 1234
goldfinch_cache_pages_used 256
goldfinch_cache_pages_running 100
goldfinch_cache_pages 1024
goldfinch_state_slots_used 5
goldfinch_state_slots 64
goldfinch_expanded_pages_used 90
goldfinch_expanded_pages 100
goldfinch_prefix_cache_entries 12
goldfinch_prefix_cache_bytes 3292160
goldfinch_prefix_cache_limit_bytes 1073741824
goldfinch_sessions{place="alive"} 2
goldfinch_sessions{place="resting"} 1
goldfinch_sessions_busy 1
goldfinch_sessions_stored 40
goldfinch_session_host_bytes 823296
goldfinch_device_memory_bytes{use="weights"} 10485760
goldfinch_device_memory_bytes{use="cache"} 1073741824
process_resident_memory_bytes 2147483648
process_open_fds 23
process_max_fds 1024
process_start_time_seconds 1000000
)";

TopSample Before(const std::string& more = "") {
  return {.metrics = Parsed(absl::StrCat(
              kLevels, more, R"(
goldfinch_requests_finished_total{reason="stop"} 10
goldfinch_requests_finished_total{reason="length"} 10
goldfinch_requests_refused_total{code="INTERNAL"} 0
goldfinch_step_tokens_total{kind="prompt"} 1000
goldfinch_step_tokens_total{kind="decode"} 1000
goldfinch_expanded_hits_total 1000
goldfinch_expanded_misses_total 50
goldfinch_expanded_evictions_total 5
goldfinch_prefix_cache_hits_total 5
goldfinch_prefix_cache_misses_total{reason="cold"} 5
goldfinch_prefix_cache_misses_total{reason="evicted"} 0
process_cpu_seconds_total 100
)",
              Histogram("goldfinch_time_to_first_token_seconds", 0, 20, 20, 20),
              Histogram("goldfinch_inter_token_latency_seconds", 900, 1000, 1000, 1000),
              Histogram("goldfinch_step_duration_seconds", 500, 1000, 1000, 1000),
              Histogram("goldfinch_step_sequences", 0, 0, 0, 1000, 2000))),
          .seconds = 50,
          .unix_seconds = 1003723};
}

// Two seconds later.
std::string LaterText() {
  return absl::StrCat(
      kLevels, R"(
goldfinch_requests_finished_total{reason="stop"} 13
goldfinch_requests_finished_total{reason="length"} 11
goldfinch_requests_refused_total{code="INTERNAL"} 1
goldfinch_step_tokens_total{kind="prompt"} 3468
goldfinch_step_tokens_total{kind="decode"} 1190
goldfinch_expanded_hits_total 1980
goldfinch_expanded_misses_total 70
goldfinch_expanded_evictions_total 8
goldfinch_prefix_cache_hits_total 8
goldfinch_prefix_cache_misses_total{reason="cold"} 5
goldfinch_prefix_cache_misses_total{reason="evicted"} 1
process_cpu_seconds_total 103
)",
      Histogram("goldfinch_time_to_first_token_seconds", 0, 22, 24, 24),
      Histogram("goldfinch_inter_token_latency_seconds", 1000, 1100, 1100, 1186),
      Histogram("goldfinch_step_duration_seconds", 580, 1080, 1080, 1080),
      Histogram("goldfinch_step_sequences", 0, 0, 0, 1080, 2200));
}
TopSample Later(const std::string& more = "") {
  return {.metrics = Parsed(LaterText() + more), .seconds = 52, .unix_seconds = 1003725};
}

constexpr char kAddress[] = "127.0.0.1:9464";

TEST(TopViewTest, ShowsWhatHappenedBetweenTwoLooks) {
  const TopSample before = Before(R"(
goldfinch_tenant_tokens_total{tenant="default",kind="prompt"} 1000
goldfinch_tenant_tokens_total{tenant="default",kind="generated"} 1020
goldfinch_tenant_tokens_total{tenant="other",kind="generated"} 7
)");
  const TopSample later = Later(R"(
goldfinch_tenant_tokens_total{tenant="default",kind="prompt"} 3468
goldfinch_tenant_tokens_total{tenant="default",kind="generated"} 1220
goldfinch_tenant_tokens_total{tenant="other",kind="generated"} 9
)");
  EXPECT_THAT(
      TopLines(kAddress, &before, later),
      ElementsAre(
          "goldfinch 0.1.0 at 127.0.0.1:9464, up 1h02m; demo, cpu-x",
          "requests      running 3, sequences 5, waiting 3 (admission 2, slow_reader 1)",
          "ended         2.0/s, refused 0.5/s, prompt tokens waiting 1234",
          "tokens/s      prompt 1234, generated 101",
          "first token   p50 100.0 ms, p99 982.0 ms",
          "next token    p50 9.30 ms, p99 > 1.00 s",
          "step          p50 5.00 ms, p99 9.9 ms; 40.0/s of 2.5 sequences",
          "pages         256 of 1024 (25%), of running requests 100",
          "state slots   5 of 64 (8%)",
          "arena         90 of 100 (90%), hits 98%, evicted 1.5/s",
          "prefix cache  12 entries, 3.1 MiB of 1.0 GiB, hits 75%",
          "sessions      alive 2, resting 1, stored 40; busy 1, host memory 804.0 KiB",
          "device        1.0 GiB (weights 10.0 MiB, cache 1.0 GiB)",
          "process       2.0 GiB, processors 1.5, files 23 of 1024"));
}

TEST(TopViewTest, AFirstLookHasLevelsOnly) {
  const std::vector<std::string> lines = TopLines(kAddress, nullptr, Later());
  EXPECT_THAT(lines, Contains("tokens/s      prompt -, generated -"));
  EXPECT_THAT(lines, Contains("first token   p50 -, p99 -"));
  EXPECT_THAT(lines, Contains("step          p50 -, p99 -; -/s of - sequences"));
  EXPECT_THAT(lines, Contains("state slots   5 of 64 (8%)"));
  EXPECT_THAT(lines, Contains("arena         90 of 100 (90%), hits -, evicted -/s"));
}

TEST(TopViewTest, AnIntervalWithoutAnythingHasNoQuantiles) {
  const std::string tokens =
      "\ngoldfinch_tenant_tokens_total{tenant=\"default\",kind=\"generated\"} 7\n";
  TopSample before = Later(tokens);
  before.seconds = 50;
  const std::vector<std::string> lines = TopLines(kAddress, &before, Later(tokens));
  EXPECT_THAT(lines, Contains("tokens/s      prompt 0.0, generated 0.0"));
  EXPECT_THAT(lines, Contains("first token   p50 -, p99 -"));
  EXPECT_THAT(lines, Contains("step          p50 -, p99 -; 0.0/s of - sequences"));
}

TEST(TopViewTest, ARestartIsToldAndGivesNoRates) {
  // By its counters, and by its start alone.
  const TopSample busy = Later(), idle = Before();
  EXPECT_TRUE(Restarted(busy, idle));
  EXPECT_FALSE(Restarted(idle, busy));
  const std::vector<std::string> lines = TopLines(kAddress, &busy, idle);
  EXPECT_THAT(lines[0], HasSubstr("(restarted)"));
  EXPECT_THAT(lines, Contains("tokens/s      prompt -, generated -"));

  std::string text = LaterText();
  const std::string start = "process_start_time_seconds 1000000";
  text.replace(text.find(start), start.size(), "process_start_time_seconds 1003724");
  const TopSample now = {.metrics = Parsed(text), .seconds = 52, .unix_seconds = 1003725};
  EXPECT_TRUE(Restarted(idle, now));
  EXPECT_THAT(TopLines(kAddress, &idle, now)[0], HasSubstr("up 1s (restarted)"));
}

std::string Tenant(const std::string& name, int running, int waiting, int prompt,
                   int generated, int service, int refused) {
  const std::string labels = absl::StrCat("{tenant=\"", name, "\"");
  return absl::StrCat("goldfinch_tenant_requests_running", labels, "} ", running,
                      "\ngoldfinch_tenant_requests_waiting", labels, "} ", waiting,
                      "\ngoldfinch_tenant_tokens_total", labels, ",kind=\"prompt\"} ",
                      prompt, "\ngoldfinch_tenant_tokens_total", labels,
                      ",kind=\"generated\"} ", generated,
                      "\ngoldfinch_tenant_service_total", labels, "} ", service,
                      "\ngoldfinch_tenant_refused_total", labels, "} ", refused, "\n");
}

TEST(TopViewTest, TenantsAreSortedByTheServiceTheyGot) {
  TopSample before = Before();
  before.metrics = Parsed(absl::StrCat(LaterText(), Tenant("lazy", 0, 0, 90, 90, 500, 0),
                                       Tenant("busy", 0, 0, 0, 0, 0, 0),
                                       Tenant("other", 0, 0, 10, 10, 20, 0)));
  const TopSample now = Later(
      Tenant("lazy", 0, 0, 90, 90, 500, 0) + Tenant("busy", 2, 3, 2000, 100, 2200, 7) +
      Tenant("other", 1, 0, 30, 20, 60, 0) +
      Tenant("a-name-of-more-than-twenty-characters", 0, 0, 0, 0, 0, 0));
  const std::vector<std::string> lines = TopLines(kAddress, &before, now);
  ASSERT_GE(lines.size(), 6u);
  EXPECT_THAT(std::vector<std::string>(lines.end() - 6, lines.end()),
              ElementsAre("",
                          "TENANT                RUNNING  WAITING  PROMPT/S  GENERATED/S "
                          " SERVICE/S  REFUSED",
                          "busy                        2        3      1000         50.0 "
                          "      1100        7",
                          "other                       1        0      10.0          5.0 "
                          "      20.0        0",
                          "lazy                        0        0       0.0          0.0 "
                          "       0.0        0",
                          "a-name-of-more-than-        0        0         -            - "
                          "         -        0"));
  EXPECT_THAT(TopLines(kAddress, &before, Later()), Each(Not(StartsWith("TENANT"))));
}

// As many as a file of tenants may have, and the former ones.
TEST(TopViewTest, AllTenantsThereMayBeAreShown) {
  const auto text = [](int scale) {
    std::string all = LaterText();
    for (int i = 0; i < 10001; ++i) {
      const std::string name = absl::StrFormat("%064d", i);  // no longer one is possible
      absl::StrAppend(&all, Tenant(name, 1, 2, 10 * scale, 20 * scale, i * scale, 0));
      for (const char* more : {"tenant_put_aside_total", "tenant_session_host_bytes",
                               "tenant_stored_bytes"}) {
        absl::StrAppend(&all, "goldfinch_", more, "{tenant=\"", name, "\"} ",
                        1000000000000.0 + i, "\n");
      }
    }
    return all;
  };
  const TopSample before{.metrics = Parsed(text(1)), .seconds = 10};
  const TopSample now{.metrics = Parsed(text(2)), .seconds = 11};
  const std::vector<std::string> lines = TopLines("a:1", &before, now);
  ASSERT_GT(lines.size(), 10001u);
  const std::string name(20, '0');  // as much of it as is shown
  const std::string most = lines[lines.size() - 10001];
  EXPECT_THAT(most, StartsWith(absl::StrCat(name, "        1        2 ")));
  EXPECT_THAT(most, HasSubstr(" 10000 "));
}

TEST(TopViewTest, WhatIsNotThereIsLeftOutOrADash) {
  const TopSample bare = {.metrics = Parsed("goldfinch_build_info{version=\"0\"} 1\n"),
                          .seconds = 1,
                          .unix_seconds = 1};
  EXPECT_TRUE(IsGoldFinch(bare.metrics));
  EXPECT_FALSE(IsGoldFinch(Parsed("process_open_fds 3\n")));
  const std::vector<std::string> lines = TopLines(kAddress, &bare, bare);
  EXPECT_THAT(lines, Contains("requests      running -, sequences -, waiting - ()"));
  for (const char* label : {"arena", "sessions", "device", "process", "TENANT"}) {
    EXPECT_THAT(lines, Each(Not(StartsWith(label))));
  }
}

TEST(TopViewTest, LabelsCannotCommandTheTerminal) {
  const TopSample now = Later(Tenant("x\x1b]0;title\x07\xc2\x9b\x7f", 1, 0, 0, 0, 0, 0));
  for (const std::string& line : TopLines("\x1b[2J:1", nullptr, now)) {
    for (const char c : line) EXPECT_TRUE(c >= ' ' && c <= '~') << line;
  }
}

TEST(TopTextTest, NumbersAreShortWhateverTheyAre) {
  EXPECT_EQ(CountText(1e15 - 1), "999999999999999");
  EXPECT_EQ(CountText(1e300), "1.000e+300");
  EXPECT_EQ(RateText(99.94), "99.9");
  EXPECT_EQ(RateText(99.96), "100");
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(BytesText(3e300).size(), std::string("2.729e+288 TiB").size());
  EXPECT_EQ(SecondsText(0.00049), "0.49 ms");
  EXPECT_EQ(SecondsText(0.9996), "1.00 s");
  EXPECT_EQ(SecondsText(1e300), "1.000e+300 s");
  EXPECT_EQ(AgeText(59.9), "59s");
  EXPECT_EQ(AgeText(125), "2m05s");
  EXPECT_EQ(AgeText(86400 * 12 + 3600 * 4), "12d04h");
  EXPECT_EQ(AgeText(-5), "0s");
  EXPECT_EQ(AgeText(1e300), "-");
  EXPECT_EQ(ShareText(1, 0), "-");
  EXPECT_EQ(ShareText(0, 3), "0%");
  for (auto* text : {CountText, RateText, BytesText, SecondsText, AgeText}) {
    EXPECT_EQ(text(std::nullopt), "-");
    EXPECT_EQ(text(NAN), "-");
    EXPECT_EQ(text(-INFINITY), "-");
  }
}

TEST(HistogramDeltaTest, QuantilesAreThoseOfTheInterval) {
  const MetricsText before = Parsed(Histogram("h", 100, 100, 100, 100));
  const MetricsText now = Parsed(Histogram("h", 100, 110, 110, 110));
  const HistogramDelta delta(&before, now, "h");
  EXPECT_EQ(delta.total(), 10);
  EXPECT_EQ(delta.Seconds(0.5), "55.0 ms");  // halfway from 10 ms to 100 ms
  EXPECT_EQ(delta.Seconds(1), "100.0 ms");
}

TEST(HistogramDeltaTest, WhatDoesNotFitGivesNothing) {
  const MetricsText good = Parsed(Histogram("h", 1, 2, 3, 4));
  for (const std::string& text :
       {Histogram("h", 1, 2, 3, 3), Histogram("h", 9, 2, 3, 4),
        Histogram("other", 1, 2, 3, 9), std::string("h_bucket{le=\"0.01\"} 9\n"),
        std::string("h_bucket{le=\"x\"} 9\nh_bucket{le=\"+Inf\"} 9\n"),
        std::string("h_bucket 9\n"), std::string("h_bucket{le=\"+Inf\"} NaN\n")}) {
    EXPECT_EQ(HistogramDelta(&good, Parsed(text), "h").Seconds(0.5), "-") << text;
    EXPECT_EQ(HistogramDelta(nullptr, Parsed(text), "h").total(), 0);
  }
}

}  // namespace
}  // namespace goldfinch
