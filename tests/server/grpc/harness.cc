#include "tests/server/grpc/harness.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/check.h"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"

namespace goldfinch {
namespace {

std::string Literal(const std::string& bytes) {
  std::string literal = "b'";
  for (const char c : bytes) {
    char escaped[8];
    std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned char>(c));
    literal += escaped;
  }
  return literal + "'";
}

std::string WriteVocabulary() {
  const std::string path =
      absl::StrCat(testing::TempDir(), "/goldfinch_vocab_", getpid(), ".txt");
  std::ofstream file(path);
  int id = 0;
  const auto add = [&](const std::string& bytes) {
    file << ++id << ' ' << Literal(bytes) << ' ' << bytes.size() << '\n';
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  // Whole characters of two to four bytes, and a word with the head of one at its end.
  for (const char* text : {"é", "ß", "水", "🐦", "the", " the", "caf\xc3"}) add(text);
  for (int word = 0; id < kTestVocabularySize - 1; ++word) {
    add(absl::StrCat(" w", word));
  }
  return path;
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   DirectChannel());
}

}  // namespace

std::string TestVocabularyPath() {
  static const std::string path = [] {
    static std::string made = WriteVocabulary();
    std::atexit([] { std::remove(made.c_str()); });
    return made;
  }();
  return path;
}

const Vocabulary& TestVocabulary() {
  static const Vocabulary* const vocabulary =
      Vocabulary::Load(TestVocabularyPath(), kTestVocabularySize).value().release();
  return *vocabulary;
}

std::vector<TokenId> Encode(const std::string& text) {
  std::vector<TokenId> ids;
  Tokenizer(TestVocabulary()).Encode(text, ids);
  return ids;
}

TestServer::TestServer(const TestServerOptions& options) : engine_(options.engine) {
  ServerOptions server;
  server.listen = "127.0.0.1:0";
  server.metrics = options.metrics;
  server.admin = options.admin;
  server.on_drain = options.on_drain;
  server.memory = options.memory;
  server.transfer_bytes = options.transfer_bytes;
  server.tenants = options.tenants;
  server.tls = options.tls;
  server.connections = options.connections;
  server.reflection = options.reflection;
  server.default_max_tokens = options.default_max_tokens;
  server.scheduler = options.scheduler;
  server.sessions = options.sessions;
  server.model = {.name = "fake",
                  .num_layers = 12,
                  .num_gold_layers = 4,
                  .embedding_size = 256,
                  .num_parameters = 1234567,
                  .cache_bytes_per_token = 68,
                  .state_bytes_per_sequence = 4096,
                  .training_context_tokens = 512};
  const Clock& clock = options.clock != nullptr ? *options.clock : steady_clock_;
  auto started = Server::Start(server, engine_, TestVocabulary(), clock, options.store);
  GOLDFINCH_CHECK(started.ok());
  server_ = *std::move(started);
  stub_ = v1::GenerationService::NewStub(NewChannel());
  sessions_ = v1::SessionService::NewStub(NewChannel());
}

TestServer::~TestServer() { engine_.Release(); }

std::string TestServer::address() const {
  return absl::StrCat("127.0.0.1:", server_->port());
}

std::string TestServer::admin_address() const {
  return absl::StrCat("127.0.0.1:", server_->admin_port());
}

std::shared_ptr<grpc::Channel> TestServer::NewChannel() const {
  return ChannelTo(address());
}

std::shared_ptr<grpc::Channel> TestServer::NewAdminChannel() const {
  return ChannelTo(admin_address());
}

double TestServer::Metric(const std::string& name) const {
  for (absl::string_view line : absl::StrSplit(server_->MetricsText(), '\n')) {
    if (absl::ConsumePrefix(&line, absl::StrCat(name, " "))) {
      return std::strtod(std::string(line).c_str(), nullptr);
    }
  }
  ADD_FAILURE() << "no metric " << name;
  return -1;
}

bool TestServer::BecomesIdle() const {
  return Eventually([this] {
    return Metric("goldfinch_cache_pages_used") == 0 &&
           Metric("goldfinch_state_slots_used") == 0 &&
           Metric("goldfinch_requests_running") == 0 &&
           Metric("goldfinch_requests_waiting{reason=\"admission\"}") == 0;
  });
}

GenerateOutput Generate(v1::GenerationService::Stub& stub,
                        const v1::GenerateRequest& request,
                        grpc::ClientContext* context) {
  grpc::ClientContext own;
  if (context == nullptr) context = &own;
  GenerateOutput output;
  output.candidates.resize(
      static_cast<std::size_t>(request.sampling().has_n() ? request.sampling().n() : 1));
  const auto reader = stub.Generate(context, request);
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    const auto index = static_cast<std::size_t>(message.candidate());
    if (index >= output.candidates.size()) {
      ADD_FAILURE() << "candidate " << message.candidate();
      break;
    }
    CandidateOutput& candidate = output.candidates[index];
    EXPECT_FALSE(candidate.last.has_value());
    EXPECT_EQ(message.has_seed(), candidate.num_messages == 0);
    EXPECT_TRUE(IsValidUtf8(message.text()));
    EXPECT_EQ(message.has_usage(),
              message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED);
    if (message.has_seed()) candidate.seed = message.seed();
    candidate.text += message.text();
    candidate.tokens.insert(candidate.tokens.end(), message.tokens().begin(),
                            message.tokens().end());
    candidate.logprobs.insert(candidate.logprobs.end(), message.logprobs().begin(),
                              message.logprobs().end());
    ++candidate.num_messages;
    if (message.has_usage()) candidate.last = message;
  }
  output.status = reader->Finish();
  return output;
}

v1::GenerateRequest TextRequest(const std::string& text, std::int64_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(7);
  return request;
}

std::vector<TokenId> ExpectedTokens(const v1::GenerateRequest& request,
                                    std::uint32_t candidate) {
  const std::vector<TokenId> prompt =
      request.has_text() ? Encode(request.text())
                         : std::vector<TokenId>(request.tokens().ids().begin(),
                                                request.tokens().ids().end());
  SamplingParams sampling;
  sampling.seed = request.sampling().seed();
  sampling.candidate = candidate;
  std::vector<TokenId> tokens = FakeEngine::Expected(
      prompt, sampling, request.sampling().max_tokens(), kTestVocabularySize);
  const auto end = std::find(tokens.begin(), tokens.end(), kEndOfText);
  if (!request.sampling().ignore_eos() && end != tokens.end()) {
    tokens.erase(end + 1, tokens.end());
  }
  return tokens;
}

std::string TextOf(const std::vector<TokenId>& tokens) {
  return ToValidUtf8(Tokenizer(TestVocabulary()).Decode(tokens));
}

grpc::ChannelArguments DirectChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         const std::string& service, std::int32_t& answer) {
  // The health messages have one field each, numbered 1, like these wrappers.
  using Stub = grpc::TemplatedGenericStub<google::protobuf::StringValue,
                                          google::protobuf::Int32Value>;
  Stub stub(channel);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  google::protobuf::StringValue request;
  request.set_value(service);
  google::protobuf::Int32Value response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request,
                 &response, [&done](grpc::Status s) { done.set_value(std::move(s)); });
  const grpc::Status status = done.get_future().get();
  answer = response.value();
  return status;
}

std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request = absl::StrCat(
        "GET ", path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    if (send(fd, request.data(), request.size(), 0) ==
        static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
        answer.append(buffer, static_cast<std::size_t>(n));
      }
    }
  }
  close(fd);
  return answer;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  // Leaves the processors to what it waits for.
  constexpr auto kBetweenLooks = std::chrono::milliseconds(1);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  return true;
}

}  // namespace goldfinch
