// What an operator sees of requests, and cancels.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

Request OfTenant(const std::string& tenant, Request request) {
  request.tenant = tenant;
  return request;
}

class InspectTest : public SchedulerTest {
 protected:
  // Takes a step to be answered.
  std::vector<RequestInfo> List(RequestFilter filter = {}) {
    std::optional<std::vector<RequestInfo>> infos;
    scheduler().ListRequests(std::move(filter), [&](auto all) { infos = std::move(all); });
    Step();
    EXPECT_TRUE(infos.has_value());
    return infos.value_or(std::vector<RequestInfo>());
  }

  bool CancelIfThere(RequestId id) {
    std::optional<bool> found;
    scheduler().CancelIfThere(id, absl::CancelledError("by hand"),
                              [&](bool there) { found = there; });
    Step();
    EXPECT_TRUE(found.has_value());
    return found.value_or(false);
  }
};

TEST_F(InspectTest, WithoutRequestsThereIsNothingToSee) { EXPECT_THAT(List(), IsEmpty()); }

TEST_F(InspectTest, WhatWaitsIsSeen) {
  engine_options.num_slots = 1;
  Submit(Generation(10, 50));
  Step();
  Request request = OfTenant("b", Generation(20, 7, 2));
  request.priority = 3;
  const Submitted waits = Submit(request);
  clock.Advance(seconds(5));
  const std::vector<RequestInfo> infos = List({.tenant = "b"});
  ASSERT_THAT(infos, SizeIs(1));
  EXPECT_EQ(infos[0].id, waits.id);
  EXPECT_EQ(infos[0].tenant, "b");
  EXPECT_EQ(infos[0].kind, RequestKind::kGenerate);
  EXPECT_EQ(infos[0].state, RequestState::kWaiting);
  EXPECT_EQ(infos[0].priority, 3);
  EXPECT_EQ(infos[0].num_candidates, 1);
  EXPECT_EQ(infos[0].prompt_tokens, 20);
  EXPECT_EQ(infos[0].fed_tokens, 0);
  EXPECT_EQ(infos[0].generated_tokens, 0);
  EXPECT_EQ(infos[0].max_tokens, 7);
  EXPECT_EQ(infos[0].age, seconds(5));
}

TEST_F(InspectTest, ARequestIsFollowedFromItsPromptToItsEnd) {
  options.step_tokens = 16;
  Submit(Generation(40, 3));
  // What is told is how things were before the step that tells it.
  EXPECT_EQ(List()[0].state, RequestState::kWaiting);
  RequestInfo info = List()[0];
  EXPECT_EQ(info.state, RequestState::kPrompt);
  EXPECT_EQ(info.fed_tokens, 16);
  EXPECT_EQ(List()[0].fed_tokens, 32);
  info = List()[0];
  EXPECT_EQ(info.state, RequestState::kDecoding);
  EXPECT_EQ(info.fed_tokens, 40);
  EXPECT_EQ(info.generated_tokens, 1);
  EXPECT_EQ(List()[0].generated_tokens, 2);
  EXPECT_THAT(List(), IsEmpty());
  ExpectAtRest();
}

TEST_F(InspectTest, CandidatesAreCountedTogether) {
  Request request = Generation(10, 5);
  request.num_candidates = 3;
  Submit(request);
  Step();  // the prompt
  Step();  // the first token of each
  const RequestInfo info = List()[0];
  EXPECT_EQ(info.num_candidates, 3);
  EXPECT_EQ(info.generated_tokens, 3);
  EXPECT_EQ(info.max_tokens, 5);
}

TEST_F(InspectTest, AScoreGeneratesNothing) {
  options.step_tokens = 4;
  Request request = Generation(10, 5);
  request.kind = RequestKind::kScore;
  request.continuation = {1, 2, 3};
  Submit(request);
  Step();
  const RequestInfo info = List()[0];
  EXPECT_EQ(info.kind, RequestKind::kScore);
  EXPECT_EQ(info.state, RequestState::kPrompt);
  EXPECT_EQ(info.max_tokens, 0);
}

TEST_F(InspectTest, WhoIsNotReadIsPaused) {
  options.stream_buffer_tokens = 2;
  const Submitted call = Submit(Generation(4, 10));
  for (int step = 0; step < 4; ++step) Step();
  EXPECT_EQ(List()[0].state, RequestState::kPaused);
}

TEST_F(InspectTest, WhatWasPutAsideIsSeen) {
  engine_options.num_slots = 2;
  Submit(OfTenant("flood", Generation(4, 200, 1)));
  Submit(OfTenant("flood", Generation(4, 200, 2)));
  for (int step = 0; step < 10; ++step) Step();
  Submit(OfTenant("other", Generation(4, 60, 3)));
  Step();
  const std::vector<RequestInfo> infos = List();
  ASSERT_THAT(infos, SizeIs(3));
  EXPECT_EQ(infos[0].state, RequestState::kDecoding);
  EXPECT_EQ(infos[0].generated_tokens, 11);
  EXPECT_EQ(infos[1].tenant, "flood");
  EXPECT_EQ(infos[1].state, RequestState::kAside);
  EXPECT_EQ(infos[1].generated_tokens, 10);
  EXPECT_EQ(infos[2].tenant, "other");
  EXPECT_EQ(infos[2].state, RequestState::kDecoding);
}

TEST_F(InspectTest, PagesFollowEachOther) {
  engine_options.num_slots = 2;
  std::vector<RequestId> ids;
  for (std::uint64_t i = 0; i < 5; ++i) ids.push_back(Submit(Generation(4, 90, i)).id);
  Step();
  std::vector<RequestId> seen;
  RequestFilter filter{.limit = 2};
  for (const std::size_t size : {2u, 2u, 1u, 0u}) {
    const std::vector<RequestInfo> infos = List(filter);
    EXPECT_THAT(infos, SizeIs(size));
    for (const RequestInfo& info : infos) seen.push_back(info.id);
    filter.after = seen.back();
  }
  EXPECT_EQ(seen, ids);
}

TEST_F(InspectTest, CancellingEndsWhatRunsAndWhatWaits) {
  engine_options.num_slots = 1;
  Submitted runs = Submit(Generation(4, 50));
  Submitted waits = Submit(Generation(4, 50, 2));
  Step();
  Step();
  EXPECT_TRUE(CancelIfThere(waits.id));
  EXPECT_TRUE(CancelIfThere(runs.id));
  for (Submitted* call : {&runs, &waits}) {
    call->reader.Take();
    EXPECT_EQ(call->reader.status(), absl::CancelledError("by hand"));
    EXPECT_FALSE(CancelIfThere(call->id));
  }
  EXPECT_EQ(runs.reader.tokens().size(), 3u);
  ExpectAtRest();
}

TEST_F(InspectTest, WhatNeverWasIsNotFound) {
  EXPECT_FALSE(CancelIfThere(RequestId{0}));
  EXPECT_FALSE(CancelIfThere(RequestId{12345}));
}

TEST_F(InspectTest, AfterShutdownTheAnswerIsThereAtOnce) {
  scheduler().Shutdown();
  bool listed = false;
  scheduler().ListRequests({}, [&](auto infos) { listed = infos.empty(); });
  EXPECT_TRUE(listed);
  std::optional<bool> found;
  scheduler().CancelIfThere(RequestId{1}, absl::CancelledError("x"),
                            [&](bool there) { found = there; });
  EXPECT_EQ(found, false);
}

}  // namespace
}  // namespace goldfinch
