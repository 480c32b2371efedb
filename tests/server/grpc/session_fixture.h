// A server with sessions and a store for them, in the test's process.
#pragma once

#include <gtest/gtest.h>

#include <chrono>

#include "tests/fakes/memory_store.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {

inline constexpr auto kLongLease = std::chrono::seconds(3600);  // longer than any test

class SessionFixture : public testing::Test {
 protected:
  static TestServerOptions WithStore(SnapshotStore* store) {
    TestServerOptions options;
    options.scheduler.max_context_tokens = 100000;
    options.store = store;
    return options;
  }

  const SteadyClock clock_;
  MemoryMedium medium_{clock_};
  MemoryStore store_{medium_, "one", kLongLease};
  TestServer server_{WithStore(&store_)};
};

}  // namespace goldfinch
