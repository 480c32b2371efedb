// Clients that vanish, whatever their call was doing and however they go, and clients
// that read slowly or never: their own call ends, once, and that is all that happens.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/hostile/attacked_server.h"
#include "tests/hostile/step_gate.h"
#include "tests/hostile/victim.h"
#include "tests/hostile/witness.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;

constexpr char kWaiting[] = "goldfinch_requests_waiting{reason=\"admission\"}";
constexpr char kPaused[] = "goldfinch_requests_waiting{reason=\"slow_reader\"}";
constexpr char kGenerate[] = "/goldfinch.v1.GenerationService/Generate";
constexpr char kScore[] = "/goldfinch.v1.GenerationService/Score";
constexpr char kCreate[] = "/goldfinch.v1.SessionService/CreateSession";
constexpr char kExport[] = "/goldfinch.v1.SessionService/ExportSession";
constexpr char kImport[] = "/goldfinch.v1.SessionService/ImportSession";

// Many log-probabilities, so that the buffers of a connection fill up soon.
v1::GenerateRequest WideRequest(std::int64_t max_tokens) {
  v1::GenerateRequest request = TextRequest("wide", max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_logprobs(20);
  return request;
}

bool Prefills(const Span& span) { return span.output == SpanOutput::kNone; }
bool Decodes(const Span& span) {
  return span.output == SpanOutput::kSample && span.tokens.size() == 1;
}

// Conditions for a step, beside the witness, which has decoded since before.
bool SomeonePrefills(std::span<const Span> batch) {
  return std::ranges::any_of(batch, Prefills);
}
bool TwoDecode(std::span<const Span> batch) {
  return batch.size() == 2 && std::ranges::all_of(batch, Decodes);
}

class VanishTest : public AttackedServerTest, public testing::WithParamInterface<Way> {
 protected:
  void Begin(const TestServerOptions& options = RoomyOptions()) {
    Start(options);
    gate_ = std::make_unique<StepGate>(engine());
    witness_ = std::make_unique<Witness>(server());
  }

  void StartVictim(const std::string& method, const google::protobuf::Message& request,
                   bool more = false) {
    victim_ = goldfinch::StartVictim(GetParam(), server(),
                                     {method, request.SerializeAsString(), more});
  }

  // In the step that the gate waits for.
  void StartVictimAndVanishAt(StepGate::Condition condition, const std::string& method,
                              const google::protobuf::Message& request) {
    gate_->HoldAt(std::move(condition));
    StartVictim(method, request);
    ASSERT_TRUE(gate_->WaitUntilHeld());
    victim_->Vanish();
    gate_->Release();
  }

  // The request of the victim, and the witness, ended by being cancelled and by nothing
  // else.
  void ExpectOneMoreCancelled(std::map<std::string, int> ends = {}) {
    EXPECT_TRUE(Eventually([&] { return server().Metric(kCancelled) == 1; }));
    witness_->Finish();
    ends["cancelled"] = 2;
    ExpectEnds(ends);
  }

  void TearDown() override {
    victim_.reset();
    witness_.reset();
    gate_.reset();
    AttackedServerTest::TearDown();
  }

  // For a text to take long: a token of it a step. It is as long as may be sent at once.
  static TestServerOptions TinySteps() {
    TestServerOptions options = RoomyOptions();
    options.scheduler.step_tokens = 2;
    return options;
  }
  static constexpr std::size_t kLongText = 60000;

  static constexpr char kCancelled[] =
      "goldfinch_requests_finished_total{reason=\"cancelled\"}";

  std::unique_ptr<StepGate> gate_;
  std::unique_ptr<Witness> witness_;
  std::unique_ptr<Victim> victim_;
};

std::string NameOf(const testing::TestParamInfo<Way>& way) {
  constexpr std::array kNames = {"Cancels", "Closes", "Resets"};
  return kNames.at(static_cast<std::size_t>(way.param));
}

INSTANTIATE_TEST_SUITE_P(AClient, VanishTest,
                         testing::Values(Way::kCancels, Way::kCloses, Way::kResets),
                         NameOf);

TEST_P(VanishTest, InTheQueue) {
  TestServerOptions options = RoomyOptions();
  options.engine.num_slots = 1;  // the witness's
  Begin(options);
  StartVictim(kGenerate, EndlessRequest());
  ASSERT_TRUE(Eventually([&] { return server().Metric(kWaiting) == 1; }));
  victim_->Vanish();
  EXPECT_TRUE(Eventually([&] { return server().Metric(kWaiting) == 0; }));
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, InItsPrompt) {
  Begin();
  StartVictimAndVanishAt(SomeonePrefills, kGenerate,
                         EndlessRequest(std::string(5000, 'x')));
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, WhileItIsGenerated) {
  Begin();
  StartVictimAndVanishAt(TwoDecode, kGenerate, EndlessRequest());
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, AfterItsFirstTokens) {
  Begin();
  StartVictim(kGenerate, EndlessRequest());
  victim_->ReadFirst();
  victim_->Vanish();
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, WhilePausedBecauseItReadsNothing) {
  Begin();
  StartVictim(kGenerate, WideRequest(3'000'000));
  ASSERT_TRUE(Eventually([&] { return server().Metric(kPaused) == 1; }));
  witness_->ExpectGoesOn();
  victim_->Vanish();
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, BetweenItsCandidates) {
  Begin();
  v1::GenerateRequest request = WideRequest(3'000'000);
  request.mutable_sampling()->set_n(3);
  // The fourth token of the first candidate, which the others do not have before they
  // are paused, however late the server hears that nobody reads them: so with some seed.
  v1::GenerateRequest start = request;
  start.mutable_sampling()->set_max_tokens(2000);
  TokenId last = 0;
  const auto others_have_it = [&] {
    last = ExpectedTokens(start, 0)[3];
    return std::ranges::any_of(std::array{1u, 2u}, [&](std::uint32_t other) {
      return std::ranges::count(ExpectedTokens(start, other), last) > 0;
    });
  };
  do {
    start.mutable_sampling()->set_seed(start.sampling().seed() + 1);
  } while (others_have_it());
  request.mutable_sampling()->set_seed(start.sampling().seed());
  request.mutable_sampling()->add_stop_token_ids(last);
  std::size_t before = 0;
  const auto one_has_ended = [before](std::span<const Span> batch) mutable {
    return std::exchange(before, batch.size()) == 4 && batch.size() == 3;
  };
  StartVictimAndVanishAt(one_has_ended, kGenerate, request);
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, WhileItIsScored) {
  Begin(TinySteps());
  v1::ScoreRequest request;
  request.set_context_text(std::string(kLongText, 'x'));
  request.set_continuation_text("never scored");
  StartVictimAndVanishAt(SomeonePrefills, kScore, request);
  ExpectOneMoreCancelled();
}

TEST_P(VanishTest, WhileTheTextOfItsNewSessionRuns) {
  Begin(TinySteps());
  v1::CreateSessionRequest request;
  request.set_text(std::string(kLongText, 'x'));
  StartVictimAndVanishAt(SomeonePrefills, kCreate, request);
  ExpectOneMoreCancelled();
  // A session that nobody was told of is not there.
  EXPECT_TRUE(Eventually([&] {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    return server().sessions().ListSessions(&context, {}, &response).ok() &&
           response.sessions_size() == 0;
  }));
}

TEST_P(VanishTest, WhileItsSessionGoesOn) {
  Begin();
  const std::string id = CreateSession(server())->id();
  v1::GenerateRequest request = EndlessRequest();
  request.set_session(id);
  StartVictimAndVanishAt(TwoDecode, kGenerate, request);
  ExpectOneMoreCancelled();
  // The session is the client's who comes back, at the last token generated.
  const auto is_free = [&] { return !GetSession(server(), id)->busy(); };
  ASSERT_TRUE(Eventually(is_free));
  const std::int64_t generated = GetSession(server(), id)->generated_tokens();
  EXPECT_GE(generated, 1);
  Conversation conversation;
  request.mutable_sampling()->set_max_tokens(generated);
  conversation.Expect(request);
  const auto next = TurnRequest(id, "more", 10);
  EXPECT_EQ(Generate(server().stub(), next).candidates[0].tokens,
            conversation.Expect(next));
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

TEST_P(VanishTest, WhileItsSessionIsExported) {
  Begin();
  grpc::ClientContext context;
  v1::CreateSessionRequest create;
  create.mutable_tokens()->mutable_ids()->Resize(2'000'000, 7);
  v1::CreateSessionResponse created;
  ASSERT_TRUE(server().sessions().CreateSession(&context, create, &created).ok());
  v1::ExportSessionRequest request;
  request.set_session_id(created.session().id());
  StartVictim(kExport, request);
  victim_->ReadFirst();
  victim_->Vanish();
  // It is not in use any more, and can be exported whole, which is far more than what
  // was on its way.
  absl::StatusOr<std::string> snapshot;
  ASSERT_TRUE(Eventually([&] {
    snapshot = ExportSession(server(), request.session_id());
    return snapshot.ok();
  })) << snapshot.status();
  EXPECT_GT(snapshot->size(), 8'000'000u);
  EXPECT_TRUE(DeleteSession(server(), request.session_id()).ok());
}

TEST_P(VanishTest, WhileASessionIsImported) {
  Begin();
  const std::string id = CreateSession(server(), std::string(3000, 'x'))->id();
  const std::string snapshot = *ExportSession(server(), id);
  v1::ImportSessionRequest request;
  request.set_chunk(snapshot.substr(0, snapshot.size() / 2));
  StartVictim(kImport, request, /*more=*/true);
  victim_->Vanish();
  // Half of a session is none, and a whole one still is welcome.
  const auto imported = ImportSession(server(), snapshot);
  ASSERT_TRUE(imported.ok()) << imported.status();
  grpc::ClientContext context;
  v1::ListSessionsResponse response;
  ASSERT_TRUE(server().sessions().ListSessions(&context, {}, &response).ok());
  EXPECT_EQ(response.sessions_size(), 2);
  EXPECT_TRUE(DeleteSession(server(), imported->id()).ok());
  EXPECT_TRUE(DeleteSession(server(), id).ok());
}

// A prompt of several steps, then tokens: gone at the first step, the second, and so on.
TEST_P(VanishTest, AtEachStepOfARequest) {
  TestServerOptions options = RoomyOptions();
  options.scheduler.step_tokens = 16;
  Begin(options);
  constexpr int kSteps = 12;
  for (int k = 1; k <= kSteps; ++k) {
    int steps = 0;  // that the victim is part of
    StartVictimAndVanishAt(
        [steps, k](std::span<const Span> batch) mutable {
          return batch.size() == 2 && ++steps == k;
        },
        kGenerate, EndlessRequest(std::string(40, 'x')));
    ASSERT_TRUE(Eventually([&] { return server().Metric(kCancelled) == k; }));
    victim_.reset();
  }
  witness_->Finish();
  ExpectEnds({{"cancelled", kSteps + 1}});
}

using ManyClientsTest = AttackedServerTest;

// Clients that come and go for a while, each after a number of messages of its own,
// beside others that stay.
TEST_F(ManyClientsTest, ThatVanishLeaveTheOthersExact) {
  std::vector<std::thread> threads;
  server();
  for (unsigned i = 0; i < 32; ++i) {
    threads.emplace_back([this, i] {
      const auto stub = v1::GenerationService::NewStub(server().NewChannel());
      if (i % 2 == 0) {
        const auto request = TextRequest("stream " + std::to_string(i), 300);
        grpc::ClientContext context;
        context.set_wait_for_ready(true);
        const GenerateOutput output = Generate(*stub, request, &context);
        EXPECT_TRUE(output.status.ok()) << output.status.error_message();
        EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
        return;
      }
      std::mt19937 random(i);
      for (int round = 0; round < 5; ++round) {
        grpc::ClientContext context;
        // The library's first attempt to connect fails now and then when many threads
        // connect at once: it reads errno late.
        context.set_wait_for_ready(true);
        const auto reader = stub->Generate(&context, EndlessRequest());
        v1::GenerateResponse message;
        for (auto left = random() % 20; left > 0; --left) reader->Read(&message);
        context.TryCancel();
        while (reader->Read(&message)) {
        }
        EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class SlowReaderTest : public AttackedServerTest {
 protected:
  TestServerOptions Options() {
    TestServerOptions options = RoomyOptions();
    options.scheduler.stream_buffer_tokens = 256;
    options.clock = &clock_;
    return options;
  }

  // Of a client that takes in no more than it must, however fast the network is.
  std::unique_ptr<v1::GenerationService::Stub> NarrowStub() {
    grpc::ChannelArguments arguments = DirectChannel();
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return v1::GenerationService::NewStub(grpc::CreateCustomChannel(
        server().address(), grpc::InsecureChannelCredentials(), arguments));
  }

  bool BecomesPaused() {
    return Eventually([&] { return server().Metric(kPaused) == 1; });
  }
};

TEST_F(SlowReaderTest, IsPausedAndGetsEveryTokenWhenItReadsAgain) {
  Start(Options());
  const v1::GenerateRequest request = WideRequest(10000);
  grpc::ClientContext context;
  const auto stub = NarrowStub();
  const auto reader = stub->Generate(&context, request);
  ASSERT_TRUE(BecomesPaused());
  // The others are not held up by it.
  EXPECT_TRUE(Generate(server().stub(), TextRequest("quick", 50)).status.ok());
  std::vector<TokenId> tokens;
  for (v1::GenerateResponse message; reader->Read(&message);) {
    tokens.insert(tokens.end(), message.tokens().begin(), message.tokens().end());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, ExpectedTokens(request));
}

TEST_F(SlowReaderTest, IsEndedAndItsMemoryFreedWhenItNeverReads) {
  Start(Options());
  grpc::ClientContext context;
  const auto reader = server().stub().Generate(&context, WideRequest(3'000'000));
  ASSERT_TRUE(BecomesPaused());
  Witness witness(server());
  // By steps: at the first one its buffers may not have been full for good.
  const auto is_ended = [&] {
    clock_.Advance(SchedulerOptions().slow_reader / 2);
    witness.ExpectGoesOn();
    return server().Metric("goldfinch_requests_finished_total{reason=\"aborted\"}") == 1;
  };
  EXPECT_TRUE(Eventually(is_ended));
  witness.Finish();
  ExpectEnds({{"aborted", 1}, {"cancelled", 1}});
  // Of the two ways to hear of it one is true: the status, in its place behind what it
  // did not read, or a call that was broken off because nobody took that.
  for (v1::GenerateResponse message; reader->Read(&message);) {
  }
  const grpc::Status status = Checked(reader->Finish());
  EXPECT_THAT(status.error_code(),
              testing::AnyOf(StatusCode::ABORTED, StatusCode::CANCELLED))
      << status.error_message();
}

}  // namespace
}  // namespace goldfinch
