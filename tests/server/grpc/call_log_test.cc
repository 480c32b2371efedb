// What the log says of a finished call, and of whom.
#include "server/call_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/fake_clock.h"
#include "tests/fakes/memory_store.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

constexpr char kTrace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceparentTest, OnlyTheFormOfVersion00IsOne) {
  EXPECT_TRUE(IsTraceparent(kTrace));
  for (const char* text : {
           "",
           "00",
           "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\"",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
       }) {
    EXPECT_FALSE(IsTraceparent(text)) << text;
  }
}

class CallLogTest : public ::testing::Test {
 protected:
  CallLogTest() {
    auto logger = std::make_shared<spdlog::logger>(
        "goldfinch", std::make_shared<spdlog::sinks::ostream_sink_mt>(captured_));
    logger->set_pattern("{%v}");
    spdlog::drop("goldfinch");
    spdlog::register_logger(logger);
  }
  ~CallLogTest() override {
    spdlog::drop("goldfinch");
    if (usual_ != nullptr) spdlog::register_logger(usual_);
  }

  // Of calls that ended before; every line is an object.
  std::vector<nlohmann::json> Requests() const {
    std::vector<nlohmann::json> requests;
    std::istringstream lines(captured_.str());
    for (std::string line; std::getline(lines, line);) {
      nlohmann::json object = nlohmann::json::parse(line);
      if (object.value("event", "") == "request") requests.push_back(std::move(object));
    }
    return requests;
  }

 private:
  const std::shared_ptr<spdlog::logger> usual_ = spdlog::get("goldfinch");
  std::ostringstream captured_;
};

// What the caller can name a call by.
std::string RequestIdOf(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerInitialMetadata();
  const auto found = metadata.find("goldfinch-request-id");
  if (found == metadata.end()) return "";
  return {found->second.data(), found->second.size()};
}

TEST_F(CallLogTest, SessionsThatAreMadeHaveOneToo) {
  std::string id, request_id;
  {
    TestServer server;
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_text("once");
    v1::CreateSessionResponse response;
    ASSERT_TRUE(server.sessions().CreateSession(&context, request, &response).ok());
    id = response.session().id();
    request_id = RequestIdOf(context);
    EXPECT_NE(request_id, "");
    grpc::ClientContext bad;
    request.set_priority(1000);
    EXPECT_FALSE(server.sessions().CreateSession(&bad, request, &response).ok());
    EXPECT_EQ(RequestIdOf(bad), "");
  }
  std::vector<nlohmann::json> lines = Requests();
  ASSERT_EQ(lines.size(), 2u);
  std::ranges::sort(lines, {},
                    [](const nlohmann::json& line) { return line["status"] != "OK"; });
  EXPECT_EQ(lines[0]["method"], "CreateSession");
  EXPECT_EQ(lines[0]["status"], "OK");
  EXPECT_EQ(lines[0]["session_id"], id);
  EXPECT_EQ(lines[0]["request_id"].dump(), request_id);
  EXPECT_EQ(lines[0]["prompt_tokens"], 4);
  EXPECT_EQ(lines[0]["finish_reason"], "filled");
  EXPECT_EQ(lines[0]["cached_prompt_tokens"], 0);
  EXPECT_GT(lines[0]["total_seconds"], 0);
  EXPECT_EQ(lines[1]["status"], "INVALID_ARGUMENT");
  EXPECT_FALSE(lines[1].contains("session_id"));
  EXPECT_FALSE(lines[1].contains("request_id"));
  EXPECT_FALSE(lines[1].contains("finish_reason"));
}

TEST_F(CallLogTest, SoHaveTextsThatAreAppended) {
  std::string id;
  {
    TestServer server;
    id = CreateSession(server, "once")->id();
    for (const std::int32_t priority : {0, 1000}) {
      grpc::ClientContext context;
      v1::AppendToSessionRequest request;
      request.set_session_id(id);
      request.set_text(" upon");
      request.set_priority(priority);
      v1::AppendToSessionResponse response;
      EXPECT_EQ(server.sessions().AppendToSession(&context, request, &response).ok(),
                priority == 0);
      EXPECT_EQ(RequestIdOf(context).empty(), priority != 0);
    }
  }
  std::vector<nlohmann::json> lines = Requests();
  std::erase_if(lines,
                [](const auto& line) { return line["method"] != "AppendToSession"; });
  ASSERT_EQ(lines.size(), 2u);
  std::ranges::sort(lines, {},
                    [](const nlohmann::json& line) { return line["status"] != "OK"; });
  EXPECT_EQ(lines[0]["session_id"], id);
  EXPECT_EQ(lines[0]["finish_reason"], "filled");
  EXPECT_EQ(lines[0]["prompt_tokens"], 9);
  EXPECT_EQ(lines[0]["cached_prompt_tokens"], 3);
  EXPECT_EQ(lines[1]["status"], "INVALID_ARGUMENT");
}

// What is told again counts as it does in the usage, and so does how it ended.
TEST_F(CallLogTest, ALineOfAResumedGenerationIsOfTheWholeOfIt) {
  std::string id;
  {
    TestServer server;
    id = CreateSession(server, "once")->id();
    EXPECT_TRUE(Generate(server.stub(), TurnRequest(id, "abc", 20)).status.ok());
    v1::GenerateRequest resume;
    resume.mutable_resume()->set_session_id(id);
    resume.mutable_resume()->set_tokens_received(15);
    const GenerateOutput output = Generate(server.stub(), resume);
    EXPECT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_EQ(output.candidates.at(0).tokens.size(), 5u);
  }
  std::vector<nlohmann::json> lines = Requests();
  std::erase_if(lines, [](const auto& line) { return line["method"] != "Generate"; });
  ASSERT_EQ(lines.size(), 2u);
  for (const nlohmann::json& line : lines) {
    EXPECT_EQ(line["generated_tokens"], 20);
    EXPECT_EQ(line["finish_reason"], "length");
    EXPECT_EQ(line["session_id"], id);
  }
}

TEST_F(CallLogTest, OneLineACallWithLengthsTimesAndTrace) {
  std::string generate_id, score_id;
  std::int64_t context_tokens = 0, scored = 0;
  {
    TestServer server;
    grpc::ClientContext context;
    context.AddMetadata("traceparent", kTrace);
    auto reader = server.stub().Generate(&context, TextRequest("abcde", 3));
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    ASSERT_TRUE(reader->Finish().ok());
    const auto& echoed = context.GetServerInitialMetadata();
    ASSERT_EQ(echoed.count("traceparent"), 1u);
    generate_id = RequestIdOf(context);
    const grpc::string_ref trace = echoed.find("traceparent")->second;
    EXPECT_EQ(std::string(trace.data(), trace.size()), kTrace);

    grpc::ClientContext hostile;
    hostile.AddMetadata("traceparent", "00-\",\"level\":\"error");
    v1::ScoreRequest score;
    score.set_context_text("abc");
    score.set_continuation_text("de");
    v1::ScoreResponse scores;
    EXPECT_TRUE(server.stub().Score(&hostile, score, &scores).ok());
    EXPECT_EQ(hostile.GetServerInitialMetadata().count("traceparent"), 0u);
    score_id = RequestIdOf(hostile);
    context_tokens = scores.usage().prompt_tokens();
    scored = scores.usage().scored_tokens();
    EXPECT_GT(context_tokens, 0);
    EXPECT_GT(scored, 0);

    v1::GenerateRequest bad = TextRequest("abc", 3);
    bad.mutable_sampling()->set_top_p(2);
    EXPECT_FALSE(Generate(server.stub(), bad).status.ok());
  }
  std::vector<nlohmann::json> lines = Requests();
  ASSERT_EQ(lines.size(), 3u);
  // A line is written after its caller has heard the end, so two may change places.
  std::ranges::sort(lines, {}, [](const nlohmann::json& line) {
    return std::pair(line["status"] != "OK", line["method"] == "Score");
  });
  EXPECT_EQ(lines[0]["method"], "Generate");
  EXPECT_EQ(lines[0]["status"], "OK");
  EXPECT_EQ(lines[0]["tenant"], "default");
  EXPECT_EQ(lines[0]["finish_reason"], "length");
  EXPECT_EQ(lines[0]["generated_tokens"], 3);
  EXPECT_EQ(lines[0]["prompt_tokens"], 5);
  EXPECT_FALSE(lines[0].contains("scored_tokens"));
  EXPECT_EQ(lines[0]["request_id"].dump(), generate_id);
  EXPECT_EQ(lines[0]["traceparent"], kTrace);
  EXPECT_GT(lines[0]["total_seconds"], 0);
  EXPECT_TRUE(lines[0].contains("queue_seconds"));
  EXPECT_EQ(lines[1]["method"], "Score");
  EXPECT_EQ(lines[1]["finish_reason"], "scored");
  EXPECT_EQ(lines[1]["prompt_tokens"], context_tokens);
  EXPECT_EQ(lines[1]["scored_tokens"], scored);
  EXPECT_EQ(lines[1]["request_id"].dump(), score_id);
  EXPECT_FALSE(lines[1].contains("traceparent"));
  EXPECT_EQ(lines[2]["status"], "INVALID_ARGUMENT");
  EXPECT_FALSE(lines[2].contains("request_id"));
  EXPECT_FALSE(lines[2].contains("finish_reason"));
}

// A session's second call: what the client is told, the log says, too.
TEST_F(CallLogTest, TokensOfASessionAreThoseOfTheUsage) {
  std::int64_t told = 0, cached = 0;
  {
    TestServer server;
    grpc::ClientContext creating;
    v1::CreateSessionResponse created;
    v1::CreateSessionRequest nothing;
    ASSERT_TRUE(server.sessions().CreateSession(&creating, nothing, &created).ok());
    for (const char* text : {"abcde", "fg"}) {
      v1::GenerateRequest request = TextRequest(text, 3);
      request.set_session(created.session().id());
      const GenerateOutput output = Generate(server.stub(), request);
      ASSERT_TRUE(output.status.ok()) << output.status.error_message();
      told = output.candidates[0].last->usage().prompt_tokens();
      cached = output.candidates[0].last->usage().cached_prompt_tokens();
    }
  }
  std::vector<nlohmann::json> lines = Requests();
  std::erase_if(lines, [](const auto& line) { return line["method"] != "Generate"; });
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_GT(told, 5);
  EXPECT_EQ(lines[1]["prompt_tokens"], told);
  EXPECT_EQ(lines[1]["cached_prompt_tokens"], cached);
}

// No end of theirs has told what they used: the device fails. The lengths are those they
// would have been told.
TEST_F(CallLogTest, LengthsMeanTheSameHoweverACallEnds) {
  std::int64_t history = 0;
  {
    TestServer server;
    grpc::ClientContext creating;
    v1::CreateSessionResponse created;
    v1::CreateSessionRequest beginning;
    beginning.set_text("abcde");
    ASSERT_TRUE(server.sessions().CreateSession(&creating, beginning, &created).ok());
    history = created.session().num_tokens();
    server.engine().FailForward(1, absl::InternalError("device lost"));
    v1::GenerateRequest turn = TextRequest("fg", 3);
    turn.set_session(created.session().id());
    EXPECT_FALSE(Generate(server.stub(), turn).status.ok());
    server.engine().FailForward(1, absl::InternalError("device lost"));
    grpc::ClientContext scoring;
    v1::ScoreRequest score;
    score.set_context_text("abc");
    score.set_continuation_text("de");
    v1::ScoreResponse scores;
    EXPECT_FALSE(server.stub().Score(&scoring, score, &scores).ok());
  }
  std::vector<nlohmann::json> lines = Requests();
  std::erase_if(lines, [](const auto& line) { return line["status"] != "INTERNAL"; });
  ASSERT_EQ(lines.size(), 2u);
  std::ranges::sort(lines, {},
                    [](const nlohmann::json& line) { return line["method"] == "Score"; });
  EXPECT_EQ(lines[0]["prompt_tokens"],
            history + static_cast<std::int64_t>(Encode("fg").size()));
  EXPECT_EQ(lines[1]["prompt_tokens"], Encode("abc").size());
  EXPECT_EQ(lines[1]["scored_tokens"], Encode("de").size());
}

// Whoever looks into a call that failed finds the session it was for, and what was wrong
// with the server; what was wrong with the request is its caller's to know.
TEST_F(CallLogTest, AFailedCallNamesItsSessionAndWhatIsWrongWithTheServer) {
  constexpr char kNoId[] = "a text where the id should be";
  const std::string unknown(32, 'f');
  std::string id;
  {
    const SteadyClock clock;
    MemoryMedium medium(clock);
    MemoryStore store(medium, "one", std::chrono::hours(1));
    TestServerOptions options;
    options.store = &store;
    TestServer server(options);
    id = CreateSession(server, "abcde")->id();
    const auto go_on = [&](const std::string& session) {
      v1::GenerateRequest turn = TextRequest("fg", 3);
      turn.set_session(session);
      return Generate(server.stub(), turn).status.error_code();
    };
    const auto append = [&](const std::string& session) {
      grpc::ClientContext context;
      v1::AppendToSessionRequest request;
      request.set_session_id(session);
      request.set_text("fg");
      v1::AppendToSessionResponse response;
      return server.sessions().AppendToSession(&context, request, &response).error_code();
    };
    const auto resume = [&](const std::string& session) {
      v1::GenerateRequest request;
      request.mutable_resume()->set_session_id(session);
      return Generate(server.stub(), request).status.error_code();
    };
    for (const auto& call : std::vector<std::function<grpc::StatusCode(std::string)>>{
             go_on, append, resume}) {
      EXPECT_EQ(call(unknown), grpc::StatusCode::NOT_FOUND);
      EXPECT_EQ(call(kNoId), grpc::StatusCode::INVALID_ARGUMENT);
    }
    ASSERT_TRUE(ParkSession(server, id).ok());
    for (const absl::Status& status :
         {absl::UnavailableError("no answer"), absl::DataLossError("it is damaged")}) {
      medium.FailGets(status);
      EXPECT_EQ(absl::StatusCodeToString(static_cast<absl::StatusCode>(go_on(id))),
                absl::StatusCodeToString(status.code()));
    }
  }
  const auto with = [lines = Requests()](const std::string& status) {
    auto some = lines;
    std::erase_if(some, [&](const auto& line) { return line["status"] != status; });
    return some;
  };
  ASSERT_EQ(with("NOT_FOUND").size(), 3u);
  for (const nlohmann::json& line : with("NOT_FOUND")) {
    EXPECT_EQ(line["session_id"], unknown);
    EXPECT_FALSE(line.contains("status_message"));
  }
  ASSERT_EQ(with("INVALID_ARGUMENT").size(), 3u);
  for (const nlohmann::json& line : with("INVALID_ARGUMENT")) {
    EXPECT_FALSE(line.contains("session_id"));
    EXPECT_FALSE(line.contains("status_message"));
  }
  for (const auto& [status, message] :
       {std::pair("UNAVAILABLE", "no answer"), std::pair("DATA_LOSS", "it is damaged")}) {
    const std::vector<nlohmann::json> lines = with(status);
    ASSERT_EQ(lines.size(), 1u) << status;
    EXPECT_EQ(lines[0]["session_id"], id);
    EXPECT_EQ(lines[0]["status_message"], message);
  }
}

// Its connection is full, so what it is being sent fails too; the log then says what the
// metrics count.
TEST_F(CallLogTest, WhoLeavesAtItsDeadlineWithoutReadingIsLate) {
  const auto leave_after = [](std::chrono::nanoseconds passes) {
    FakeClock clock;
    TestServerOptions options;
    options.clock = &clock;
    options.engine.page_tokens = 256;
    options.engine.num_pages = 1 << 16;
    options.scheduler.max_context_tokens = 1 << 23;
    options.scheduler.slow_reader = std::chrono::hours(2);
    TestServer server(options);
    v1::GenerateRequest request = TextRequest("wide", 3'000'000);
    request.mutable_sampling()->set_ignore_eos(true);
    request.mutable_sampling()->set_logprobs(20);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
    const auto reader = server.stub().Generate(&context, request);
    EXPECT_TRUE(Eventually([&] {
      return server.Metric("goldfinch_requests_waiting{reason=\"slow_reader\"}") == 1;
    }));
    clock.Advance(passes);
    context.TryCancel();
    reader->Finish();
    EXPECT_TRUE(server.BecomesIdle());
  };
  leave_after(std::chrono::minutes(59));
  leave_after(std::chrono::hours(1) - std::chrono::seconds(10));
  const std::vector<nlohmann::json> lines = Requests();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["status"], "CANCELLED");
  EXPECT_EQ(lines[1]["status"], "DEADLINE_EXCEEDED");
}

}  // namespace
}  // namespace goldfinch
