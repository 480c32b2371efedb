// Secrets that are planted where callers have them, in keys, texts and what is generated,
// and then looked for wherever others may read: the log with all its details, metrics,
// errors and the names of files in the store.
#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "tests/hostile/checked_status.h"
#include "tests/hostile/real_server.h"
#include "tests/server/grpc/any_call.h"
#include "tests/server/grpc/certificates.h"
#include "tests/server/grpc/session_client.h"
#include "tests/server/grpc/tenant_file.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;
using testing::Not;

// Each is looked for by what it ends with, too: a part of one is a leak.
constexpr char kKey[] = "key-canary-Zq8vKx2mWn";
constexpr char kWrongKey[] = "key-canary-Xw5tLp9rQs";
constexpr char kPrompt[] = "A prompt canary, Yh4jVb7kTd";
constexpr char kStop[] = "Stop canary, Rg6fMc3zPl";

// What all tests of this room look at errors with.
TEST(TellingTest, IsNoticed) {
  for (const char* text :
       {"fault at 0xdead", "cannot open /etc/passwd", "/tmp", "peer 10.0.0.1:80",
        "in server.cc:12", "tenant other-tenant is", "a canary", "Key-Of-good"}) {
    static std::string told;
    told = text;
    EXPECT_NONFATAL_FAILURE(ExpectTellsNothing(told), "in: ");
  }
  static std::string late;
  late = std::string("a\0 0xdead", 9);
  EXPECT_NONFATAL_FAILURE(ExpectTellsNothing(late), "0xdea");
  ExpectTellsNothing("prompt has 5000 tokens; the limit is 4096, or 1.5 of 2");
  ExpectTellsNothing("a valid key is needed (authorization: Bearer KEY)");
}

class CanaryTest : public testing::Test {
 protected:
  CanaryTest() {
    secrets_ = {kKey, kWrongKey, kPrompt, kStop};
    for (const char* secret : {kKey, kWrongKey, kPrompt, kStop}) {
      const std::string text = secret;
      secrets_.push_back(text.substr(text.size() - 10));
    }
    // Whoever has read the file of tenants may not use it to know a caller either.
    secrets_.push_back(HashOfKey(kKey));
  }

  std::vector<std::string> Flags() const {
    return {"--tenants_file=" + file_.path(),
            "--tls_cert=" + certificate_.path(),
            "--tls_key=" + key_.path(),
            "--session_store=" + store_.path(),
            "--log_level=debug",
            "--max_sequences=2",
            "--drain_seconds=2",
            "--model_name=an \"odd\"\nname\\{}"};
  }

  std::shared_ptr<grpc::Channel> NewChannel(const RealServer& server) const {
    return server.NewChannel(grpc::SslCredentials({authority_.certificate(), "", ""}));
  }
  static std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", std::string("Bearer ") + kKey);
    return context;
  }

  void ExpectNoSecrets(const std::string& where, const std::string& text) const {
    for (const std::string& secret : secrets_) {
      EXPECT_THAT(text, Not(HasSubstr(secret))) << "in " << where;
    }
  }
  void ExpectRefused(const grpc::Status& status) const {
    EXPECT_FALSE(status.ok());
    ExpectNoSecrets("an error", Checked(status).error_message());
    ExpectNoSecrets("an error's details", status.error_details());
  }

  // Generates one token again and again; what comes is a secret from then on.
  std::string GenerateSecret(v1::GenerationService::Stub& stub,
                             const std::string& session) {
    v1::TokenizeRequest word;
    word.set_text(" parrot");
    v1::TokenizeResponse tokens;
    EXPECT_TRUE(stub.Tokenize(Context().get(), word, &tokens).ok());
    v1::GenerateRequest request = GreedyRequest(kPrompt, 8);
    request.set_session(session);
    request.mutable_sampling()->add_stop(kStop);
    (*request.mutable_sampling()->mutable_logit_bias())[tokens.tokens(0)] = 100;
    const GenerateOutput output = Generate(stub, request, Context().get());
    EXPECT_TRUE(output.status.ok()) << output.status.error_message();
    const std::string& text = output.candidates[0].text;
    EXPECT_GT(text.size(), 8u);
    secrets_.push_back(text);
    const TokenId token = output.candidates[0].tokens.at(0);
    for (const char* separator : {",", ", ", " "}) {
      secrets_.push_back(absl::StrJoin({token, token, token}, separator));
    }
    return text;
  }

  // Every way to get an error out of the server with a secret in the request.
  void ProvokeErrors(const std::shared_ptr<grpc::Channel>& channel) const {
    const std::string generation = "/goldfinch.v1.GenerationService/";
    const std::string sessions = "/goldfinch.v1.SessionService/";
    for (const std::string& method : AllMethods()) {
      ExpectRefused(CallAny(channel, method, WithKey(kWrongKey), ""));
      ExpectRefused(CallAny(channel, method, {{"authorization", kKey}}, ""));
    }
    const auto refuse = [&](const std::string& method, const auto& request) {
      ExpectRefused(CallAny(channel, method, WithKey(kKey), request.SerializeAsString()));
    };
    v1::GenerateRequest request = GreedyRequest(kPrompt, 8);
    request.set_session(kPrompt);
    refuse(generation + "Generate", request);
    request = GreedyRequest(kPrompt, -1);
    refuse(generation + "Generate", request);
    request = GreedyRequest(kPrompt, 8);
    for (int i = 0; i < 20; ++i) request.mutable_sampling()->add_stop(kStop);
    refuse(generation + "Generate", request);
    request = GreedyRequest(kPrompt, 8);
    request.mutable_sampling()->add_stop(kStop + std::string(300, 'x'));
    refuse(generation + "Generate", request);
    request.Clear();
    request.mutable_resume()->set_session_id(kPrompt);
    refuse(generation + "Generate", request);
    v1::ScoreRequest score;
    score.set_context_text(kPrompt);
    refuse(generation + "Score", score);
    v1::GetSessionRequest get;
    get.set_session_id(kPrompt);
    for (const char* method :
         {"GetSession", "ForkSession", "ParkSession", "ExportSession", "DeleteSession"}) {
      refuse(sessions + method, get);
    }
    v1::ListSessionsRequest list;
    list.set_page_token(kPrompt);
    refuse(sessions + "ListSessions", list);
    v1::ImportSessionRequest import;
    import.set_chunk(kPrompt);
    refuse(sessions + "ImportSession", import);
    // A text that is no text, and headers that are none.
    const std::string text = std::string(kPrompt) + "\xff";
    ExpectRefused(CallAny(channel, generation + "Tokenize", WithKey(kKey),
                          std::string("\x0a") + static_cast<char>(text.size()) + text));
    EXPECT_TRUE(CallAny(channel, generation + "GetModel",
                        {{"authorization", std::string("Bearer ") + kKey},
                         {"traceparent", kPrompt},
                         {"x-text", kPrompt}})
                    .ok());
  }

  // What runs while the server is told to stop is parked with its text.
  void InterruptWith(RealServer& server) const {
    const auto stub = v1::GenerationService::NewStub(NewChannel(server));
    const auto context = Context();
    const auto reader = stub->Generate(context.get(), GreedyRequest(kPrompt, 100000));
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    server.program().Signal(SIGTERM);
    while (reader->Read(&message)) {
    }
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
    ExpectRefused(status);
  }

  const Authority authority_;
  const Identity identity_ = authority_.Sign("server");
  const PemFile certificate_{identity_.certificate, 0644};
  const PemFile key_{identity_.key};
  const TenantFile file_{TenantEntry("alpha", kKey)};
  const TemporaryFolder store_;
  std::vector<std::string> secrets_;
};

TEST_F(CanaryTest, IsNowhereThatOthersMayRead) {
  RealServer server(Flags());
  const auto channel = NewChannel(server);
  const auto stub = v1::GenerationService::NewStub(channel);
  const auto sessions = v1::SessionService::NewStub(channel);

  v1::CreateSessionRequest create;
  create.set_text(kPrompt);
  v1::CreateSessionResponse created;
  ASSERT_TRUE(sessions->CreateSession(Context().get(), create, &created).ok());
  const std::string id = created.session().id();
  const std::string secret = GenerateSecret(*stub, id);
  v1::ScoreRequest score;
  score.set_context_text(kPrompt);
  score.set_continuation_text(secret);
  v1::ScoreResponse scores;
  EXPECT_TRUE(stub->Score(Context().get(), score, &scores).ok());
  v1::ForkSessionRequest fork;
  fork.set_session_id(id);
  v1::ForkSessionResponse forked;
  EXPECT_TRUE(sessions->ForkSession(Context().get(), fork, &forked).ok());
  v1::ParkSessionRequest park;
  park.set_session_id(id);
  v1::ParkSessionResponse parked;
  EXPECT_TRUE(sessions->ParkSession(Context().get(), park, &parked).ok());
  ProvokeErrors(channel);
  const std::string metrics = server.Scrape();
  InterruptWith(server);
  const ProgramOutput output = server.program().Wait();
  EXPECT_EQ(output.exit_code, 0);

  // All of it was there to be seen.
  EXPECT_THAT(metrics, HasSubstr("goldfinch_tenant_tokens_total{tenant=\"alpha\""));
  const std::vector<nlohmann::json> lines = LogLines(output.err);
  const std::map<std::string, int> ends = CallEnds(lines);
  for (const char* status :
       {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "UNAVAILABLE"}) {
    EXPECT_TRUE(ends.contains(status)) << status;
  }
  const std::vector<std::string> names = store_.Names();
  EXPECT_THAT(names, testing::Contains(id + ".snapshot"));
  EXPECT_EQ(
      std::ranges::count_if(
          names, [](const std::string& name) { return name.ends_with(".snapshot"); }),
      3);
  ExpectNoSecrets("the log", output.err);
  ExpectNoSecrets("the log", output.out);
  ExpectNoSecrets("metrics", metrics);
  ExpectNoSecrets("the store's names", absl::StrJoin(names, " "));
  // A name that is as it should not be is one label all the same.
  EXPECT_THAT(metrics, HasSubstr(R"({model="an \"odd\"\nname\\{}",fingerprint=")"));
}

}  // namespace
}  // namespace goldfinch
