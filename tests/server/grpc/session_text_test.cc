// AppendToSession and GetSessionHistory, through a real channel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/session_client.h"
#include "tests/server/grpc/session_fixture.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::ElementsAreArray;
using testing::HasSubstr;

constexpr std::chrono::seconds kPatience(30);

using AppendOr = absl::StatusOr<v1::AppendToSessionResponse>;
using HistoryOr = absl::StatusOr<v1::GetSessionHistoryResponse>;

AppendOr Append(TestServer& server, const v1::AppendToSessionRequest& request,
                grpc::ClientContext* context = nullptr) {
  grpc::ClientContext own;
  v1::AppendToSessionResponse response;
  const auto status = server.sessions().AppendToSession(
      context == nullptr ? &own : context, request, &response);
  return status.ok() ? AppendOr(response) : ToStatus(status);
}

AppendOr Append(TestServer& server, const std::string& id, const std::string& text) {
  v1::AppendToSessionRequest request;
  request.set_session_id(id);
  request.set_text(text);
  return Append(server, request);
}

HistoryOr History(TestServer& server, const std::string& id, std::int64_t first = 0,
                  std::int32_t page_size = 0) {
  grpc::ClientContext context;
  v1::GetSessionHistoryRequest request;
  request.set_session_id(id);
  request.set_first_token(first);
  request.set_page_size(page_size);
  v1::GetSessionHistoryResponse response;
  const auto status = server.sessions().GetSessionHistory(&context, request, &response);
  return status.ok() ? HistoryOr(response) : ToStatus(status);
}

class SessionTextTest : public SessionFixture {
 protected:
  // What `id` answers next is what the whole text would be answered with.
  void ExpectGoesOnAfter(const std::string& id, const std::string& whole) {
    v1::GenerateRequest request = TurnRequest(id, "", 10);
    request.clear_text();
    const GenerateOutput output = Generate(server_.stub(), request);
    ASSERT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(TextRequest(whole, 10)));
  }
};

TEST_F(SessionTextTest, TextsJoinTheHistoryInTheirOrder) {
  for (const std::string first : {"", "a document "}) {
    const std::string id = CreateSession(server_, first)->id();
    std::string whole = first;
    for (const std::string text : {"with ", "some ", "pages"}) {
      const std::int64_t before = std::ssize(Encode(whole));
      const AppendOr answer = Append(server_, id, text);
      ASSERT_TRUE(answer.ok()) << answer.status();
      whole += text;
      EXPECT_EQ(answer->session().id(), id);
      EXPECT_EQ(answer->session().num_tokens(), std::ssize(Encode(whole)));
      EXPECT_EQ(answer->session().generated_tokens(), 0);
      EXPECT_FALSE(answer->session().busy());
      EXPECT_EQ(answer->usage().prompt_tokens(), std::ssize(Encode(whole)));
      EXPECT_EQ(answer->usage().cached_prompt_tokens(), before == 0 ? 0 : before - 1);
      EXPECT_EQ(answer->usage().generated_tokens(), 0);
    }
    ExpectGoesOnAfter(id, whole);
  }
}

TEST_F(SessionTextTest, WhatWasGeneratedStaysBeforeIt) {
  const std::string id = CreateSession(server_)->id();
  Conversation conversation;
  v1::GenerateRequest request = TurnRequest(id, "a question ", 10);
  conversation.Expect(request);
  ASSERT_TRUE(Generate(server_.stub(), request).status.ok());
  ASSERT_TRUE(Append(server_, id, "an interruption ").ok());
  v1::GenerateRequest appended = TextRequest("an interruption ", 0);
  conversation.Expect(appended);
  request = TurnRequest(id, "go on ", 10);
  EXPECT_EQ(Generate(server_.stub(), request).candidates[0].tokens,
            conversation.Expect(request));
}

TEST_F(SessionTextTest, NothingIsLeftToResume) {
  const std::string id = CreateSession(server_)->id();
  ASSERT_TRUE(Generate(server_.stub(), TurnRequest(id, "text", 5)).status.ok());
  ASSERT_TRUE(Append(server_, id, " more").ok());
  const grpc::Status status = Generate(server_.stub(), ResumeRequest(id, 0)).status;
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("no generation to resume"));
}

TEST_F(SessionTextTest, AParkedSessionIsBroughtBackForThem) {
  const std::string id = CreateSession(server_, "parked ")->id();
  ASSERT_TRUE(ParkSession(server_, id).ok());
  EXPECT_EQ(History(server_, id)->text(), "parked ");
  ASSERT_TRUE(ParkSession(server_, id).ok());
  ASSERT_TRUE(Append(server_, id, "and back").ok());
  ExpectGoesOnAfter(id, "parked and back");
}

TEST_F(SessionTextTest, TokensAreTakenAsTheyAre) {
  const std::string id = CreateSession(server_, "ids: ")->id();
  v1::AppendToSessionRequest request;
  request.set_session_id(id);
  for (const TokenId token : Encode("seven")) request.mutable_tokens()->add_ids(token);
  ASSERT_TRUE(Append(server_, request).ok());
  ExpectGoesOnAfter(id, "ids: seven");
}

TEST_F(SessionTextTest, WhatFailsLeavesTheSessionAsItWas) {
  const std::string id = CreateSession(server_, "as it was")->id();
  server_.engine().FailForward(1, absl::InternalError("a fault"));
  EXPECT_TRUE(absl::IsInternal(Append(server_, id, " lost").status()));
  EXPECT_EQ(History(server_, id)->text(), "as it was");
  EXPECT_TRUE(absl::IsInvalidArgument(Append(server_, id, "").status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(Append(server_, id, std::string(100000, '.')).status()));
  EXPECT_TRUE(absl::IsNotFound(Append(server_, std::string(32, '0'), "x").status()));
  ExpectGoesOnAfter(id, "as it was");
}

// Many steps long, so that its end can come before its last one.
const std::string kLongText(10000, '.');

TEST_F(SessionTextTest, OneThatIsCancelledAddsAllOrNothing) {
  const std::string id = CreateSession(server_, "before ")->id();
  v1::AppendToSessionRequest request;
  request.set_session_id(id);
  request.set_text(kLongText);
  server_.engine().BlockForward();
  grpc::ClientContext context;
  auto running =
      std::async(std::launch::async, [&] { return Append(server_, request, &context); });
  server_.engine().WaitUntilBlocked();
  EXPECT_TRUE(absl::IsFailedPrecondition(Append(server_, id, "2").status()))
      << "one call at a time";
  EXPECT_TRUE(absl::IsFailedPrecondition(History(server_, id).status()));
  context.TryCancel();
  EXPECT_TRUE(absl::IsCancelled(running.get().status()));
  server_.engine().Release();
  ASSERT_TRUE(Eventually([&] { return !GetSession(server_, id)->busy(); }));
  const bool came_in_time = GetSession(server_, id)->num_tokens() > 100;
  ExpectGoesOnAfter(id, came_in_time ? "before " + kLongText : "before ");
}

TEST_F(SessionTextTest, ADrainParksAllOrNothingOfIt) {
  std::string id;
  absl::Status status;
  {
    TestServer server(WithStore(&store_));
    id = CreateSession(server, "before ")->id();
    server.engine().BlockForward();
    auto running =
        std::async(std::launch::async, [&] { return Append(server, id, kLongText); });
    server.engine().WaitUntilBlocked();
    auto drained =
        std::async(std::launch::async, [&] { server.server().Shutdown(kPatience); });
    ASSERT_TRUE(
        Eventually([&] { return absl::IsUnavailable(GetSession(server, id).status()); }));
    server.server().HurryUp();
    server.engine().Release();
    status = running.get().status();
    drained.get();
  }
  EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
  ExpectGoesOnAfter(id, status.ok() ? "before " + kLongText : "before ");
}

TEST_F(SessionTextTest, PagesOfAHistoryAreTheWholeOfIt) {
  const std::string prompt = "naïve café, 漢字 and more";
  const std::string id = CreateSession(server_)->id();
  Conversation conversation;
  const v1::GenerateRequest request = TurnRequest(id, prompt, 12);
  const std::vector<TokenId> answer = conversation.Expect(request);
  ASSERT_TRUE(Generate(server_.stub(), request).status.ok());
  std::vector<TokenId> expected = Encode(prompt);
  expected.insert(expected.end(), answer.begin(), answer.end());
  std::string bytes;
  for (const TokenId token : expected) bytes += TestVocabulary().bytes(token);
  for (const std::int32_t size : {1, 7, 0}) {
    std::vector<TokenId> tokens;
    std::string text;
    do {
      const HistoryOr page = History(server_, id, std::ssize(tokens), size);
      ASSERT_TRUE(page.ok()) << page.status();
      EXPECT_EQ(page->num_tokens(), std::ssize(expected));
      ASSERT_GE(page->tokens_size(), 1);
      if (size > 0) {
        EXPECT_LE(page->tokens_size(), size);
      }
      tokens.insert(tokens.end(), page->tokens().begin(), page->tokens().end());
      text += page->text();
    } while (tokens.size() < expected.size());
    EXPECT_THAT(tokens, ElementsAreArray(expected));
    EXPECT_EQ(text, bytes);
  }
  const HistoryOr end = History(server_, id, std::ssize(expected));
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(end->tokens_size(), 0);
  EXPECT_EQ(end->text(), "");
  EXPECT_EQ(History(server_, CreateSession(server_)->id())->num_tokens(), 0);
}

TEST_F(SessionTextTest, PagesBeyondTheHistoryAreRefused) {
  const std::string id = CreateSession(server_, "short")->id();
  const std::int64_t size = std::ssize(Encode("short"));
  const absl::Status behind = History(server_, id, size + 1).status();
  EXPECT_TRUE(absl::IsInvalidArgument(behind));
  EXPECT_EQ(behind.message(), absl::StrCat("first_token is ", size + 1,
                                           "; the session has ", size, " tokens"));
  EXPECT_FALSE(GetSession(server_, id)->busy()) << "a refusal lets go of it";
}

TEST_F(SessionTextTest, RunningATextSaysWhatItTook) {
  TestServerOptions options = WithStore(nullptr);
  options.scheduler.prefix_cache_bytes = 1 << 20;
  TestServer server(options);
  const std::string text(400, '.');
  for (const std::int64_t cached : {std::int64_t{0}, std::ssize(Encode(text)) - 1}) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_text(text);
    v1::CreateSessionResponse response;
    ASSERT_TRUE(server.sessions().CreateSession(&context, request, &response).ok());
    EXPECT_EQ(response.usage().prompt_tokens(), std::ssize(Encode(text)));
    EXPECT_EQ(response.usage().cached_prompt_tokens(), cached);
  }
  // An empty session begins like any prompt.
  const std::string id = CreateSession(server)->id();
  EXPECT_EQ(Append(server, id, text)->usage().cached_prompt_tokens(),
            std::ssize(Encode(text)) - 1);
  const std::string other = CreateSession(server)->id();
  const GenerateOutput output = Generate(server.stub(), TurnRequest(other, text, 3));
  EXPECT_EQ(output.candidates[0].last->usage().cached_prompt_tokens(),
            std::ssize(Encode(text)) - 1);
}

}  // namespace
}  // namespace goldfinch
