#include "tests/hostile/attacked_server.h"
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace goldfinch {

TestServerOptions RoomyOptions() {
  TestServerOptions options;
  options.engine.page_tokens = 256;
  options.engine.num_pages = 1 << 16;
  options.engine.runs_ahead = true;  // as an engine on a GPU does
  options.scheduler.max_context_tokens = std::int64_t{1} << 23;
  return options;
}

TestServerOptions RoomyOptions(const Clock& clock) {
  TestServerOptions options = RoomyOptions();
  options.clock = &clock;
  options.scheduler.slow_reader = std::chrono::hours(24 * 365 * 100);
  return options;
}

v1::GenerateRequest EndlessRequest(const std::string& text) {
  v1::GenerateRequest request = TextRequest(text, 3'000'000);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

GenerateOutput CheckedGenerate(TestServer& server, const v1::GenerateRequest& request,
                               grpc::ClientContext* context) {
  GenerateOutput output = Generate(server.stub(), request, context);
  output.status = Checked(output.status);
  return output;
}

bool IsServing(const std::shared_ptr<grpc::Channel>& channel) {
  std::int32_t answer = 0;
  return CheckHealth(channel, "", answer).ok() && answer == 1;
}

TestServer& AttackedServerTest::Start(const TestServerOptions& options) {
  server_ = std::make_unique<TestServer>(options);
  return *server_;
}

void AttackedServerTest::ExpectUnharmed() {
  EXPECT_TRUE(IsServing(server().NewChannel()));
  const auto stub = v1::GenerationService::NewStub(server().NewChannel());
  const v1::GenerateRequest request = TextRequest("still right", 50);
  grpc::ClientContext context;
  if (!key_.empty()) context.AddMetadata("authorization", "Bearer " + key_);
  const GenerateOutput output = Generate(*stub, request, &context);
  EXPECT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
  // After a step: pages of sessions that were deleted meanwhile are given back in one.
  EXPECT_TRUE(server().BecomesIdle());
}

void AttackedServerTest::ExpectEnds(const std::map<std::string, int>& ends) {
  std::map<std::string, int> found;
  const auto read = [&] {
    found.clear();
    for (absl::string_view line : absl::StrSplit(server().server().MetricsText(), '\n')) {
      if (!absl::ConsumePrefix(&line, "goldfinch_requests_finished_total{reason=\"")) {
        continue;
      }
      const std::vector<std::string> parts = absl::StrSplit(line, "\"} ");
      const int count = std::atoi(parts.at(1).c_str());
      if (count > 0) found[parts[0]] = count;
    }
    return found == ends;
  };
  EXPECT_TRUE(Eventually(read))
      << testing::PrintToString(found) << " instead of " << testing::PrintToString(ends);
}

}  // namespace goldfinch
