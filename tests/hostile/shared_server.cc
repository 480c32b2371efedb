#include "tests/hostile/shared_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>

#include "tests/fakes/memory_store.h"
#include "tests/hostile/attacked_server.h"

namespace goldfinch {
namespace {

class SharedServerEnvironment : public testing::Environment {
 public:
  void TearDown() override { server_.reset(); }
  TestServer& server() {
    if (server_ == nullptr) {
      TestServerOptions options;
      options.scheduler.max_context_tokens = 4096;
      options.store = &store_;
      server_ = std::make_unique<TestServer>(options);
    }
    return *server_;
  }

 private:
  const SteadyClock clock_;
  MemoryMedium medium_{clock_};
  MemoryStore store_{medium_, "shared", std::chrono::seconds(3600)};
  std::unique_ptr<TestServer> server_;
};

SharedServerEnvironment* const kEnvironment = [] {
  auto* const environment = new SharedServerEnvironment();
  testing::AddGlobalTestEnvironment(environment);  // which deletes it
  return environment;
}();

}  // namespace

TestServer& SharedServer() { return kEnvironment->server(); }

void ExpectSharedServerUnharmed() {
  TestServer& server = SharedServer();
  EXPECT_TRUE(server.BecomesIdle());
  EXPECT_TRUE(IsServing(server.NewChannel()));
  const v1::GenerateRequest request = TextRequest("still right", 20);
  const GenerateOutput output = Generate(server.stub(), request);
  EXPECT_TRUE(output.status.ok()) << output.status.error_message();
  EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
  EXPECT_TRUE(server.BecomesIdle());
}

}  // namespace goldfinch
