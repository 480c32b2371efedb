// Generations that are broken off and resumed: told again from any token on, parked by a
// server that drains, and continued by another with the very next token.
#include <gmock/gmock.h>
#include <grpcpp/support/error_details.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/fakes/memory_store.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

constexpr auto kLease = std::chrono::seconds(3600);  // longer than any test

// Several replicas around one store.
class ResumeTest : public testing::Test {
 protected:
  struct Replica {
    Replica(MemoryMedium& medium, const std::string& name, FakeEngineOptions engine,
            std::int64_t max_context_tokens)
        : store(medium, name, kLease),
          server(Options(&store, engine, max_context_tokens)) {}
    static TestServerOptions Options(SnapshotStore* store, FakeEngineOptions engine,
                                     std::int64_t max_context_tokens) {
      TestServerOptions options;
      engine.num_pages = 10000;
      options.engine = engine;
      options.scheduler.max_context_tokens = max_context_tokens;
      options.store = store;
      return options;
    }
    MemoryStore store;
    TestServer server;
  };

  TestServer& Make(const std::string& name, const FakeEngineOptions& engine = {},
                   std::int64_t max_context_tokens = 100000) {
    replicas_.push_back(
        std::make_unique<Replica>(medium_, name, engine, max_context_tokens));
    return replicas_.back()->server;
  }

  const SteadyClock clock_;
  MemoryMedium medium_{clock_};
  std::vector<std::unique_ptr<Replica>> replicas_;
};

// What an interrupted call tells.
v1::Interruption InterruptionOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(grpc::ExtractErrorDetails(status, &details).ok());
  v1::Interruption interruption;
  google::rpc::RetryInfo retry;
  EXPECT_EQ(details.details_size(), 2) << status.error_message();
  if (details.details_size() == 2) {
    EXPECT_TRUE(details.details(0).UnpackTo(&retry));
    EXPECT_TRUE(details.details(1).UnpackTo(&interruption));
  }
  return interruption;
}

std::vector<TokenId> TokensOf(const v1::GenerateResponse& message) {
  return {message.tokens().begin(), message.tokens().end()};
}

// The last messages of a whole call and of a resumed one differ in times, and in how much
// of the prompt was at hand.
void ExpectSameEnd(const v1::GenerateResponse& a, const v1::GenerateResponse& b) {
  EXPECT_EQ(a.finish_reason(), b.finish_reason());
  EXPECT_EQ(a.stop_match_case(), b.stop_match_case());
  EXPECT_EQ(a.matched_stop(), b.matched_stop());
  EXPECT_EQ(a.matched_stop_token(), b.matched_stop_token());
  EXPECT_EQ(a.usage().prompt_tokens(), b.usage().prompt_tokens());
  EXPECT_EQ(a.usage().generated_tokens(), b.usage().generated_tokens());
}

// Requests that end in every way, with all that a stream can carry.
std::vector<v1::GenerateRequest> RequestsOfEveryEnd() {
  std::vector<v1::GenerateRequest> requests;
  requests.push_back(TextRequest("to the limit", 30));
  requests.push_back(TextRequest("with logprobs", 20));
  requests.back().mutable_sampling()->set_logprobs(3);
  const std::vector<TokenId> tokens = ExpectedTokens(TextRequest("a stop id", 40));
  requests.push_back(TextRequest("a stop id", 40));
  requests.back().mutable_sampling()->add_stop_token_ids(tokens[15]);
  const std::string text = TextOf(ExpectedTokens(TextRequest("a stop string", 60)));
  for (const bool include : {false, true}) {
    requests.push_back(TextRequest("a stop string", 60));
    v1::SamplingParams& sampling = *requests.back().mutable_sampling();
    // Of characters that several tokens make, if there are any.
    std::size_t at = text.size() / 2;
    while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
    std::size_t end = std::min(at + 8, text.size());
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
      ++end;
    }
    sampling.add_stop(text.substr(at, end - at));
    sampling.set_include_stop_str_in_output(include);
  }
  return requests;
}

TEST_F(ResumeTest, AnEndedGenerationIsToldAgainFromAnyToken) {
  TestServer& server = Make("one");
  for (v1::GenerateRequest request : RequestsOfEveryEnd()) {
    SCOPED_TRACE(request.text());
    const std::string id = CreateSession(server)->id();
    request.set_session(id);
    const GenerateOutput whole = Generate(server.stub(), request);
    ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
    const CandidateOutput& first = whole.candidates[0];
    for (std::size_t received = 0; received <= first.tokens.size(); ++received) {
      const GenerateOutput again =
          Generate(server.stub(), ResumeRequest(id, static_cast<std::int64_t>(received)));
      ASSERT_TRUE(again.status.ok()) << again.status.error_message();
      const CandidateOutput& rest = again.candidates[0];
      EXPECT_EQ(rest.tokens,
                std::vector<TokenId>(
                    first.tokens.begin() + static_cast<std::ptrdiff_t>(received),
                    first.tokens.end()));
      EXPECT_TRUE(first.text.ends_with(rest.text)) << rest.text;
      if (received == 0) {
        EXPECT_EQ(rest.text, first.text);
      }
      EXPECT_EQ(rest.seed, first.seed);
      ExpectSameEnd(*rest.last, *first.last);
      if (!first.logprobs.empty()) {
        ASSERT_EQ(rest.logprobs.size(), first.logprobs.size() - received);
        for (std::size_t i = 0; i < rest.logprobs.size(); ++i) {
          EXPECT_EQ(rest.logprobs[i].SerializeAsString(),
                    first.logprobs[received + i].SerializeAsString());
        }
      }
    }
  }
}

// More than the messages that are made at once.
TEST_F(ResumeTest, ALongGenerationIsToldAgain) {
  TestServer& server = Make("one");
  v1::GenerateRequest request = TextRequest("long", 9000);
  request.mutable_sampling()->set_ignore_eos(true);
  const std::string id = CreateSession(server)->id();
  request.set_session(id);
  const GenerateOutput whole = Generate(server.stub(), request);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  const CandidateOutput& first = whole.candidates[0];
  for (const std::size_t received : {0, 1, 4095, 4096, 4097, 5000, 8999, 9000}) {
    const GenerateOutput again =
        Generate(server.stub(), ResumeRequest(id, static_cast<std::int64_t>(received)));
    ASSERT_TRUE(again.status.ok()) << again.status.error_message();
    const CandidateOutput& rest = again.candidates[0];
    EXPECT_EQ(rest.tokens, std::vector<TokenId>(first.tokens.begin() +
                                                    static_cast<std::ptrdiff_t>(received),
                                                first.tokens.end()));
    EXPECT_TRUE(first.text.ends_with(rest.text));
    ExpectSameEnd(*rest.last, *first.last);
  }
}

// Reads messages until `stop_at` tokens have come, then lets the server drain; resumes on
// another and puts both halves together.
TEST_F(ResumeTest, ADrainedGenerationGoesOnElsewhereWithTheNextToken) {
  TestServer reference;
  int interrupted = 0;
  for (v1::GenerateRequest request : RequestsOfEveryEnd()) {
    SCOPED_TRACE(request.text());
    const GenerateOutput whole = Generate(reference.stub(), request);
    const CandidateOutput& expected = whole.candidates[0];
    for (const bool with_session : {false, true}) {
      TestServer& one = Make("one");
      TestServer& two = Make("two");
      if (with_session) request.set_session(CreateSession(one)->id());

      auto steps = std::make_shared<std::atomic<int>>(0);
      one.engine().SetForwardHook([&one, steps](auto) {
        if (++*steps == 9) one.engine().BlockForward();
      });
      auto running =
          std::async(std::launch::async, [&] { return Generate(one.stub(), request); });
      one.engine().WaitUntilBlocked();
      auto drained = std::async(std::launch::async, [&] {
        one.server().HurryUp();
        one.server().Shutdown(std::chrono::minutes(2));
      });
      // The drain has begun when new calls are refused.
      ASSERT_TRUE(Eventually([&] {
        grpc::ClientContext context;
        v1::GetModelResponse model;
        return one.stub().GetModel(&context, {}, &model).error_code() ==
               StatusCode::UNAVAILABLE;
      }));
      one.engine().Release();
      const GenerateOutput broken = running.get();
      drained.get();
      if (broken.status.ok()) {
        // It was through before the interruption came.
        EXPECT_EQ(broken.candidates[0].tokens, expected.tokens);
        continue;
      }
      ++interrupted;
      ASSERT_EQ(broken.status.error_code(), StatusCode::UNAVAILABLE);
      const v1::Interruption interruption = InterruptionOf(broken.status);
      const CandidateOutput& before = broken.candidates[0];
      EXPECT_EQ(interruption.tokens_sent(), std::ssize(before.tokens));
      EXPECT_FALSE(before.last.has_value());
      if (with_session) {
        EXPECT_EQ(interruption.session_id(), request.session());
      }

      const auto session = GetSession(two, interruption.session_id());
      ASSERT_TRUE(session.ok()) << session.status();
      EXPECT_EQ(session->place(), v1::SESSION_PLACE_PARKED);
      const GenerateOutput rest =
          Generate(two.stub(),
                   ResumeRequest(interruption.session_id(), interruption.tokens_sent()));
      ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
      const CandidateOutput& after = rest.candidates[0];
      std::vector<TokenId> tokens = before.tokens;
      tokens.insert(tokens.end(), after.tokens.begin(), after.tokens.end());
      EXPECT_EQ(tokens, expected.tokens);
      EXPECT_EQ(before.text + after.text, expected.text);
      EXPECT_EQ(before.logprobs.size() + after.logprobs.size(), expected.logprobs.size());
      ExpectSameEnd(*after.last, *expected.last);
      // A client that lost all of it asks for all of it.
      const GenerateOutput all =
          Generate(two.stub(), ResumeRequest(interruption.session_id(), 0));
      EXPECT_EQ(all.candidates[0].tokens, expected.tokens);
      EXPECT_EQ(all.candidates[0].text, expected.text);
      replicas_.clear();
    }
  }
  EXPECT_GE(interrupted, 6);
}

TEST_F(ResumeTest, EveryCallOfADrainIsResumedByItsOwnClient) {
  constexpr int kCalls = 24;
  TestServer& one = Make("one");
  TestServer& two = Make("two");
  auto request_of = [](int i) {
    v1::GenerateRequest request = TextRequest(absl::StrCat("call ", i), 2000);
    request.mutable_sampling()->set_ignore_eos(true);
    return request;
  };
  // Two seconds for each of them: none is through before the drain has begun.
  one.engine().SetForwardHook(
      [](auto) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
  std::atomic<int> reading = 0, interrupted = 0;
  std::vector<std::future<void>> clients;
  for (int i = 0; i < kCalls; ++i) {
    clients.push_back(std::async(std::launch::async, [&, i] {
      const v1::GenerateRequest request = request_of(i);
      grpc::ClientContext context;
      const auto reader = one.stub().Generate(&context, request);
      std::vector<TokenId> tokens;
      v1::GenerateResponse message;
      while (reader->Read(&message)) {
        if (tokens.empty()) ++reading;
        const std::vector<TokenId> more = TokensOf(message);
        tokens.insert(tokens.end(), more.begin(), more.end());
      }
      const grpc::Status status = reader->Finish();
      if (!status.ok()) {
        ASSERT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
        const v1::Interruption interruption = InterruptionOf(status);
        ASSERT_EQ(interruption.tokens_sent(), std::ssize(tokens));
        ++interrupted;
        const GenerateOutput rest = Generate(
            two.stub(),
            ResumeRequest(interruption.session_id(), interruption.tokens_sent()));
        ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
        tokens.insert(tokens.end(), rest.candidates[0].tokens.begin(),
                      rest.candidates[0].tokens.end());
      }
      EXPECT_EQ(tokens, ExpectedTokens(request));
    }));
  }
  ASSERT_TRUE(Eventually([&] { return reading == kCalls; }));
  one.server().HurryUp();
  one.server().Shutdown(std::chrono::minutes(2));
  for (auto& client : clients) client.get();
  EXPECT_GT(interrupted, 0);
}

TEST_F(ResumeTest, ADrainParksEverySession) {
  TestServer& one = Make("one");
  TestServer& two = Make("two");
  std::vector<std::string> ids;
  for (int i = 0; i < 40; ++i) {
    ids.push_back(CreateSession(one, absl::StrCat("session ", i))->id());
  }
  one.server().Shutdown(std::chrono::minutes(2));
  EXPECT_EQ(medium_.size(), ids.size());
  for (int i = 0; i < 40; ++i) {
    Conversation conversation;
    conversation.Expect(TextRequest(absl::StrCat("session ", i), 0));
    const auto request = TurnRequest(ids[static_cast<std::size_t>(i)], " goes on", 5);
    const GenerateOutput output = Generate(two.stub(), request);
    ASSERT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(request));
  }
}

// Its session comes from the store so late that all calls have been interrupted by then.
TEST_F(ResumeTest, ACallThatComesTooLateToBeInterruptedCostsADrainNoSession) {
  TestServer& one = Make("one");
  TestServer& two = Make("two");
  const std::string id = CreateSession(one, "text")->id();
  ASSERT_TRUE(ParkSession(one, id).ok());
  ASSERT_TRUE(CreateSession(one, "idle").ok());

  medium_.HoldClaims();
  v1::GenerateRequest turn = TurnRequest(id, " goes on", 90000);
  turn.mutable_sampling()->set_ignore_eos(true);
  auto late = std::async(std::launch::async, [&] { return Generate(one.stub(), turn); });
  medium_.WaitForHeldClaims(1);
  auto drained = std::async(std::launch::async, [&] {
    one.server().HurryUp();
    one.server().Shutdown(std::chrono::minutes(2));
  });
  // What is idle is parked after all calls were interrupted.
  ASSERT_TRUE(Eventually([&] { return medium_.size() == 2; }));
  medium_.LetClaimsGo();
  const GenerateOutput refused = late.get();
  EXPECT_EQ(refused.status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(refused.candidates[0].tokens.empty());
  drained.get();

  Conversation conversation;
  conversation.Expect(TextRequest("text", 0));
  const auto request = TurnRequest(id, " goes on", 5);
  const GenerateOutput output = Generate(two.stub(), request);
  ASSERT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(request));
}

TEST_F(ResumeTest, ACallThatNobodyReadsCostsADrainNoSession) {
  TestServer& one = Make("one");
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(CreateSession(one, absl::StrCat("session ", i)).ok());
  }
  grpc::ClientContext context;
  v1::GenerateRequest request = TextRequest("on and on", 90000);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_logprobs(20);  // more than buffers take
  const auto reader = one.stub().Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  // Its request is paused: the client has taken all that it will.
  ASSERT_TRUE(Eventually([&] {
    return one.Metric("goldfinch_requests_waiting{reason=\"slow_reader\"}") == 1;
  }));
  one.server().Shutdown(std::chrono::seconds(4));
  EXPECT_EQ(medium_.size(), 11u) << "what it had generated is one too";
  context.TryCancel();
  reader->Finish();
}

TEST_F(ResumeTest, WhatAnotherReplicaHoldsIsUnavailable) {
  TestServer& one = Make("one");
  TestServer& two = Make("two");
  const std::string id = CreateSession(one, "text")->id();
  ASSERT_TRUE(ParkSession(one, id).ok());
  ASSERT_TRUE(Generate(two.stub(), TurnRequest(id, "x", 1)).status.ok());
  const grpc::Status status = Generate(one.stub(), TurnRequest(id, "x", 1)).status;
  EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("another server holds the session"));
  ASSERT_TRUE(ParkSession(two, id).ok());
  EXPECT_TRUE(Generate(one.stub(), TurnRequest(id, "x", 1)).status.ok());
}

TEST_F(ResumeTest, UnderOtherNumericsItIsTold) {
  TestServer& one = Make("one");
  TestServer& two = Make("two", {.numerics_id = "another"});
  const std::string id = CreateSession(one, "text")->id();
  ASSERT_TRUE(Generate(one.stub(), TurnRequest(id, "x", 5)).status.ok());
  ASSERT_TRUE(ParkSession(one, id).ok());
  grpc::ClientContext context;
  const auto reader = two.stub().Generate(&context, ResumeRequest(id, 2));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(message.numerics_changed());
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(GetSession(two, id)->numerics_changed());
}

// Its data is as good as ever; it is the server that is too small.
TEST_F(ResumeTest, AGenerationBeyondAServersContextWaitsForALargerOne) {
  TestServer& large = Make("large");
  TestServer& small = Make("small", {}, /*max_context_tokens=*/90000);
  const std::string ended = CreateSession(large)->id();
  v1::GenerateRequest request = TurnRequest(ended, "it ends", 95000);
  request.mutable_sampling()->add_stop_token_ids(
      ExpectedTokens(TextRequest("it ends", 40))[15]);
  const GenerateOutput whole = Generate(large.stub(), request);
  ASSERT_TRUE(whole.status.ok());
  ASSERT_TRUE(ParkSession(large, ended).ok());
  const GenerateOutput again = Generate(small.stub(), ResumeRequest(ended, 3));
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.candidates[0].tokens.size(), whole.candidates[0].tokens.size() - 3);
  ExpectSameEnd(*again.candidates[0].last, *whole.candidates[0].last);

  // Beyond it by itself, and with what was said before. Nobody reads so many tokens, so
  // it cannot end.
  const auto break_off = [&](const v1::GenerateRequest& begun) {
    grpc::ClientContext context;
    const auto reader = large.stub().Generate(&context, begun);
    v1::GenerateResponse message;
    EXPECT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  };
  for (const std::int64_t max_tokens : {95000, 89998}) {
    const std::string id = CreateSession(large)->id();
    v1::GenerateRequest endless = TurnRequest(id, "123", max_tokens);
    endless.mutable_sampling()->set_ignore_eos(true);
    break_off(endless);
    ASSERT_TRUE(Eventually([&] { return ParkSession(large, id).ok(); }));
    const grpc::Status refused = Generate(small.stub(), ResumeRequest(id, 0)).status;
    EXPECT_EQ(refused.error_code(), StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(
        refused.error_message(),
        HasSubstr(absl::StrCat("are 3 + ", max_tokens,
                               " tokens; this server's limit of all together is 90000")));
    ASSERT_TRUE(ParkSession(small, id).ok());
    break_off(ResumeRequest(id, 0));
  }
}

TEST_F(ResumeTest, BadResumesGetTheirStatus) {
  TestServer& server = Make("one");
  const std::string id = CreateSession(server)->id();
  const auto code = [&](const v1::GenerateRequest& request) {
    return Generate(server.stub(), request).status.error_code();
  };
  EXPECT_EQ(code(ResumeRequest(id, 0)), StatusCode::FAILED_PRECONDITION)
      << "nothing was generated";
  ASSERT_TRUE(Generate(server.stub(), TurnRequest(id, "x", 5)).status.ok());
  EXPECT_EQ(code(ResumeRequest(id, 6)), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(ResumeRequest(id, -1)), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(ResumeRequest("abc", 0)), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(ResumeRequest(std::string(32, '0'), 0)), StatusCode::NOT_FOUND);
  v1::GenerateRequest both = ResumeRequest(id, 0);
  both.set_session(id);
  EXPECT_EQ(code(both), StatusCode::INVALID_ARGUMENT);
  v1::GenerateRequest sampled = ResumeRequest(id, 0);
  sampled.mutable_sampling()->set_temperature(1);
  EXPECT_EQ(code(sampled), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(ResumeRequest(id, 5)), StatusCode::OK) << "the session is unharmed";
}

}  // namespace
}  // namespace goldfinch
