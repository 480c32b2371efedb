// SessionService, and Generate with a session, through a real channel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <set>
#include <string>
#include <vector>

#include "tests/fakes/fake_clock.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/session_client.h"
#include "tests/server/grpc/session_fixture.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

class SessionServiceTest : public SessionFixture {};

TEST_F(SessionServiceTest, ATurnSendsOnlyWhatIsNew) {
  const auto session = CreateSession(server_);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->num_tokens(), 0);
  Conversation conversation;
  for (const char* text : {"a document ", "a question ", "another "}) {
    const std::int64_t before = conversation.num_tokens();
    const auto request = TurnRequest(session->id(), text, 10);
    const GenerateOutput output = Generate(server_.stub(), request);
    ASSERT_TRUE(output.status.ok()) << output.status.error_message();
    EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(request));
    const v1::Usage& usage = output.candidates[0].last->usage();
    EXPECT_EQ(usage.prompt_tokens(), before + std::ssize(Encode(text)));
    // The last token of an answer has not passed through the model yet.
    EXPECT_EQ(usage.cached_prompt_tokens(), before == 0 ? 0 : before - 1);
    EXPECT_EQ(GetSession(server_, session->id())->num_tokens(),
              conversation.num_tokens());
  }
}

TEST_F(SessionServiceTest, ATextGivenAtCreationIsRunAndGoesOnByItself) {
  const auto session = CreateSession(server_, "once upon a time");
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->num_tokens(), std::ssize(Encode("once upon a time")));
  EXPECT_EQ(session->generated_tokens(), 0);
  v1::GenerateRequest request = TurnRequest(session->id(), "", 10);
  request.clear_text();
  const GenerateOutput output = Generate(server_.stub(), request);
  ASSERT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[0].tokens,
            ExpectedTokens(TextRequest("once upon a time", 10)));
}

// What a client waits for while its session is brought back is a part of what it is told.
TEST(SessionTimesTest, TimesOfACallCountFromItsArrival) {
  FakeClock clock;
  MemoryMedium medium(clock);
  MemoryStore store(medium, "one", kLongLease);
  TestServerOptions options;
  options.store = &store;
  options.clock = &clock;
  TestServer server(options);
  const auto session = CreateSession(server, "once upon a time");
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_TRUE(ParkSession(server, session->id()).ok());
  medium.HoldClaims();
  auto answer = std::async(std::launch::async, [&] {
    return Generate(server.stub(), TurnRequest(session->id(), "there", 3));
  });
  medium.WaitForHeldClaims(1);
  clock.Advance(std::chrono::seconds(5));
  medium.LetClaimsGo();
  const GenerateOutput output = answer.get();
  ASSERT_TRUE(output.status.ok()) << output.status.error_message();
  const v1::Usage& usage = output.candidates[0].last->usage();
  EXPECT_EQ(usage.queue_time().seconds(), 5);
  EXPECT_EQ(usage.first_token_time().seconds(), 5);
  EXPECT_EQ(usage.total_time().seconds(), 5);
  EXPECT_EQ(server.Metric("goldfinch_time_to_first_token_seconds_sum"), 5);
  EXPECT_EQ(server.Metric("goldfinch_session_load_seconds_sum{result=\"ok\"}"), 5);
  EXPECT_EQ(server.Metric("goldfinch_session_load_seconds_count{result=\"failed\"}"), 0);
  EXPECT_EQ(server.Metric("goldfinch_session_park_seconds_count{result=\"ok\"}"), 1);
  EXPECT_GT(server.Metric("goldfinch_session_loaded_bytes_total"), 0);
  EXPECT_EQ(server.Metric("goldfinch_session_parked_bytes_total"),
            server.Metric("goldfinch_session_loaded_bytes_total"));
  EXPECT_EQ(server.Metric("goldfinch_session_lease_good"), 1);
}

TEST_F(SessionServiceTest, AnEmptySessionHasNothingToGoOnWith) {
  v1::GenerateRequest request = TurnRequest(CreateSession(server_)->id(), "", 10);
  request.clear_text();
  const grpc::Status status = Generate(server_.stub(), request).status;
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("the session is empty"));
}

// To go on without a text none is set: one that is set and empty is a caller's mistake,
// and adds no turn.
TEST_F(SessionServiceTest, AnEmptyTextIsNotNoText) {
  const auto session = CreateSession(server_, "the beginning");
  v1::GenerateRequest text = TurnRequest(session->id(), "", 10), tokens = text;
  tokens.mutable_tokens();
  for (const v1::GenerateRequest& request : {text, tokens}) {
    const grpc::Status status = Generate(server_.stub(), request).status;
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("prompt has 0 tokens"));
  }
  EXPECT_EQ(GetSession(server_, session->id())->num_tokens(), session->num_tokens());
}

TEST_F(SessionServiceTest, AForkGoesOnByItself) {
  const auto session = CreateSession(server_, "the beginning");
  const auto fork = ForkSession(server_, session->id());
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_NE(fork->id(), session->id());
  EXPECT_EQ(fork->num_tokens(), session->num_tokens());
  for (const std::string& id : {fork->id(), session->id()}) {
    Conversation conversation;
    v1::GenerateRequest request = TextRequest("the beginning", 0);
    conversation.Expect(request);
    request = TurnRequest(id, id.substr(0, 3), 10);
    const GenerateOutput output = Generate(server_.stub(), request);
    EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(request));
  }
}

TEST_F(SessionServiceTest, PagesOfAListAreInOrderAndWhole) {
  std::set<std::string> ids;
  for (int i = 0; i < 25; ++i) {
    const auto session = CreateSession(server_, "text");
    ids.insert(session->id());
    if (i % 3 == 0) {
      EXPECT_TRUE(ParkSession(server_, session->id()).ok());
    }
  }
  std::vector<std::string> listed;
  v1::ListSessionsRequest request;
  request.set_page_size(10);
  do {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    ASSERT_TRUE(server_.sessions().ListSessions(&context, request, &response).ok());
    EXPECT_LE(response.sessions_size(), 10);
    for (const v1::Session& session : response.sessions()) {
      listed.push_back(session.id());
      EXPECT_EQ(session.num_tokens(), std::ssize(Encode("text")));
      EXPECT_NE(session.place(), v1::SESSION_PLACE_UNSPECIFIED);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(listed, std::vector<std::string>(ids.begin(), ids.end()));

  grpc::ClientContext context;
  v1::ListSessionsResponse response;
  request.set_page_token("zz");
  const grpc::Status status =
      server_.sessions().ListSessions(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(),
            "page_token must be the next_page_token of another answer");
}

TEST_F(SessionServiceTest, ParkedSessionsComeBackByThemselves) {
  const auto session = CreateSession(server_, "some text");
  const auto parked = ParkSession(server_, session->id());
  ASSERT_TRUE(parked.ok()) << parked.status();
  EXPECT_EQ(parked->place(), v1::SESSION_PLACE_PARKED);
  EXPECT_EQ(parked->num_tokens(), session->num_tokens());
  EXPECT_TRUE(ParkSession(server_, session->id()).ok()) << "again: it is there";
  Conversation conversation;
  conversation.Expect(TextRequest("some text", 0));
  const auto request = TurnRequest(session->id(), " more", 10);
  const GenerateOutput output = Generate(server_.stub(), request);
  EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(request));
  EXPECT_EQ(GetSession(server_, session->id())->place(), v1::SESSION_PLACE_ALIVE);
}

TEST_F(SessionServiceTest, DeletedIsGoneWhereverItWas) {
  for (const bool parked : {false, true}) {
    const auto session = CreateSession(server_, "text");
    if (parked) {
      ASSERT_TRUE(ParkSession(server_, session->id()).ok());
    }
    EXPECT_TRUE(DeleteSession(server_, session->id()).ok());
    EXPECT_TRUE(absl::IsNotFound(GetSession(server_, session->id()).status()));
    EXPECT_TRUE(absl::IsNotFound(DeleteSession(server_, session->id())));
  }
  EXPECT_EQ(medium_.size(), 0u);
}

TEST_F(SessionServiceTest, ASecondCallIsRefusedAtOnce) {
  const std::string id = CreateSession(server_, "text")->id();
  server_.engine().BlockForward();
  auto running = std::async(std::launch::async, [&] {
    return Generate(server_.stub(), TurnRequest(id, "first", 10));
  });
  server_.engine().WaitUntilBlocked();
  EXPECT_TRUE(GetSession(server_, id)->busy());
  const grpc::Status second = Generate(server_.stub(), TurnRequest(id, "2", 1)).status;
  EXPECT_EQ(second.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(second.error_message(), HasSubstr("in use by another call"));
  for (const absl::Status& status :
       {ForkSession(server_, id).status(), ParkSession(server_, id).status(),
        ExportSession(server_, id).status(), DeleteSession(server_, id)}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
  server_.engine().Release();
  EXPECT_TRUE(running.get().status.ok());
  EXPECT_TRUE(Generate(server_.stub(), TurnRequest(id, "2", 1)).status.ok());
}

TEST_F(SessionServiceTest, CancellingKeepsWhatWasGenerated) {
  const std::string id = CreateSession(server_)->id();
  const auto request = [&] {
    v1::GenerateRequest turn = TurnRequest(id, "go on for long", 10000);
    turn.mutable_sampling()->set_ignore_eos(true);
    return turn;
  }();
  {
    grpc::ClientContext context;
    const auto reader = server_.stub().Generate(&context, request);
    v1::GenerateResponse message;
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  }
  ASSERT_TRUE(Eventually([&] { return !GetSession(server_, id)->busy(); }));
  const auto session = GetSession(server_, id);
  EXPECT_GE(session->generated_tokens(), 1);
  v1::GenerateRequest shorter = request;
  shorter.mutable_sampling()->set_max_tokens(session->generated_tokens());
  Conversation conversation;
  conversation.Expect(shorter);
  EXPECT_EQ(session->num_tokens(), conversation.num_tokens());
  const auto next = TurnRequest(id, "another thing", 10);
  const GenerateOutput output = Generate(server_.stub(), next);
  EXPECT_EQ(output.candidates[0].tokens, conversation.Expect(next));
}

TEST_F(SessionServiceTest, ACallThatEndsBeforeItsFirstTokenChangesNothing) {
  const std::string id = CreateSession(server_, "text")->id();
  server_.engine().FailForward(1, absl::InternalError("a fault"));
  EXPECT_FALSE(Generate(server_.stub(), TurnRequest(id, "lost", 10)).status.ok());
  ASSERT_TRUE(Eventually([&] { return !GetSession(server_, id)->busy(); }));
  EXPECT_EQ(GetSession(server_, id)->num_tokens(), std::ssize(Encode("text")));
  Conversation conversation;
  conversation.Expect(TextRequest("text", 0));
  const auto request = TurnRequest(id, " and more", 10);
  EXPECT_EQ(Generate(server_.stub(), request).candidates[0].tokens,
            conversation.Expect(request));
}

TEST_F(SessionServiceTest, AnExportedSessionGoesOnElsewhere) {
  TestServer other;
  const std::string id = CreateSession(server_, "far away")->id();
  const auto snapshot = ExportSession(server_, id);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(*snapshot, *ExportSession(server_, id)) << "same session, same bytes";
  for (const std::size_t chunk : {std::size_t{7}, std::size_t{1} << 20}) {
    const auto imported = ImportSession(other, *snapshot, chunk);
    ASSERT_TRUE(imported.ok()) << imported.status();
    EXPECT_NE(imported->id(), id);
    EXPECT_FALSE(imported->numerics_changed());
    Conversation conversation;
    conversation.Expect(TextRequest("far away", 0));
    const auto request = TurnRequest(imported->id(), " over", 10);
    EXPECT_EQ(Generate(other.stub(), request).candidates[0].tokens,
              conversation.Expect(request));
  }
  EXPECT_TRUE(GetSession(server_, id).ok()) << "exporting leaves it";
}

TEST_F(SessionServiceTest, DamagedImportsAreRefusedAndHarmNothing) {
  const std::string id = CreateSession(server_, "precious")->id();
  const std::string snapshot = *ExportSession(server_, id);
  std::string flipped = snapshot;
  flipped[flipped.size() / 2] ^= 1;
  for (const std::string& bytes :
       {flipped, snapshot.substr(0, snapshot.size() - 1), snapshot + "x", std::string(),
        std::string(100000, 'x')}) {
    EXPECT_TRUE(absl::IsDataLoss(ImportSession(server_, bytes).status()));
  }
  EXPECT_EQ(*ExportSession(server_, id), snapshot);
}

TEST_F(SessionServiceTest, OtherNumericsAreTold) {
  TestServer other({.engine = {.numerics_id = "another"}});
  const std::string snapshot =
      *ExportSession(server_, CreateSession(server_, "text")->id());
  const auto imported = ImportSession(other, snapshot);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_TRUE(imported->numerics_changed());
  grpc::ClientContext context;
  const auto reader =
      other.stub().Generate(&context, TurnRequest(imported->id(), "x", 10));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(message.numerics_changed());
  while (reader->Read(&message)) EXPECT_FALSE(message.numerics_changed());
}

TEST_F(SessionServiceTest, WithoutAStoreSessionsLiveInMemory) {
  TestServer server;
  const auto session = CreateSession(server, "text");
  ASSERT_TRUE(session.ok());
  EXPECT_TRUE(Generate(server.stub(), TurnRequest(session->id(), "x", 3)).status.ok());
  const absl::Status parked = ParkSession(server, session->id()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(parked));
  EXPECT_THAT(std::string(parked.message()), HasSubstr("--session_store"));
  EXPECT_TRUE(absl::IsNotFound(GetSession(server, std::string(32, '0')).status()));
}

TEST_F(SessionServiceTest, AStoreThatIsGoneLeavesSessionsWhereTheyAre) {
  const std::string id = CreateSession(server_, "text")->id();
  const std::string parked = CreateSession(server_, "parked")->id();
  ASSERT_TRUE(ParkSession(server_, parked).ok());
  medium_.Fail(true);
  EXPECT_TRUE(absl::IsUnavailable(ParkSession(server_, id).status()));
  EXPECT_TRUE(absl::IsUnavailable(CreateSession(server_).status()));
  EXPECT_TRUE(absl::IsUnavailable(GetSession(server_, parked).status()));
  EXPECT_TRUE(Generate(server_.stub(), TurnRequest(id, "x", 3)).status.ok());
  medium_.Fail(false);
  EXPECT_TRUE(ParkSession(server_, id).ok());
  EXPECT_TRUE(Generate(server_.stub(), TurnRequest(parked, "x", 3)).status.ok());
}

TEST_F(SessionServiceTest, WhatIsDamagedInTheStoreIsDataLoss) {
  const std::string id = CreateSession(server_, "text")->id();
  ASSERT_TRUE(ParkSession(server_, id).ok());
  medium_.Spoil(id, [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; });
  const grpc::Status status = Generate(server_.stub(), TurnRequest(id, "x", 3)).status;
  EXPECT_EQ(status.error_code(), StatusCode::DATA_LOSS);
  medium_.Spoil(id, [](std::string& bytes) { bytes[bytes.size() / 2] ^= 1; });
  EXPECT_TRUE(Generate(server_.stub(), TurnRequest(id, "x", 3)).status.ok());
}

TEST_F(SessionServiceTest, MetricsCountThem) {
  const std::string id = CreateSession(server_, "text")->id();
  ForkSession(server_, id).IgnoreError();
  ParkSession(server_, id).IgnoreError();
  Generate(server_.stub(), TurnRequest(id, "x", 3));
  const auto events = [this](const char* event) {
    return server_.Metric(std::string("goldfinch_session_events_total{event=\"") + event +
                          "\"}");
  };
  EXPECT_EQ(events("created"), 1);
  EXPECT_EQ(events("forked"), 1);
  EXPECT_EQ(events("parked"), 1);
  EXPECT_EQ(events("loaded"), 1);
}

// A session whose name nobody was told would lie about until its time to live is over.
TEST_F(SessionServiceTest, ThoseWhoseMakerIsGoneAreGoneToo) {
  const std::string id = CreateSession(server_, "text")->id();
  const std::string snapshot = *ExportSession(server_, id);
  const std::vector<std::function<grpc::Status(grpc::ClientContext&)>> makers = {
      [&](grpc::ClientContext& context) {
        v1::CreateSessionResponse response;
        return server_.sessions().CreateSession(&context, {}, &response);
      },
      [&](grpc::ClientContext& context) {
        v1::ForkSessionRequest request;
        request.set_session_id(id);
        v1::ForkSessionResponse response;
        return server_.sessions().ForkSession(&context, request, &response);
      },
      [&](grpc::ClientContext& context) {
        v1::ImportSessionResponse response;
        const auto writer = server_.sessions().ImportSession(&context, &response);
        v1::ImportSessionRequest request;
        request.set_chunk(snapshot);
        writer->Write(request);
        writer->WritesDone();
        return writer->Finish();
      }};
  double deleted = 0;
  for (const auto& make : makers) {
    medium_.HoldClaims();
    grpc::ClientContext leaving;
    auto made = std::async(std::launch::async, [&] { return make(leaving); });
    medium_.WaitForHeldClaims(1);
    leaving.TryCancel();
    EXPECT_EQ(made.get().error_code(), StatusCode::CANCELLED);
    // Of one connection the server hears in order.
    EXPECT_TRUE(GetSession(server_, id).ok());
    medium_.LetClaimsGo();
    ++deleted;
    EXPECT_TRUE(Eventually([&] {
      return server_.Metric("goldfinch_session_events_total{event=\"deleted\"}") ==
             deleted;
    }));
  }
  EXPECT_TRUE(GetSession(server_, id).ok());
}

TEST(CreateSessionTest, IsRefusedOnceAndNotForLeaving) {
  TestServerOptions options;
  options.scheduler.max_queued_requests = 1;
  options.engine.num_pages = 100000;
  options.engine.num_slots = 1;
  TestServer server(options);
  const auto refused = [&server](const std::string& code) {
    return server.Metric("goldfinch_requests_refused_total{code=\"" + code + "\"}");
  };
  v1::GenerateRequest endless = TextRequest("endless", 1000000);
  endless.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext running, waiting;
  const auto runs = server.stub().Generate(&running, endless);
  v1::GenerateResponse message;
  ASSERT_TRUE(runs->Read(&message));
  const auto waits = server.stub().Generate(&waiting, endless);
  ASSERT_TRUE(Eventually([&] {
    return server.Metric("goldfinch_requests_waiting{reason=\"admission\"}") == 1;
  }));
  EXPECT_EQ(CreateSession(server, "text").status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused("RESOURCE_EXHAUSTED"), 1);

  // Accepted, and then its client leaves: no refusal.
  waiting.TryCancel();
  ASSERT_TRUE(Eventually([&] {
    return server.Metric("goldfinch_requests_waiting{reason=\"admission\"}") == 0;
  }));
  grpc::ClientContext leaving;
  v1::CreateSessionRequest request;
  request.set_text("text");
  v1::CreateSessionResponse response;
  auto created = std::async(std::launch::async, [&] {
    return server.sessions().CreateSession(&leaving, request, &response);
  });
  ASSERT_TRUE(Eventually([&] {
    return server.Metric("goldfinch_requests_waiting{reason=\"admission\"}") == 1;
  }));
  leaving.TryCancel();
  EXPECT_EQ(created.get().error_code(), StatusCode::CANCELLED);
  running.TryCancel();
  EXPECT_TRUE(server.BecomesIdle());
  EXPECT_EQ(refused("CANCELLED"), 0);
  EXPECT_EQ(refused("RESOURCE_EXHAUSTED"), 1);
}

}  // namespace
}  // namespace goldfinch
