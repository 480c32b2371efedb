// A whole server in the test's process: real channel, fake engine, small vocabulary.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "goldfinch/v1/generation_service.grpc.pb.h"
#include "goldfinch/v1/session_service.grpc.pb.h"
#include "scheduler/clock.h"
#include "server/server.h"
#include "server/text/vocabulary.h"
#include "sessions/store.h"
#include "tests/fakes/fake_engine.h"

namespace goldfinch {

// 1000 ids: end of text, the 256 bytes, then words, some of them parts of characters.
const Vocabulary& TestVocabulary();
inline constexpr std::int32_t kTestVocabularySize = 1000;
// Where it is on disk, for programs that load it.
std::string TestVocabularyPath();

std::vector<TokenId> Encode(const std::string& text);

struct TestServerOptions {
  FakeEngineOptions engine = {};
  SchedulerOptions scheduler = {};
  std::int64_t default_max_tokens = 16;
  SessionOptions sessions = {};
  SnapshotStore* store = nullptr;      // outlives the server
  const Clock* clock = nullptr;        // outlives the server; null: a steady one
  TenantDirectory* tenants = nullptr;  // outlives the server; null: everybody
  TlsFiles tls = {};                   // then channels are for the test to make
  ConnectionLimits connections = {};
  bool reflection = true;
  std::string metrics = {};  // off: closing the endpoint takes its library two seconds
  std::string admin = {};    // off
  MemoryGuard* memory = nullptr;  // outlives the server
  std::int64_t transfer_bytes = kMaxTransferBytes;
  std::function<void()> on_drain = {};
};

class TestServer {
 public:
  explicit TestServer(const TestServerOptions& options = {});
  ~TestServer();

  Server& server() { return *server_; }
  FakeEngine& engine() { return engine_; }
  v1::GenerationService::Stub& stub() { return *stub_; }
  v1::SessionService::Stub& sessions() { return *sessions_; }
  std::string address() const;
  std::string admin_address() const;
  int port() const { return server_->port(); }
  std::shared_ptr<grpc::Channel> NewChannel() const;
  std::shared_ptr<grpc::Channel> NewAdminChannel() const;

  // The value of one metric, labels included in `name`.
  double Metric(const std::string& name) const;
  // Levels are reported at the end of a step, a moment after its streams end: reads
  // until pages, slots and running requests are zero, or gives up after many seconds.
  bool BecomesIdle() const;

 private:
  FakeEngine engine_;
  const SteadyClock steady_clock_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
};

// One candidate's part of a stream.
struct CandidateOutput {
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<v1::TokenLogprobs> logprobs;
  std::optional<std::uint64_t> seed;
  int num_messages = 0;
  std::optional<v1::GenerateResponse> last;  // the message with the finish reason
};

struct GenerateOutput {
  grpc::Status status;
  std::vector<CandidateOutput> candidates;
};

// Reads a call to its end and checks the shape of the stream on the way: seed first and
// only there, text valid UTF-8, nothing after a candidate's end.
GenerateOutput Generate(v1::GenerationService::Stub& stub,
                        const v1::GenerateRequest& request,
                        grpc::ClientContext* context = nullptr);

// The request that most tests start from: greedy is of no use to the fake engine, so a
// fixed seed.
v1::GenerateRequest TextRequest(const std::string& text, std::int64_t max_tokens);

// What the fake engine generates for it, end of text included if it comes.
std::vector<TokenId> ExpectedTokens(const v1::GenerateRequest& request,
                                    std::uint32_t candidate = 0);
// The text of tokens, with nothing held back.
std::string TextOf(const std::vector<TokenId>& tokens);

// Of a channel for a connection of its own, as from a client on another machine, and by
// no proxy, whatever the environment says.
grpc::ChannelArguments DirectChannel();

// Asks the health service about `service`, "" for the whole server; once connected. The
// answer is a number of grpc.health.v1.HealthCheckResponse: 1 is SERVING.
grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         const std::string& service, std::int32_t& answer);

// The answer to GET `path` at 127.0.0.1:`port`, headers and body.
std::string HttpGet(int port, const std::string& path);

// True when `condition` becomes true within many seconds: for what happens on other
// threads without a signal of its own.
bool Eventually(const std::function<bool()>& condition);

}  // namespace goldfinch
