// The whole server on the demo model: real engine, real vocabulary, real channels.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model_engine.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

const std::string kModel = GOLDFINCH_SOURCE_DIR "/models/demo";

class DemoModelTest : public testing::Test {
 protected:
  // A budget of a few tokens a step, so that prompts are cut and mixed with decoding.
  void Start(std::int32_t max_sequences = 64, std::int64_t step_tokens = 80) {
    ModelEngineOptions engine;
    engine.model_dir = kModel;
    engine.cache_bytes = 16 << 20;
    engine.expanded_bytes = 64 << 20;
    engine.max_sequences = max_sequences;
    engine.max_step_tokens = static_cast<std::int32_t>(step_tokens);
    auto made = ModelEngine::Create(engine);
    ASSERT_TRUE(made.ok()) << made.status().message();
    engine_ = *std::move(made);
    auto vocabulary = Vocabulary::Load(kModel + "/vocab.txt", engine_->info().vocab_size);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status().message();
    vocabulary_ = *std::move(vocabulary);
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.metrics = metrics_;
    options.scheduler.step_tokens = step_tokens;
    auto server = Server::Start(options, *engine_, *vocabulary_, clock_);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = *std::move(server);
    stub_ = v1::GenerationService::NewStub(NewChannel());
  }

  std::shared_ptr<grpc::Channel> NewChannel() const {
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                     grpc::InsecureChannelCredentials(), DirectChannel());
  }

  bool NothingInUse() const {
    return Eventually([this] {
      const std::string metrics = server_->MetricsText();
      return metrics.find("\ngoldfinch_cache_pages_used 0\n") != std::string::npos &&
             metrics.find("\ngoldfinch_state_slots_used 0\n") != std::string::npos &&
             metrics.find("\ngoldfinch_requests_running 0\n") != std::string::npos;
    });
  }

  const SteadyClock clock_;
  std::string metrics_;  // none: closing the endpoint takes its library two seconds
  std::unique_ptr<ModelEngine> engine_;
  std::unique_ptr<Vocabulary> vocabulary_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
};

double Value(const std::string& metrics, const std::string& name) {
  const std::size_t at = metrics.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(metrics.substr(at + name.size() + 2));
}

TEST_F(DemoModelTest, MetricsTellOfTheEnginesMemory) {
  metrics_ = "127.0.0.1:0";
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto scrape = [this] { return HttpGet(server_->metrics_port(), "/metrics"); };
  const auto generate = [this](int count) {
    v1::GenerateRequest request;
    request.set_text("Once upon a time there was a king");
    request.mutable_sampling()->set_max_tokens(count);
    request.mutable_sampling()->set_ignore_eos(true);
    ASSERT_TRUE(Generate(*stub_, request).status.ok());
    ASSERT_TRUE(NothingInUse());
  };
  generate(100);
  const std::string before = scrape();
  generate(100);
  const std::string after = scrape();
  const auto gain = [&](const char* name) {
    return Value(after, name) - Value(before, name);
  };
  // Two pages once the 64th token is there. They hit in every other step.
  EXPECT_GT(gain("goldfinch_expanded_hits_total"), 100);
  EXPECT_GE(gain("goldfinch_expanded_misses_total"), 1);
  EXPECT_EQ(Value(after, "goldfinch_expanded_evictions_total"), 0);
  EXPECT_GE(Value(after, "goldfinch_expanded_pages_used"), 0);
  EXPECT_EQ(Value(after, "goldfinch_expanded_pages"),
            static_cast<double>(engine_->info().expanded_pages));
  for (const char* use : {"weights", "cache", "expanded", "state", "work"}) {
    EXPECT_GT(
        Value(after, absl::StrCat("goldfinch_device_memory_bytes{use=\"", use, "\"}")), 0)
        << use;
  }
  EXPECT_EQ(Value(after, "goldfinch_device_memory_bytes{use=\"state\"}"),
            static_cast<double>(64 * engine_->state_bytes_per_sequence()));
}

v1::GenerateRequest MixedRequest(int index) {
  constexpr std::array<const char*, 4> kStarts = {
      "Once upon a time there was a king who had ", "The ", "\"Oh!\" said Alice, ",
      "It was a dark night, and the wind blew over the sea. The captain stood at the "
      "wheel and looked out over the black water, and nobody spoke a word. "};
  std::mt19937 random(static_cast<unsigned>(index));
  v1::GenerateRequest request;
  std::string text;
  for (unsigned i = 0; i <= random() % 4; ++i) text += kStarts[random() % kStarts.size()];
  request.set_text(text);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_max_tokens(1 + static_cast<int>(random() % 40));
  sampling.set_seed(random());
  sampling.set_ignore_eos(true);
  if (index % 3 == 0) sampling.set_temperature(0);
  if (index % 4 == 1) sampling.set_top_k(20);
  if (index % 5 == 2) sampling.set_repetition_penalty(1.3f);
  if (index % 7 == 3) sampling.set_n(3);
  if (index % 8 == 5) sampling.add_stop("the");
  return request;
}

struct Reference {
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::string> text;
};

Reference Of(const GenerateOutput& output) {
  Reference reference;
  for (const CandidateOutput& candidate : output.candidates) {
    reference.tokens.push_back(candidate.tokens);
    reference.text.push_back(candidate.text);
  }
  return reference;
}

// What was read of a stream before it was given up starts what a solo run gives.
void ExpectPrefix(const Reference& part, const Reference& whole, int index) {
  for (std::size_t c = 0; c < whole.tokens.size(); ++c) {
    ASSERT_LE(part.tokens[c].size(), whole.tokens[c].size()) << "stream " << index;
    EXPECT_TRUE(
        std::equal(part.tokens[c].begin(), part.tokens[c].end(), whole.tokens[c].begin()))
        << "stream " << index;
  }
}

Reference ReadAndCancel(v1::GenerationService::Stub& stub,
                        const v1::GenerateRequest& request, std::size_t after) {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  Reference part;
  part.tokens.resize(request.sampling().has_n() ? 3 : 1);
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse message;
  for (std::size_t seen = 0; seen < after && reader->Read(&message);) {
    auto& tokens = part.tokens[static_cast<std::size_t>(message.candidate())];
    tokens.insert(tokens.end(), message.tokens().begin(), message.tokens().end());
    seen += static_cast<std::size_t>(message.tokens_size());
  }
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  reader->Finish();
  return part;
}

TEST_F(DemoModelTest, SixtyFourStreamsWithCancellationsGiveTheTokensOfSoloRuns) {
  constexpr int kStreams = 64;
  Start();
  std::vector<Reference> solo;
  for (int i = 0; i < kStreams; ++i) {
    const GenerateOutput output = Generate(*stub_, MixedRequest(i));
    ASSERT_TRUE(output.status.ok()) << output.status.error_message();
    solo.push_back(Of(output));
  }
  std::vector<Reference> together(kStreams);
  std::vector<std::thread> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.emplace_back([&, i] {
      const auto stub = v1::GenerationService::NewStub(NewChannel());
      auto& mine = together[static_cast<std::size_t>(i)];
      if (i % 4 == 2) {
        mine = ReadAndCancel(*stub, MixedRequest(i), static_cast<std::size_t>(i % 9));
        return;
      }
      grpc::ClientContext context;
      context.set_wait_for_ready(true);  // see faults_test.cc, ConnectionTest
      const GenerateOutput output = Generate(*stub, MixedRequest(i), &context);
      EXPECT_TRUE(output.status.ok()) << output.status.error_message();
      mine = Of(output);
    });
  }
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < kStreams; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (i % 4 == 2) {
      ExpectPrefix(together[at], solo[at], i);
      continue;
    }
    EXPECT_EQ(together[at].tokens, solo[at].tokens) << "stream " << i;
    EXPECT_EQ(together[at].text, solo[at].text) << "stream " << i;
  }
  EXPECT_TRUE(NothingInUse());
}

TEST_F(DemoModelTest, CandidatesAreTheRequestsOfOneCandidateEach) {
  Start(8);
  v1::GenerateRequest request;
  request.set_text("The old man looked at the sea and said ");
  request.mutable_sampling()->set_max_tokens(24);
  request.mutable_sampling()->set_seed(5);
  request.mutable_sampling()->set_ignore_eos(true);
  const std::vector<TokenId> alone = Generate(*stub_, request).candidates[0].tokens;
  request.mutable_sampling()->set_n(4);
  const GenerateOutput four = Generate(*stub_, request);
  EXPECT_EQ(four.candidates[0].tokens, alone);
  EXPECT_NE(four.candidates[1].tokens, alone);
  EXPECT_NE(four.candidates[2].tokens, four.candidates[3].tokens);
  EXPECT_TRUE(NothingInUse());
}

TEST_F(DemoModelTest, ScoresAreTheLogprobsThatGenerationReports) {
  Start(4);
  v1::GenerateRequest request;
  request.set_text("There was once a poor woodcutter who lived with his ");
  request.mutable_sampling()->set_max_tokens(12);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_logprobs(0);
  request.mutable_sampling()->set_ignore_eos(true);
  const CandidateOutput output = Generate(*stub_, request).candidates[0];

  v1::ScoreRequest score;
  score.set_context_text(request.text());
  for (const TokenId token : output.tokens)
    score.mutable_continuation_tokens()->add_ids(token);
  v1::ScoreResponse scores;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Score(&context, score, &scores).ok());
  ASSERT_EQ(scores.tokens_size(), static_cast<int>(output.tokens.size()));
  EXPECT_TRUE(scores.is_greedy());
  for (int i = 0; i < scores.tokens_size(); ++i)
    EXPECT_EQ(scores.tokens(i).logprob(),
              output.logprobs[static_cast<std::size_t>(i)].logprob());
}

// A context that takes several steps, after another score: nothing is left of that one.
TEST_F(DemoModelTest, ScoresOfOneCallAreNotTakenForThoseOfTheNext) {
  Start(4);
  std::vector<double> totals;
  for (const int words : {1, 100, 1, 100}) {
    v1::ScoreRequest score;
    for (int i = 0; i < words; ++i) *score.mutable_context_text() += "once upon ";
    score.set_continuation_text(" a time there was");
    v1::ScoreResponse scores;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Score(&context, score, &scores);
    ASSERT_TRUE(status.ok()) << status.error_message();
    totals.push_back(scores.total_logprob());
  }
  EXPECT_EQ(totals[2], totals[0]);
  EXPECT_EQ(totals[3], totals[1]);
}

TEST_F(DemoModelTest, ThePerplexityProgramAgreesWithScoring) {
  Start(4);
  const std::string text = "The king said to his daughter that she must marry.";
  std::string folder = testing::TempDir() + "/perplexity_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::filesystem::path file = std::filesystem::path(folder) / "text";
  std::ofstream(file) << text;
  v1::ScoreRequest score;  // an empty context is an end-of-text token
  score.set_continuation_text(text);
  v1::ScoreResponse scores;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Score(&context, score, &scores).ok());

  const std::string command = std::string(GOLDFINCH_BINARY_DIR "/goldfinch perplexity ") +
                              kModel + " " + file.string() + " 2>&1";
  FILE* program = popen(command.c_str(), "r");
  std::string output;
  for (int c = std::fgetc(program); c != EOF; c = std::fgetc(program))
    output += static_cast<char>(c);
  EXPECT_EQ(pclose(program), 0) << output;
  std::filesystem::remove_all(folder);
  const double loss = -scores.total_logprob() / scores.tokens_size();
  char expected[64];
  std::snprintf(expected, sizeof expected, "loss %.5f nats a token", loss);
  EXPECT_NE(output.find(expected), std::string::npos) << output << expected;
}

// Not a measure of quality, which models/demo/README.md has: only that weights,
// vocabulary and server fit together.
TEST_F(DemoModelTest, ItsTextIsEnglishWords) {
  Start(4);
  v1::GenerateRequest request;
  request.set_text("Once upon a time there was a ");
  request.mutable_sampling()->set_max_tokens(150);
  request.mutable_sampling()->set_temperature(0.7f);
  request.mutable_sampling()->set_top_p(0.9f);
  request.mutable_sampling()->set_seed(1);
  request.mutable_sampling()->set_ignore_eos(true);
  const std::string text = Generate(*stub_, request).candidates[0].text;
  int common = 0;
  for (const char* word : {" the ", " and ", " of ", " to ", " a ", " in ", " was ",
                           " he ", " that ", " her ", " his ", " she "})
    for (std::size_t at = text.find(word); at != std::string::npos;
         at = text.find(word, at + 1))
      ++common;
  EXPECT_GE(common, 15) << text;
}

}  // namespace
}  // namespace goldfinch
