// Long pasts are expanded a part a step, whoever attends to them, and streams beside them
// go on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

class PrepareTest : public SchedulerTest {
 protected:
  PrepareTest() {
    engine_options.expands = true;
    options.step_tokens = 16;
  }

  // Steps until the call has ended, and checks that the stream got a token in each.
  void FinishBeside(Submitted& stream, Submitted& call) {
    while (!call.reader.ended()) {
      const std::size_t before = stream.reader.tokens().size();
      Step();
      stream.reader.Take();
      call.reader.Take();
      ASSERT_EQ(stream.reader.tokens().size(), before + 1);
    }
  }

  // At most this, and a token of each that decodes.
  void ExpectSmallSteps() { EXPECT_LE(engine().most_expanded(), 8 * 16 + 4); }
};

TEST_F(PrepareTest, AStreamGoesOnWhileTheEndOfALongPromptIsPrepared) {
  Submitted stream = Submit(Generation(4, 1000, 1));
  const Request request = Generation(2000, 3, 2);
  Submitted call = Submit(request);
  FinishBeside(stream, call);
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
  ExpectSmallSteps();
  // The prompt, sixteen more for what it attends to, its tokens.
  EXPECT_LE(engine().num_forwards(), 2000 / 15 + 2000 / 128 + 6);
}

TEST_F(PrepareTest, SoItDoesWhenALongHistoryIsContinued) {
  Request first = Generation(1500, 2, 1);
  std::shared_ptr<KeptPrefix> kept;
  first.on_end = [&](RequestEnd end) { kept = std::move(end.kept); };
  Submit(first);
  RunUntilIdle();
  ASSERT_NE(kept, nullptr);

  Submitted stream = Submit(Generation(4, 1000, 2));
  Request next = Generation(5, 3, 3);
  const std::vector<TokenId> text = next.prompt;
  next.base = kept;
  Submitted call = Submit(next);
  FinishBeside(stream, call);
  Request whole = Generation(5, 3, 3);
  whole.prompt = kept->history();
  whole.prompt.insert(whole.prompt.end(), text.begin(), text.end());
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(whole));
  ExpectSmallSteps();
  kept.reset();
}

TEST_F(PrepareTest, CandidatesShareWhatWasPrepared) {
  Request request = Generation(1000, 4, 1);
  request.num_candidates = 4;
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  for (std::int32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(call.reader.tokens(i), ExpectedTokens(request, i));
  }
  ExpectSmallSteps();
}

TEST_F(PrepareTest, AScoreIsPreparedToo) {
  Request request = Generation(1000, 1, 1);
  request.kind = RequestKind::kScore;
  request.continuation = Generation(100, 1, 2).prompt;
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  ASSERT_TRUE(call.reader.scores.has_value());
  EXPECT_EQ(call.reader.scores->scores.size(), 100u);
  ExpectSmallSteps();
}

TEST_F(PrepareTest, WhoWasPausedIsPreparedAgain) {
  options.stream_buffer_tokens = 2;
  const Request request = Generation(600, 10, 1);
  Submitted call = Submit(request);
  for (int step = 0; step < 200; ++step) {
    Step();
    if (step % 20 == 0) call.reader.Take();
  }
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
  ExpectSmallSteps();
}

// It ran in the last step, but what was expanded for it need not be there any more.
TEST_F(PrepareTest, WhoIsPutAsideAndComesBackAtOnceIsPreparedAgain) {
  engine_options.num_slots = 2;
  Submitted older = Submit(Generation(1, 400, 3));
  const Request request = Generation(600, 40, 1);
  Submitted call = Submit(request);
  while (call.reader.tokens().empty()) {
    ASSERT_TRUE(Step());
    call.reader.Take();
  }
  // For it the first one is put aside, and then it is not let in.
  engine().FailOpen(1, absl::InternalError("broken"));
  Request other = Generation(3, 5, 2);
  other.tenant = "b";
  Submitted newcomer = Submit(other);
  Step();
  newcomer.reader.Take();
  EXPECT_TRUE(absl::IsInternal(newcomer.reader.status()));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
  ExpectSmallSteps();
}

TEST_F(PrepareTest, WhatIsGoneAgainAndAgainKeepsNobodyWaiting) {
  engine_options.expands_in_vain = true;
  const Request request = Generation(300, 4, 1);
  Submitted call = Submit(request);
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
  ExpectAtRest();
}

TEST_F(PrepareTest, ACancelledOneIsPreparedNoMore) {
  Submitted call = Submit(Generation(2000, 3, 1));
  for (int step = 0; step < 130; ++step) Step();
  scheduler().Cancel(call.id);
  RunUntilIdle();
  ExpectAtRest();
}

}  // namespace
}  // namespace goldfinch
