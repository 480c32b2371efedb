// /metrics over real HTTP after real requests, and what must never be in it or in the
// log.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <ctime>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/file_descriptor.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/tenant_file.h"
#include "tests/server/tenants/keys.h"

namespace goldfinch {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n');
}

// Name with labels to value, of the lines of ours.
std::map<std::string, double> Parse(const std::string& answer) {
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  std::map<std::string, double> values;
  for (const std::string& line : Lines(answer)) {
    if (!absl::StartsWith(line, "goldfinch_") && !absl::StartsWith(line, "process_"))
      continue;
    // A label's value may hold blanks; the number after the last one cannot.
    const std::size_t blank = line.rfind(' ');
    double value = -1;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(blank + 1), &value)) << line;
    EXPECT_TRUE(values.emplace(line.substr(0, blank), value).second) << "twice: " << line;
  }
  return values;
}

std::string Scrape(TestServer& server) {
  return HttpGet(server.server().metrics_port(), "/metrics");
}

// It generates nothing that could have come to an end.
TEST(MetricsTest, TheTextOfANewSessionIsNoStop) {
  TestServer server;
  grpc::ClientContext context;
  v1::CreateSessionRequest create;
  create.set_text("begins");
  v1::CreateSessionResponse created;
  ASSERT_TRUE(server.sessions().CreateSession(&context, create, &created).ok());
  // The session is there a moment before the request that made it is counted.
  EXPECT_TRUE(Eventually([&server] {
    return server.Metric("goldfinch_requests_finished_total{reason=\"filled\"}") == 1;
  }));
  EXPECT_EQ(server.Metric("goldfinch_requests_finished_total{reason=\"stop\"}"), 0);
  for (const char* family : {"queue", "prefill", "duration"}) {
    const std::string name = absl::StrCat("goldfinch_request_", family, "_seconds_count");
    EXPECT_EQ(server.Metric(name + "{kind=\"prefill\"}"), 1) << family;
    EXPECT_EQ(server.Metric(name + "{kind=\"generate\"}"), 0) << family;
  }
}

TEST(MetricsTest, CountWhatHappened) {
  TestServer server({.metrics = "127.0.0.1:0"});
  v1::GenerateRequest request = TextRequest("counted", 10);
  request.mutable_sampling()->set_ignore_eos(true);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Generate(server.stub(), request).status.ok());
  request.mutable_sampling()->add_stop_token_ids(ExpectedTokens(request)[4]);
  ASSERT_TRUE(Generate(server.stub(), request).status.ok());
  request.mutable_sampling()->set_temperature(-1);
  for (int i = 0; i < 2; ++i) ASSERT_FALSE(Generate(server.stub(), request).status.ok());
  grpc::ClientContext context;
  v1::ScoreRequest score;
  score.set_continuation_text("abc");
  v1::ScoreResponse scores;
  ASSERT_TRUE(server.stub().Score(&context, score, &scores).ok());
  ASSERT_TRUE(server.BecomesIdle());

  std::map<std::string, double> m = Parse(Scrape(server));
  const auto prompt = static_cast<double>(Encode("counted").size());
  EXPECT_EQ(m["goldfinch_requests_finished_total{reason=\"length\"}"], 3);
  EXPECT_EQ(m["goldfinch_requests_finished_total{reason=\"stop\"}"], 1);
  EXPECT_EQ(m["goldfinch_requests_finished_total{reason=\"scored\"}"], 1);
  EXPECT_EQ(m["goldfinch_requests_finished_total{reason=\"cancelled\"}"], 0);
  EXPECT_EQ(m["goldfinch_requests_refused_total{code=\"INVALID_ARGUMENT\"}"], 2);
  EXPECT_EQ(m["goldfinch_prompt_tokens_total"], 4 * prompt + 1);
  EXPECT_EQ(m["goldfinch_cached_prompt_tokens_total"], 0);
  EXPECT_EQ(m["goldfinch_generated_tokens_total"], 3 * 10 + 5);
  EXPECT_EQ(m["goldfinch_scored_tokens_total"],
            static_cast<double>(Encode("abc").size()));
  EXPECT_EQ(m["goldfinch_time_to_first_token_seconds_count"], 4);
  EXPECT_EQ(m["goldfinch_inter_token_latency_seconds_count"], 3 * 9 + 4);
  // Scores take other times than generations, and are told apart.
  for (const char* family : {"queue", "prefill", "duration"}) {
    const std::string name = absl::StrCat("goldfinch_request_", family, "_seconds");
    EXPECT_EQ(m[name + "_count{kind=\"generate\"}"], 4) << family;
    EXPECT_EQ(m[name + "_bucket{kind=\"generate\",le=\"+Inf\"}"], 4) << family;
    EXPECT_GT(m[name + "_sum{kind=\"generate\"}"], 0) << family;
    EXPECT_EQ(m[name + "_count{kind=\"score\"}"], 1) << family;
    EXPECT_EQ(m[name + "_count{kind=\"prefill\"}"], 0) << family;
  }
  // Long prompts take hours, and a quantile beyond the last bound is unknown.
  EXPECT_EQ(m["goldfinch_time_to_first_token_seconds_bucket{le=\"7200\"}"], 4);
  EXPECT_EQ(m["goldfinch_request_time_per_output_token_seconds_count"], 4);
  EXPECT_EQ(m["goldfinch_request_prompt_tokens_count{kind=\"generate\"}"], 4);
  EXPECT_EQ(m["goldfinch_request_prompt_tokens_sum{kind=\"generate\"}"], 4 * prompt);
  EXPECT_EQ(m["goldfinch_request_prompt_tokens_sum{kind=\"score\"}"], 1);
  EXPECT_EQ(m["goldfinch_request_generated_tokens_count"], 4);
  EXPECT_EQ(m["goldfinch_request_generated_tokens_sum"], 3 * 10 + 5);
  EXPECT_EQ(m["goldfinch_request_generated_tokens_bucket{le=\"5\"}"], 1);
  EXPECT_EQ(m["goldfinch_requests_put_aside_total"], 0);
  EXPECT_GT(m["goldfinch_step_duration_seconds_count"], 0);
  EXPECT_EQ(m["goldfinch_step_sequences_count"],
            m["goldfinch_step_duration_seconds_count"]);
  EXPECT_GE(m["goldfinch_step_tokens_total{kind=\"prompt\"}"], 4 * prompt);
  EXPECT_GE(m["goldfinch_step_tokens_total{kind=\"decode\"}"], 3 * 9 + 4);
  for (const char* gauge : {"goldfinch_requests_running", "goldfinch_sequences_running",
                            "goldfinch_sequences_waiting",
                            "goldfinch_requests_waiting{reason=\"admission\"}",
                            "goldfinch_requests_waiting{reason=\"slow_reader\"}",
                            "goldfinch_waiting_prompt_tokens",
                            "goldfinch_cache_pages_used", "goldfinch_state_slots_used"}) {
    ASSERT_EQ(m.count(gauge), 1u) << gauge;
    EXPECT_EQ(m[gauge], 0) << gauge;
  }
  EXPECT_EQ(m["goldfinch_cache_pages"], 1024);
  EXPECT_EQ(m["goldfinch_state_slots"], 64);
  EXPECT_EQ(m["goldfinch_prefix_cache_limit_bytes"],
            static_cast<double>(SchedulerOptions().prefix_cache_bytes));
  EXPECT_EQ(m["goldfinch_model_info{model=\"fake\",fingerprint=\"0123456789abcdef\","
              "compute_dtype=\"f32\",numerics_id=\"fake\",kernels=\"\"}"],
            1);
}

TEST(MetricsTest, TellOfTheProcess) {
  TestServer server({.metrics = "127.0.0.1:0"});
  std::map<std::string, double> m = Parse(Scrape(server));
  EXPECT_GT(m["process_resident_memory_bytes"], 1 << 20);
  EXPECT_GT(m["process_virtual_memory_bytes"], m["process_resident_memory_bytes"]);
  EXPECT_GT(m["process_open_fds"], 3);
  EXPECT_LE(m["process_open_fds"], m["process_max_fds"]);
  const double start = m["process_start_time_seconds"];
  const auto now = static_cast<double>(std::time(nullptr));
  // The system tells when it started itself to the second only.
  EXPECT_LT(start, now + 2);
  EXPECT_GT(start, now - 3600);

  // So many that what the server's own threads open or close meanwhile is less.
  constexpr int kFiles = 60;
  std::vector<FileDescriptor> files;
  for (int i = 0; i < kFiles; ++i) files.emplace_back(open("/dev/null", O_RDONLY));
  const double cpu = m["process_cpu_seconds_total"];
  const std::clock_t until = std::clock() + CLOCKS_PER_SEC / 10;
  while (std::clock() < until) {
  }
  std::map<std::string, double> later = Parse(Scrape(server));
  EXPECT_GE(later["process_cpu_seconds_total"], cpu + 0.05);
  EXPECT_LE(later["process_cpu_seconds_total"], cpu + 60);
  EXPECT_EQ(later["process_start_time_seconds"], start);
  EXPECT_NEAR(later["process_open_fds"], m["process_open_fds"] + kFiles, kFiles / 2);
}

TEST(MetricsTest, HaveTheFormPrometheusExpects) {
  TestServer server;
  std::map<std::string, std::string> types;
  double last_bucket = 0;
  for (const std::string& line : Lines(server.server().MetricsText())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (absl::StartsWith(line, "# TYPE ")) {
      EXPECT_TRUE(types.emplace(words[2], words[3]).second) << "twice: " << line;
      EXPECT_EQ(words[3] == "counter", absl::EndsWith(words[2], "_total")) << line;
      EXPECT_TRUE(absl::StartsWith(words[2], "goldfinch_") ||
                  absl::StartsWith(words[2], "process_"))
          << line;
    }
    if (!absl::StrContains(line, "_bucket{")) continue;
    const double value = std::stod(words[1]);
    EXPECT_GE(value, last_bucket) << line;
    last_bucket = absl::StrContains(line, "+Inf") ? 0 : value;
  }
  EXPECT_GE(types.size(), 20u);
}

TEST(MetricsTest, TheSetOfSeriesNeverGrows) {
  TestServer server;
  const auto names = [&server] {
    std::vector<std::string> result;
    for (const std::string& line : Lines(server.server().MetricsText())) {
      result.push_back(line.substr(0, line.rfind(' ')));
    }
    return result;
  };
  const std::vector<std::string> before = names();
  for (int i = 0; i < 20; ++i) {
    v1::GenerateRequest request = TextRequest(absl::StrCat("request ", i), i + 1);
    if (i % 3 == 0) request.mutable_sampling()->set_top_p(-1);
    Generate(server.stub(), request);
  }
  EXPECT_EQ(names(), before);
}

TEST(MetricsTest, TenantsHaveSeriesOfTheirOwn) {
  const TenantFile file(TenantEntry("alpha", "key of alpha") + "," +
                        TenantEntry("beta", "key of beta"));
  absl::StatusOr<std::unique_ptr<TenantDirectory>> tenants =
      TenantDirectory::Load(file.path());
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  TestServerOptions options;
  options.metrics = "127.0.0.1:0";
  options.tenants = tenants->get();
  TestServer server(options);
  const auto call = [&](const char* tenant, v1::GenerateRequest request) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", absl::StrCat("Bearer key of ", tenant));
    return Generate(server.stub(), request, &context).status;
  };
  EXPECT_TRUE(call("alpha", TextRequest("abcde", 4)).ok());
  v1::GenerateRequest bad = TextRequest("abcde", 4);
  bad.mutable_sampling()->set_top_p(2);
  EXPECT_FALSE(call("beta", bad).ok());
  const std::string metrics = Scrape(server);
  for (const char* line : {
           "goldfinch_tenant_tokens_total{tenant=\"alpha\",kind=\"prompt\"} 5",
           "goldfinch_tenant_tokens_total{tenant=\"alpha\",kind=\"generated\"} 4",
           "goldfinch_tenant_service_total{tenant=\"alpha\"} 13",
           "goldfinch_tenant_refused_total{tenant=\"alpha\"} 0",
           "goldfinch_tenant_refused_total{tenant=\"beta\"} 1",
           "goldfinch_tenant_requests_running{tenant=\"alpha\"} 0",
           "goldfinch_tenant_tokens_total{tenant=\"other\",kind=\"prompt\"} 0",
       }) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

TEST(MetricsTest, WhateverATenantIsRefusedIsItsOwn) {
  const TenantFile file(
      TenantEntry("alpha", "key of alpha", R"(, "limits": {"max_sessions": 1})"));
  absl::StatusOr<std::unique_ptr<TenantDirectory>> tenants =
      TenantDirectory::Load(file.path());
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  TestServerOptions options;
  options.tenants = tenants->get();
  TestServer server(options);
  const auto with_key = [](grpc::ClientContext& context) -> grpc::ClientContext* {
    context.AddMetadata("authorization", "Bearer key of alpha");
    return &context;
  };
  const auto refused = [&server] {
    return server.Metric("goldfinch_tenant_refused_total{tenant=\"alpha\"}");
  };
  grpc::ClientContext first, second, forking, importing, asking;
  v1::CreateSessionResponse created;
  ASSERT_TRUE(server.sessions().CreateSession(with_key(first), {}, &created).ok());
  EXPECT_EQ(refused(), 0);
  EXPECT_EQ(server.sessions().CreateSession(with_key(second), {}, &created).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused(), 1);
  v1::ForkSessionRequest fork;
  fork.set_session_id(created.session().id());
  v1::ForkSessionResponse forked;
  EXPECT_EQ(server.sessions().ForkSession(with_key(forking), fork, &forked).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused(), 2);
  v1::ImportSessionResponse imported;
  const auto writer = server.sessions().ImportSession(with_key(importing), &imported);
  writer->WritesDone();
  EXPECT_FALSE(writer->Finish().ok());
  EXPECT_EQ(refused(), 3);
  // Who asks in vain was refused nothing that would have taken memory.
  v1::GetSessionRequest get;
  get.set_session_id("none");
  v1::GetSessionResponse got;
  EXPECT_FALSE(server.sessions().GetSession(with_key(asking), get, &got).ok());
  EXPECT_EQ(refused(), 3);
}

TEST(LogTest, HoldsNoTextAndNoTokensAndNeitherDoMetrics) {
  const std::string canary = "sQuAwKcAnArY";
  std::ostringstream captured;
  auto logger = std::make_shared<spdlog::logger>(
      "goldfinch", std::make_shared<spdlog::sinks::ostream_sink_mt>(captured));
  logger->set_level(spdlog::level::trace);
  const std::shared_ptr<spdlog::logger> usual = spdlog::get("goldfinch");
  spdlog::drop("goldfinch");
  spdlog::register_logger(logger);
  std::string metrics;
  {
    TestServer server({.metrics = "127.0.0.1:0"});
    v1::GenerateRequest request = TextRequest(canary, 5);
    request.mutable_sampling()->add_stop(canary);
    EXPECT_TRUE(Generate(server.stub(), request).status.ok());
    request.mutable_sampling()->set_top_p(2);
    EXPECT_FALSE(Generate(server.stub(), request).status.ok());
    request.set_session(canary);
    EXPECT_FALSE(Generate(server.stub(), request).status.ok());
    grpc::ClientContext context;
    v1::ScoreRequest score;
    score.set_context_text(canary);
    score.set_continuation_text(canary);
    v1::ScoreResponse scores;
    EXPECT_TRUE(server.stub().Score(&context, score, &scores).ok());
    server.engine().FailForward(1, absl::InternalError("device lost"));
    EXPECT_FALSE(Generate(server.stub(), TextRequest(canary, 5)).status.ok());
    metrics = Scrape(server);
  }
  spdlog::drop("goldfinch");
  if (usual != nullptr) spdlog::register_logger(usual);
  EXPECT_THAT(captured.str(), HasSubstr(R"("method":"Generate","status":"OK")"));
  EXPECT_THAT(captured.str(), HasSubstr("device lost"));
  EXPECT_THAT(captured.str(), Not(HasSubstr(canary)));
  EXPECT_THAT(metrics, HasSubstr("goldfinch_"));
  EXPECT_THAT(metrics, Not(HasSubstr(canary)));
}

}  // namespace
}  // namespace goldfinch
