// Sessions of real models that are moved in the middle: what follows is bit for bit what
// an uninterrupted run says, for every configuration of the golden numbers.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model_engine.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "sessions/open_store.h"
#include "tests/server/grpc/harness.h"
#include "tests/sessions/redis_server.h"

namespace goldfinch {
namespace {

// A server of a real model, with a store or none.
class Site {
 public:
  struct Options {
    std::string model;
    ComputeType compute = ComputeType::kF32;
    StorageType cache = StorageType::kCompute;
    std::string store;  // empty: none
    std::optional<SnapshotKey> key;
    std::int64_t prefix_cache_bytes = 0;
  };

  explicit Site(const Options& options) {
    ModelEngineOptions engine;
    engine.model_dir = options.model;
    engine.compute_type = options.compute;
    engine.cache_storage = options.cache;
    engine.cache_bytes = 32 << 20;
    engine.expanded_bytes = 64 << 20;
    engine.max_sequences = 4;
    engine.max_step_tokens = 96;  // prompts are cut
    auto made = ModelEngine::Create(engine);
    EXPECT_TRUE(made.ok()) << made.status();
    engine_ = *std::move(made);
    const std::string path = options.model + "/vocab.txt";
    if (std::filesystem::exists(path)) {
      own_vocabulary_ = Vocabulary::Load(path, engine_->info().vocab_size).value();
    }
    // Golden models come without one; any of their size or more will do.
    const Vocabulary& vocabulary =
        own_vocabulary_ == nullptr ? TestVocabulary() : *own_vocabulary_;
    if (!options.store.empty()) {
      auto store = OpenStore(options.store, {});
      EXPECT_TRUE(store.ok()) << store.status();
      store_ = *std::move(store);
    }
    ServerOptions server;
    server.listen = "127.0.0.1:0";
    server.metrics = "";
    server.scheduler.step_tokens = 96;
    server.scheduler.prefix_cache_bytes = options.prefix_cache_bytes;
    server.sessions.key = options.key;
    auto started = Server::Start(server, *engine_, vocabulary, clock_, store_.get());
    EXPECT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    const auto channel =
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                  grpc::InsecureChannelCredentials(), DirectChannel());
    generation_ = v1::GenerationService::NewStub(channel);
    sessions_ = v1::SessionService::NewStub(channel);
  }

  Server& server() { return *server_; }
  v1::GenerationService::Stub& generation() { return *generation_; }
  v1::SessionService::Stub& sessions() { return *sessions_; }

  std::string Create() {
    grpc::ClientContext context;
    v1::CreateSessionResponse response;
    EXPECT_TRUE(sessions_->CreateSession(&context, {}, &response).ok());
    return response.session().id();
  }
  std::string Fork(const std::string& id) {
    grpc::ClientContext context;
    v1::ForkSessionRequest request;
    request.set_session_id(id);
    v1::ForkSessionResponse response;
    EXPECT_TRUE(sessions_->ForkSession(&context, request, &response).ok());
    return response.session().id();
  }
  void Park(const std::string& id) {
    grpc::ClientContext context;
    v1::ParkSessionRequest request;
    request.set_session_id(id);
    v1::ParkSessionResponse response;
    const auto status = sessions_->ParkSession(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.session().place(), v1::SESSION_PLACE_PARKED);
  }
  std::string Export(const std::string& id) {
    grpc::ClientContext context;
    v1::ExportSessionRequest request;
    request.set_session_id(id);
    const auto reader = sessions_->ExportSession(&context, request);
    std::string bytes;
    v1::ExportSessionResponse response;
    while (reader->Read(&response)) bytes += response.chunk();
    EXPECT_TRUE(reader->Finish().ok());
    return bytes;
  }
  std::string Import(const std::string& bytes) {
    grpc::ClientContext context;
    v1::ImportSessionResponse response;
    const auto writer = sessions_->ImportSession(&context, &response);
    v1::ImportSessionRequest request;
    request.set_chunk(bytes);
    writer->Write(request);
    writer->WritesDone();
    const auto status = writer->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.session().id();
  }
  CandidateOutput Run(const v1::GenerateRequest& request) {
    const GenerateOutput output = Generate(*generation_, request);
    EXPECT_TRUE(output.status.ok()) << output.status.error_message();
    return output.candidates[0];
  }

 private:
  const SteadyClock clock_;
  std::unique_ptr<ModelEngine> engine_;
  std::unique_ptr<Vocabulary> own_vocabulary_;
  std::unique_ptr<SnapshotStore> store_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
};

class Folder {
 public:
  Folder() {
    std::string name = testing::TempDir() + "/sessions_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

enum class Sampling { kGreedy, kDrawn, kWithEverything };

void Fill(Sampling kind, v1::SamplingParams& out) {
  out.set_ignore_eos(true);
  out.set_seed(20241125);
  if (kind == Sampling::kGreedy) out.set_temperature(0);
  if (kind != Sampling::kWithEverything) return;
  out.set_temperature(0.9f);
  out.set_top_p(0.95f);
  out.set_top_k(60);
  out.set_min_p(0.01f);
  out.set_repetition_penalty(1.2f);
  out.set_frequency_penalty(0.1f);
  out.set_presence_penalty(0.2f);
  out.set_logprobs(2);
  (*out.mutable_logit_bias())[17] = 0.5f;
}

v1::GenerateRequest Turn(const std::string& session, int tokens, std::int64_t generated,
                         Sampling kind) {
  v1::GenerateRequest request;
  request.set_session(session);
  std::mt19937 random(static_cast<unsigned>(tokens));
  for (int i = 0; i < tokens; ++i) {
    request.mutable_tokens()->add_ids(static_cast<TokenId>(1 + random() % 127));
  }
  request.mutable_sampling()->set_max_tokens(generated);
  Fill(kind, *request.mutable_sampling());
  return request;
}

constexpr int kPrompt = 333, kNext = 21;
constexpr std::int64_t kAnswer = 20;

// Everything a stream says of its tokens.
void ExpectSame(const CandidateOutput& got, const CandidateOutput& want) {
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_TRUE(got.text == want.text);  // control characters, most of them
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (std::size_t i = 0; i < got.logprobs.size(); ++i) {
    EXPECT_EQ(got.logprobs[i].SerializeAsString(), want.logprobs[i].SerializeAsString());
  }
}

struct Case {
  const char* golden;
  ComputeType compute = ComputeType::kF32;
  StorageType cache = StorageType::kCompute;
  const char* name;
};

class SessionMovesTest : public testing::TestWithParam<Case> {
 protected:
  Site::Options Options(const std::string& store) const {
    Site::Options options;
    options.model =
        absl::StrCat(GOLDFINCH_SOURCE_DIR "/tests/golden/", GetParam().golden);
    options.compute = GetParam().compute;
    options.cache = GetParam().cache;
    options.store = store;
    return options;
  }
  // Two turns without an interruption; the second is what all moves are held to. Checked
  // against one call that is given both as its prompt.
  CandidateOutput Uninterrupted(Sampling kind, std::int64_t tokens) const {
    Site site(Options(""));
    const std::string id = site.Create();
    const CandidateOutput first = site.Run(Turn(id, kPrompt, kAnswer, kind));
    const CandidateOutput second = site.Run(Turn(id, kNext, tokens, kind));
    EXPECT_EQ(std::ssize(second.tokens), tokens);
    if (kind == Sampling::kWithEverything) return second;  // penalties see what is prompt
    v1::GenerateRequest whole = Turn("", kPrompt, tokens, kind);
    for (const TokenId token : first.tokens) whole.mutable_tokens()->add_ids(token);
    whole.mutable_tokens()->MergeFrom(Turn("", kNext, 1, kind).tokens());
    ExpectSame(site.Run(whole), second);
    return second;
  }
};

constexpr Sampling kAllSampling[] = {Sampling::kGreedy, Sampling::kDrawn,
                                     Sampling::kWithEverything};

TEST_P(SessionMovesTest, ParkedAndContinuedAfterARestart) {
  for (const Sampling kind : kAllSampling) {
    const Folder folder;
    std::string id;
    {
      Site before(Options(folder.path()));
      id = before.Create();
      before.Run(Turn(id, kPrompt, kAnswer, kind));
      before.Park(id);
    }
    Site after(Options(folder.path()));
    ExpectSame(after.Run(Turn(id, kNext, 200, kind)), Uninterrupted(kind, 200));
  }
}

TEST_P(SessionMovesTest, ExportedToASecondServer) {
  for (const Sampling kind : kAllSampling) {
    Site one(Options(""));
    const std::string id = one.Create();
    one.Run(Turn(id, kPrompt, kAnswer, kind));
    Site two(Options(""));
    const std::string copy = two.Import(one.Export(id));
    const CandidateOutput expected = Uninterrupted(kind, 200);
    ExpectSame(two.Run(Turn(copy, kNext, 200, kind)), expected);
    ExpectSame(one.Run(Turn(id, kNext, 200, kind)), expected);
  }
}

// Reads some messages of a call, then has the server drained; gives what was read.
CandidateOutput ReadWhileDraining(Site& site, const v1::GenerateRequest& request,
                                  grpc::Status& status) {
  grpc::ClientContext context;
  const auto reader = site.generation().Generate(&context, request);
  CandidateOutput output;
  std::future<void> drained;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    output.text += message.text();
    output.tokens.insert(output.tokens.end(), message.tokens().begin(),
                         message.tokens().end());
    output.logprobs.insert(output.logprobs.end(), message.logprobs().begin(),
                           message.logprobs().end());
    if (output.tokens.size() < 20 || drained.valid()) continue;
    drained = std::async(std::launch::async, [&] {
      site.server().HurryUp();
      site.server().Shutdown(std::chrono::minutes(1));
    });
  }
  status = reader->Finish();
  return output;
}

TEST_P(SessionMovesTest, DrainedToASecondServerInTheMiddle) {
  // More than 200: the drain falls where it falls.
  constexpr std::int64_t kTokens = 1500;
  for (const Sampling kind : kAllSampling) {
    const Folder folder;
    Site one(Options(folder.path()));
    const std::string id = one.Create();
    one.Run(Turn(id, kPrompt, kAnswer, kind));
    grpc::Status status;
    CandidateOutput whole =
        ReadWhileDraining(one, Turn(id, kNext, kTokens, kind), status);
    ASSERT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    ASSERT_LT(std::ssize(whole.tokens), kTokens - 200);

    Site two(Options(folder.path()));
    v1::GenerateRequest request;
    request.mutable_resume()->set_session_id(id);
    request.mutable_resume()->set_tokens_received(std::ssize(whole.tokens));
    const CandidateOutput rest = two.Run(request);
    whole.text += rest.text;
    whole.tokens.insert(whole.tokens.end(), rest.tokens.begin(), rest.tokens.end());
    whole.logprobs.insert(whole.logprobs.end(), rest.logprobs.begin(),
                          rest.logprobs.end());
    ExpectSame(whole, Uninterrupted(kind, kTokens));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Golden, SessionMovesTest,
    testing::Values(
        Case{.golden = "goldfinch", .name = "GoldFinch"},
        Case{.golden = "goldfinch", .compute = ComputeType::kBf16, .name = "Bf16"},
        Case{.golden = "goldfinch", .cache = StorageType::kInt8, .name = "Int8Cache"},
        Case{.golden = "goldfinch-no-v2", .name = "NoV2"},
        Case{.golden = "goldfinch-ratio6", .name = "Ratio6"},
        Case{.golden = "goldfinch-rope", .name = "Rope"},
        Case{.golden = "finch", .name = "Finch"},
        Case{.golden = "finch-upgrade", .name = "FinchUpgrade"}),
    [](const auto& param) { return param.param.name; });

TEST(RedisMovesTest, ASessionGoesFromServerToServer) {
  if (!RedisServer::Available()) GTEST_SKIP() << "redis-server is not installed";
  RedisServer redis;
  Site::Options options;
  options.model = GOLDFINCH_SOURCE_DIR "/models/demo";
  options.store = redis.url();
  options.key = SnapshotKey{std::string(32, 'k')};
  Site one(options), two(options);
  Site::Options alone = options;
  alone.store.clear();
  Site reference(alone);
  const std::string id = one.Create(), same = reference.Create();
  for (int turn = 0; turn < 4; ++turn) {
    Site& here = turn % 2 == 0 ? one : two;
    const auto request = [&](const std::string& session) {
      return Turn(session, kNext + turn, 40, Sampling::kDrawn);
    };
    ExpectSame(here.Run(request(id)), reference.Run(request(same)));
    here.Park(id);
  }
}

// The judged case of the prefix cache: a long document and many questions.
class DocumentTest : public testing::Test {
 protected:
  static constexpr int kQuestions = 20, kQuestionTokens = 12;
  static int DocumentTokens() {
    return std::getenv("GOLDFINCH_LONG_TESTS") != nullptr ? 100'000 : 20'000;
  }
  static Site::Options Options() {
    Site::Options options;
    options.model = GOLDFINCH_SOURCE_DIR "/models/demo";
    options.prefix_cache_bytes = 256 << 20;
    return options;
  }
  static v1::GenerateRequest Ask(int question, bool with_document) {
    v1::GenerateRequest request =
        Turn("", with_document ? DocumentTokens() : 0, 8, Sampling::kGreedy);
    std::mt19937 random(static_cast<unsigned>(1000 + question));
    for (int i = 0; i < kQuestionTokens; ++i) {
      request.mutable_tokens()->add_ids(static_cast<TokenId>(1 + random() % 127));
    }
    return request;
  }
};

TEST_F(DocumentTest, AfterTheSecondQuestionOnlyQuestionsAreComputed) {
  Site site(Options());
  for (int question = 0; question < kQuestions; ++question) {
    const v1::GenerateRequest request = Ask(question, true);
    const CandidateOutput output = site.Run(request);
    const std::int64_t computed = output.last->usage().prompt_tokens() -
                                  output.last->usage().cached_prompt_tokens();
    // Where questions begin is known once two of them have parted there; until then a
    // rung of the ladder is near.
    if (question == 1) {
      EXPECT_LE(computed, kQuestionTokens + 64);
    }
    if (question > 1) {
      EXPECT_EQ(computed, kQuestionTokens) << question;
    }
  }
}

TEST_F(DocumentTest, ForksOfASessionComputeTheirQuestionsOnly) {
  Site site(Options()), other(Options());
  v1::GenerateRequest document = Turn("", DocumentTokens(), 1, Sampling::kGreedy);
  grpc::ClientContext context;
  v1::CreateSessionRequest create;
  *create.mutable_tokens() = document.tokens();
  v1::CreateSessionResponse created;
  ASSERT_TRUE(site.sessions().CreateSession(&context, create, &created).ok());
  for (int question = 0; question < kQuestions; ++question) {
    v1::GenerateRequest request = Ask(question, false);
    request.set_session(site.Fork(created.session().id()));
    const CandidateOutput output = site.Run(request);
    const std::int64_t computed = output.last->usage().prompt_tokens() -
                                  output.last->usage().cached_prompt_tokens();
    // And the document's last token, whose logits nobody had asked for.
    EXPECT_EQ(computed, kQuestionTokens + 1) << question;
    if (question % 10 == 0) ExpectSame(output, other.Run(Ask(question, true)));
  }
}

}  // namespace
}  // namespace goldfinch
