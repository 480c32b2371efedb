// What happens before memory runs out: what a process may take, when work is refused, and
// how a server says so.
#include <gmock/gmock.h>
#include <grpcpp/support/error_details.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/memory_guard.h"
#include "server/memory_limit.h"
#include "tests/fakes/fake_clock.h"
#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

using grpc::StatusCode;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Files as the system shows them, below a root of their own.
class ControlGroupTest : public testing::Test {
 protected:
  ~ControlGroupTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }

  const std::string root_ =
      absl::StrCat(testing::TempDir(), "/goldfinch_cgroup_", getpid());
};

TEST_F(ControlGroupTest, NothingToReadIsNoLimit) {
  EXPECT_EQ(ControlGroupLimit(root_), std::nullopt);
  Write("/proc/self/cgroup", "nonsense\n\n0:\n0::\n0::relative\n");
  EXPECT_EQ(ControlGroupLimit(root_), std::nullopt);
}

TEST_F(ControlGroupTest, AContainerSeesItsOwnAsTheRoot) {
  Write("/proc/self/cgroup", "0::/\n");
  EXPECT_EQ(ControlGroupLimit(root_), std::nullopt);
  Write("/sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(ControlGroupLimit(root_), std::nullopt);
  Write("/sys/fs/cgroup/memory.max", "2147483648\n");
  EXPECT_EQ(ControlGroupLimit(root_), 2147483648);
}

TEST_F(ControlGroupTest, TheLeastOnTheWayUpCounts) {
  Write("/proc/self/cgroup", "0::/a.slice/b.service\n");
  Write("/sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
  Write("/sys/fs/cgroup/a.slice/memory.max", "1000\n");
  EXPECT_EQ(ControlGroupLimit(root_), 1000);
  Write("/sys/fs/cgroup/a.slice/b.service/memory.max", "300\n");
  EXPECT_EQ(ControlGroupLimit(root_), 300);
}

TEST_F(ControlGroupTest, VersionOneHasAFolderOfItsOwn) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/c\n0::/y\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/docker/c/memory.limit_in_bytes", "4096\n");
  EXPECT_EQ(ControlGroupLimit(root_), 4096);
}

TEST(MemoryLimitTest, IsWithinTheMachine) {
  EXPECT_GT(MemoryLimit(), 0);
  EXPECT_LE(MemoryLimit(), sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
}

TEST(MemoryLimitTest, WhatIsTakenCountsAndWhatIsGivenBackDoesNot) {
  constexpr std::int64_t kBytes = 64 << 20;
  const std::int64_t before = MemoryTaken();
  EXPECT_GT(before, 0);
  auto block = std::make_unique<std::vector<char>>(kBytes, 'x');
  EXPECT_GE(MemoryTaken(), before + kBytes / 2);
  block.reset();
  GiveBackMemory();
#ifndef __SANITIZE_ADDRESS__  // it keeps what is freed
  EXPECT_LT(MemoryTaken(), before + kBytes / 2);
#endif
}

class MemoryGuardTest : public testing::Test {
 protected:
  bool Refuses() {
    clock_.Advance(milliseconds(50));
    return !guard_.Check().ok();
  }

  FakeClock clock_;
  std::int64_t taken_ = 500;
  std::int64_t unused_ = 0;  // of those
  int looks_ = 0, times_given_back_ = 0;
  MemoryGuard guard_{1000,
                     {.taken =
                          [this] {
                            ++looks_;
                            return taken_;
                          },
                      .give_back =
                          [this] {
                            ++times_given_back_;
                            taken_ -= unused_;
                            unused_ = 0;
                          }},
                     clock_};
};

TEST_F(MemoryGuardTest, RefusesBeyondTheLimitOnly) {
  EXPECT_FALSE(Refuses());
  taken_ = 1000;
  EXPECT_FALSE(Refuses());
  EXPECT_EQ(times_given_back_, 0);
  taken_ = 1001;
  EXPECT_TRUE(Refuses());
  EXPECT_EQ(guard_.Check().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(guard_.num_refused(), 2);
}

TEST_F(MemoryGuardTest, AcceptsAgainWhenThereIsRoom) {
  taken_ = 1001;
  EXPECT_TRUE(Refuses());
  taken_ = 990;  // a hundredth is no room
  EXPECT_TRUE(Refuses());
  taken_ = 980;
  EXPECT_FALSE(Refuses());
  taken_ = 1000;
  EXPECT_FALSE(Refuses());
}

TEST_F(MemoryGuardTest, WhatNobodyUsesIsGivenBackFirst) {
  taken_ = 1200;
  unused_ = 300;
  EXPECT_FALSE(Refuses());
  EXPECT_EQ(times_given_back_, 1);
  // Not again at once, though there may be something.
  taken_ = 1200;
  unused_ = 300;
  EXPECT_TRUE(Refuses());
  EXPECT_EQ(times_given_back_, 1);
  clock_.Advance(seconds(5));
  EXPECT_FALSE(Refuses());
  EXPECT_EQ(times_given_back_, 2);
}

TEST_F(MemoryGuardTest, LooksOnceInAWhile) {
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(guard_.Check().ok());
  EXPECT_EQ(looks_, 1);
  EXPECT_FALSE(Refuses());
  EXPECT_EQ(looks_, 2);
}

// A server for which a test decides how much memory is taken.
class SheddingTest : public testing::Test {
 protected:
  TestServerOptions Options() {
    TestServerOptions options;
    options.memory = &guard_;
    options.engine.num_pages = kEndless;
    return options;
  }

  static void ExpectShed(const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(status.error_message(), "the server is short of memory");
    google::rpc::Status details;
    google::rpc::RetryInfo retry;
    EXPECT_TRUE(grpc::ExtractErrorDetails(status, &details).ok());
    ASSERT_EQ(details.details_size(), 1);
    EXPECT_TRUE(details.details(0).UnpackTo(&retry));
  }

  grpc::Status CreateSession() {
    grpc::ClientContext context;
    v1::CreateSessionResponse response;
    return server_.sessions().CreateSession(&context, {}, &response);
  }

  static constexpr std::int64_t kEndless = 1000000;

  const SteadyClock clock_;
  std::atomic<std::int64_t> taken_ = 0;
  MemoryGuard guard_{
      1000, {.taken = [this] { return taken_.load(); }, .give_back = [] {}}, clock_};
  TestServer server_{Options()};
};

TEST_F(SheddingTest, NewWorkIsRefusedAndWhatRunsGoesOn) {
  v1::GenerateRequest request = TextRequest("runs", kEndless / 2);
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext running;
  const auto stream = server_.stub().Generate(&running, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));

  taken_ = 2000;
  ASSERT_TRUE(Eventually(
      [&] { return !Generate(server_.stub(), TextRequest("x", 1)).status.ok(); }));
  ExpectShed(Generate(server_.stub(), TextRequest("x", 1)).status);
  ExpectShed(CreateSession());
  {
    grpc::ClientContext context;
    v1::ScoreRequest score;
    score.set_continuation_text("x");
    v1::ScoreResponse scores;
    ExpectShed(server_.stub().Score(&context, score, &scores));
  }
  {
    grpc::ClientContext context;
    v1::ImportSessionResponse response;
    ExpectShed(server_.sessions().ImportSession(&context, &response)->Finish());
  }
  {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    ExpectShed(server_.stub().Tokenize(&context, {}, &response));
  }
  {
    grpc::ClientContext context;
    v1::DetokenizeResponse response;
    ExpectShed(server_.stub().Detokenize(&context, {}, &response));
  }
  {
    grpc::ClientContext context;
    v1::GetSessionHistoryResponse response;
    ExpectShed(server_.sessions().GetSessionHistory(&context, {}, &response));
  }
  {
    grpc::ClientContext context;
    v1::ForkSessionResponse response;
    const auto refused = [this] {
      return server_.Metric("goldfinch_tenant_refused_total{tenant=\"default\"}");
    };
    const auto before = refused();
    ExpectShed(server_.sessions().ForkSession(&context, {}, &response));
    EXPECT_EQ(refused(), before + 1) << "as that of who would have had the session";
  }
  {
    grpc::ClientContext context;
    ExpectShed(server_.sessions().ExportSession(&context, {})->Finish());
  }
  {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    EXPECT_TRUE(server_.sessions().ListSessions(&context, {}, &response).ok());
  }
  {
    grpc::ClientContext context;
    v1::GetModelResponse response;
    EXPECT_TRUE(server_.stub().GetModel(&context, {}, &response).ok()) << "is free";
  }
  EXPECT_GE(server_.Metric("goldfinch_requests_shed_total"), 9);
  EXPECT_EQ(server_.Metric("goldfinch_memory_limit_bytes"), 1000);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(stream->Read(&message));

  taken_ = 0;
  EXPECT_TRUE(Eventually(
      [&] { return Generate(server_.stub(), TextRequest("x", 1)).status.ok(); }));
  EXPECT_TRUE(CreateSession().ok());
  running.TryCancel();
  while (stream->Read(&message)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
}

}  // namespace
}  // namespace goldfinch
