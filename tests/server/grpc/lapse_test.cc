// Calls that run when the server's lease on their session lapses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <limits>
#include <memory>
#include <string>

#include "tests/fakes/fake_clock.h"
#include "tests/fakes/watched_store.h"
#include "tests/server/grpc/harness.h"
#include "tests/server/grpc/session_client.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using std::chrono::seconds;
using testing::HasSubstr;

class LapseTest : public testing::Test {
 protected:
  static constexpr seconds kLease{30};

  // The server looks at its lease many times a second; the lease lasts by this test's
  // clock.
  LapseTest() : server_(Options(store_)) {}
  static TestServerOptions Options(WatchedStore& store) {
    TestServerOptions options;
    options.store = &store;
    options.sessions.lease = seconds(1);
    return options;
  }

  FakeClock clock_;
  MemoryMedium medium_{clock_};
  WatchedStore store_{medium_, "one", kLease};
  TestServer server_;
};

TEST_F(LapseTest, ACallOnTheSessionEndsAndGoesOnWhenTheLeaseIsBack) {
  const std::string id = CreateSession(server_, "text")->id();
  auto steps = std::make_shared<std::atomic<int>>(0);
  server_.engine().SetForwardHook([this, steps](auto) {
    if (++*steps == 5) server_.engine().BlockForward();
  });
  v1::GenerateRequest request = TurnRequest(id, " goes on", 50);
  request.mutable_sampling()->set_ignore_eos(true);
  auto running =
      std::async(std::launch::async, [&] { return Generate(server_.stub(), request); });
  server_.engine().WaitUntilBlocked();
  medium_.FailRenewals(std::numeric_limits<int>::max());
  clock_.Advance(kLease + seconds(1));
  store_.WaitForSecondBadLook();
  server_.engine().Release();
  const GenerateOutput output = running.get();
  EXPECT_EQ(output.status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(output.status.error_message(), HasSubstr("lease on the session lapsed"));
  EXPECT_LT(output.candidates[0].tokens.size(), 10u);
  // It could not be parked, and the session has the text: who asked again because of a
  // RetryInfo would say it twice.
  EXPECT_EQ(output.status.error_details(), "");

  // Nobody took the session over meanwhile.
  medium_.FailRenewals(0);
  ASSERT_TRUE(Eventually([&] { return store_.MemoryStore::lease_is_good(); }));
  const GenerateOutput rest = Generate(server_.stub(), ResumeRequest(id, 0));
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  Conversation conversation;
  conversation.Expect(TextRequest("text", 0));
  EXPECT_EQ(rest.candidates[0].tokens, conversation.Expect(request));
}

}  // namespace
}  // namespace goldfinch
