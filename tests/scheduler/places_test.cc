// Pasts that have no room together to be expanded take turns (scheduler/plan.h), and
// nothing else changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/plan.h"
#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

class ArenaPlacesTest : public SchedulerTest {
 protected:
  ArenaPlacesTest() {
    engine_options.expands = true;
    engine_options.expanded_pages = 20;  // of 16 tokens
    options.step_tokens = 64;
  }
  void TakeAll(std::vector<Submitted>& calls) {
    for (Submitted& call : calls) call.reader.Take();
  }
};

TEST_F(ArenaPlacesTest, NoStepAttendsToMoreThanThereIsRoomForAndAllGetThere) {
  std::vector<Request> requests;
  std::vector<Submitted> calls;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(Generation(100 + 10 * i, 100, 1 + i));  // up to 13 or 16 pages
    calls.push_back(Submit(requests.back()));
  }
  RunUntilIdle();
  TakeAll(calls);
  for (std::size_t i = 0; i < calls.size(); ++i)
    EXPECT_EQ(calls[i].reader.tokens(), ExpectedTokens(requests[i]));
  EXPECT_LE(engine().most_attended(), 20);
  EXPECT_GT(engine().most_attended(), 10);
}

// Two fit at a time: nobody waits for longer than the others' turns, and what comes back
// was expanded a part a step.
TEST_F(ArenaPlacesTest, NobodyWaitsForLongerThanTheTurnsOfTheOthers) {
  std::vector<Submitted> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(Submit(Generation(112, 400, 1 + i)));
  std::vector<std::size_t> had(calls.size());
  std::vector<std::int64_t> waited(calls.size()), most(calls.size());
  std::int64_t told = 0;
  for (int step = 0; step < 500; ++step) {
    Step();
    TakeAll(calls);
    told = std::max(told, observer.levels.waiting_sequences);
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const std::size_t now = calls[i].reader.tokens().size();
      waited[i] = now == std::exchange(had[i], now) ? waited[i] + 1 : 0;
      if (now > 0) most[i] = std::max(most[i], waited[i]);
    }
  }
  for (std::size_t i = 0; i < calls.size(); ++i) {
    // Pasts grow, and then one fits at a time.
    EXPECT_LE(most[i], 4 * kTurnTokens) << i;
    EXPECT_GT(had[i], 60u) << i;
  }
  EXPECT_EQ(told, 3);
}

// Candidates of one prompt share its pages.
TEST_F(ArenaPlacesTest, SharedPagesCountOnce) {
  // Twelve pages, and two for each candidate.
  Request request = Generation(200, 20, 5);
  request.num_candidates = 3;
  Submitted call = Submit(request);
  std::size_t before = 0;
  while (!call.reader.ended()) {
    Step();
    call.reader.Take();
    std::size_t now = 0;
    for (std::int32_t i = 0; i < 3; ++i) now += call.reader.tokens(i).size();
    if (before >= 3 && !call.reader.ended()) {
      EXPECT_EQ(now, before + 3);
    }
    before = now;
  }
  EXPECT_LE(engine().most_attended(), 20);
}

// A past that is more than the arena gains nothing by waiting.
TEST_F(ArenaPlacesTest, APastBeyondTheArenaRunsBesideTheOthers) {
  Submitted huge = Submit(Generation(400, 50, 1));
  const Request request = Generation(32, 50, 2);
  Submitted small = Submit(request);
  RunUntilIdle();
  huge.reader.Take();
  small.reader.Take();
  EXPECT_EQ(small.reader.tokens(), ExpectedTokens(request));
  EXPECT_EQ(huge.reader.tokens().size(), 50u);
  EXPECT_LT(engine().num_forwards(), 50 + 400 / 16 + 20);
}

}  // namespace
}  // namespace goldfinch
