// A reader that does not read costs itself its stream, and nobody else anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::seconds;
using SlowReaderTest = SchedulerTest;

TEST_F(SlowReaderTest, ItsSequenceIsPausedAndNotTheBatch) {
  options.stream_buffer_tokens = 4;
  const Request slow_request = Generation(3, 20, 1);
  const Request quick_request = Generation(3, 20, 2);
  Submitted slow = Submit(slow_request);
  Submitted quick = Submit(quick_request);
  for (std::size_t step = 1; step <= 10; ++step) {
    Step();
    quick.reader.Take();
    EXPECT_EQ(quick.reader.tokens().size(), step);
  }
  EXPECT_EQ(observer.levels.paused_requests, 1);
  slow.reader.Take();
  EXPECT_EQ(slow.reader.tokens().size(), 4u);
  Step();
  EXPECT_EQ(observer.levels.paused_requests, 0);
  while (!slow.reader.ended() || !quick.reader.ended()) {
    Step();
    slow.reader.Take();
    quick.reader.Take();
  }
  EXPECT_EQ(slow.reader.tokens(), ExpectedTokens(slow_request));
  EXPECT_EQ(quick.reader.tokens(), ExpectedTokens(quick_request));
  ExpectAtRest();
}

TEST_F(SlowReaderTest, CandidatesTogetherKeepTheBound) {
  options.stream_buffer_tokens = 6;
  Request request = Generation(5, 10);
  request.num_candidates = 4;
  auto submission = scheduler().Submit(request);
  ASSERT_TRUE(submission.ok());
  for (bool ended = false; !ended;) {
    RunUntilIdle();
    const TokenStream::Batch batch = submission->stream->Take();
    EXPECT_LE(
        std::ranges::count(batch.events, StreamEvent::Kind::kToken, &StreamEvent::kind),
        6);
    ended = batch.end.has_value();
  }
  ExpectAtRest();
}

TEST_F(SlowReaderTest, ItIsEndedAfterItsTime) {
  options.stream_buffer_tokens = 4;
  Submitted slow = Submit(Generation(3, 20));
  RunUntilIdle();
  clock.Advance(seconds(29));
  EXPECT_FALSE(Step());
  EXPECT_EQ(observer.levels.paused_requests, 1);
  clock.Advance(seconds(1));
  EXPECT_FALSE(Step());
  ExpectAtRest();
  slow.reader.Take();
  EXPECT_TRUE(absl::IsAborted(slow.reader.status()));
  EXPECT_EQ(slow.reader.status().message(),
            "the stream was not read for 30 seconds; the limit is 30");
  EXPECT_EQ(slow.reader.tokens().size(), 4u);
}

TEST_F(SlowReaderTest, ReadingAnythingStartsItsTimeAgain) {
  options.stream_buffer_tokens = 4;
  const Request request = Generation(3, 20);
  Submitted slow = Submit(request);
  for (int i = 0; i < 5; ++i) {
    RunUntilIdle();
    clock.Advance(seconds(29));
    Step();
    slow.reader.Take();
  }
  RunUntilIdle();
  slow.reader.Take();
  EXPECT_TRUE(slow.reader.status().ok());
  EXPECT_EQ(slow.reader.tokens(), ExpectedTokens(request));
}

// As one does who is told an earlier part of the generation first.
TEST_F(SlowReaderTest, AReaderWhoIsBusyWithWhatComesBeforeHasTime) {
  options.stream_buffer_tokens = 4;
  Submitted busy = Submit(Generation(3, 20));
  RunUntilIdle();
  for (int i = 0; i < 5; ++i) {
    clock.Advance(seconds(29));
    busy.reader.stream().NoteReading(clock.Now());
    Step();
    EXPECT_EQ(observer.levels.paused_requests, 1);
  }
  clock.Advance(seconds(30));
  Step();
  busy.reader.Take();
  EXPECT_TRUE(absl::IsAborted(busy.reader.status()));
}

TEST_F(SlowReaderTest, WhoNeverReadsAStreamThatFitsLosesNothing) {
  options.stream_buffer_tokens = 20;
  const Request request = Generation(3, 20);
  Submitted call = Submit(request);
  RunUntilIdle();
  ExpectAtRest();
  clock.Advance(seconds(1000));
  Step();
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
}

TEST_F(SlowReaderTest, AMutePromptIsNotASlowReader) {
  options.step_tokens = 10;
  engine().SetForwardHook([&](auto) { clock.Advance(seconds(20)); });
  Submitted call = Submit(Generation(100, 3));
  RunUntilIdle();
  call.reader.Take();
  EXPECT_TRUE(call.reader.status().ok());
}

TEST_F(SlowReaderTest, MoreThatComeBackThanTheBudgetTakeTurns) {
  options.stream_buffer_tokens = 1;
  options.step_tokens = 3;
  std::vector<Submitted> calls;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    calls.push_back(Submit(Generation(1, 30, seed)));
  }
  RunUntilIdle();  // until all are paused
  for (int step = 0; step < 40; ++step) {
    std::size_t most = 0;
    std::size_t least = 1000;
    for (Submitted& call : calls) {
      call.reader.Take();
      most = std::max(most, call.reader.tokens().size());
      least = std::min(least, call.reader.tokens().size());
    }
    ASSERT_LE(most - least, 1u) << "step " << step;
    Step();
  }
}

TEST_F(SlowReaderTest, CancelAndDeadlineEndAPausedRequest) {
  options.stream_buffer_tokens = 2;
  Submitted cancelled = Submit(Generation(3, 20, 1));
  Request request = Generation(3, 20, 2);
  request.deadline = clock.Now() + seconds(5);
  Submitted late = Submit(request);
  RunUntilIdle();
  scheduler().Cancel(cancelled.id);
  clock.Advance(seconds(5));
  Step();
  ExpectAtRest();
  cancelled.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(cancelled.reader.status()));
  late.reader.Take();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.reader.status()));
}

TEST_F(SlowReaderTest, ItsMemoryServesTheNextRequestInTheSameStep) {
  options.stream_buffer_tokens = 2;
  engine_options.num_slots = 1;
  Submitted slow = Submit(Generation(3, 20));
  Submitted next = Submit(Generation(3, 1));
  RunUntilIdle();
  clock.Advance(seconds(30));
  EXPECT_TRUE(Step());
  next.reader.Take();
  EXPECT_TRUE(next.reader.status().ok());
}

}  // namespace
}  // namespace goldfinch
