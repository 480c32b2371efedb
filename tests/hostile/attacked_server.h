// A server that a test attacks, and what must hold of it afterwards: all pages and slots
// are free (I1; that used and free add up to all is checked by the fake engine in each
// step), it is alive and right (I4), and each accepted request was counted as ended once
// (I5). Others' tokens (I2) are the Witness's.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "tests/fakes/fake_clock.h"
#include "tests/fakes/memory_store.h"
#include "tests/hostile/checked_status.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {

// Room for streams without end, in pages so large that they are few.
TestServerOptions RoomyOptions();

// On a clock of the test's, which may jump: a stream that is behind for a moment when it
// does is not a slow reader.
TestServerOptions RoomyOptions(const Clock& clock);

// So many tokens that a call is not through with them while a test runs.
v1::GenerateRequest EndlessRequest(const std::string& text = "endless");

// The status of a call, looked at; see checked_status.h.
GenerateOutput CheckedGenerate(TestServer& server, const v1::GenerateRequest& request,
                               grpc::ClientContext* context = nullptr);

// What the health service says of the whole server is SERVING.
bool IsServing(const std::shared_ptr<grpc::Channel>& channel);

// A server for one test, which is seen to be unharmed when the test ends.
class AttackedServerTest : public testing::Test {
 protected:
  // Called by the first use, unless a test did so with options of its own.
  TestServer& Start(const TestServerOptions& options = RoomyOptions());
  TestServer& server() { return server_ == nullptr ? Start() : *server_; }
  FakeEngine& engine() { return server().engine(); }

  // I1, I4.
  void ExpectUnharmed();
  // How all accepted requests ended so far, by reason; waited for, and nothing else.
  void ExpectEnds(const std::map<std::string, int>& ends);

  // Ends the server too: what it borrows from a test may go afterwards.
  void TearDown() override {
    if (server_ != nullptr) ExpectUnharmed();
    server_.reset();
  }

  std::string key_;  // that the probe of ExpectUnharmed calls with; empty: none
  // For options.clock and options.store.
  FakeClock clock_;
  const SteadyClock store_clock_;
  MemoryMedium medium_{store_clock_};
  MemoryStore store_{medium_, "one", std::chrono::seconds(3600)};  // longer than any test

 private:
  std::unique_ptr<TestServer> server_;
};

}  // namespace goldfinch
