// How long steps may take while somebody generates.
#include "scheduler/step_pacer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <span>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(StepPacerTest, WithoutATargetAStepIsAsLargeAsItMayBe) {
  StepPacer pacer(512, milliseconds(0));
  pacer.Note(512, std::chrono::hours(1));
  EXPECT_EQ(pacer.prompt_tokens(), 512);
}

TEST(StepPacerTest, FindsWhatFits) {
  StepPacer pacer(512, milliseconds(50));
  EXPECT_EQ(pacer.prompt_tokens(), 512);
  // A token takes half a millisecond: a hundred fit.
  for (int step = 0; step < 20; ++step) {
    pacer.Note(pacer.prompt_tokens(), pacer.prompt_tokens() * microseconds(500));
  }
  EXPECT_NEAR(static_cast<double>(pacer.prompt_tokens()), 100, 1);
  // On another day a tenth of that.
  for (int step = 0; step < 20; ++step) {
    pacer.Note(pacer.prompt_tokens(), pacer.prompt_tokens() * microseconds(50));
  }
  EXPECT_EQ(pacer.prompt_tokens(), 512);
}

TEST(StepPacerTest, GoesDownAtOnceAndUpSlowly) {
  StepPacer pacer(512, milliseconds(50));
  pacer.Note(512, milliseconds(5000));
  EXPECT_EQ(pacer.prompt_tokens(), 256);
  pacer.Note(256, milliseconds(1));
  EXPECT_EQ(pacer.prompt_tokens(), 320);
}

TEST(StepPacerTest, AStepThatWasNotFullSaysNothingButThatItWasTooLong) {
  StepPacer pacer(512, milliseconds(50));
  pacer.Note(512, milliseconds(100));
  ASSERT_EQ(pacer.prompt_tokens(), 256);
  pacer.Note(10, microseconds(10));
  pacer.Note(0, milliseconds(500));
  EXPECT_EQ(pacer.prompt_tokens(), 256);
  pacer.Note(200, milliseconds(80));
  EXPECT_EQ(pacer.prompt_tokens(), 128);
}

// The last token of a prompt, or what is left of one, in a step that took its time.
TEST(StepPacerTest, AStepOfFewTokensSaysNothing) {
  StepPacer pacer(4096, milliseconds(50));
  pacer.Note(1, milliseconds(5));
  pacer.Note(1, milliseconds(500));
  pacer.Note(StepPacer::kMinTokens - 1, milliseconds(500));
  pacer.Note(40, milliseconds(20));
  EXPECT_EQ(pacer.prompt_tokens(), 4096);
}

TEST(StepPacerTest, PromptsGoOnWhateverTheyTake) {
  StepPacer slow(512, milliseconds(1));
  StepPacer small(20, milliseconds(1));
  for (int step = 0; step < 20; ++step) {
    slow.Note(slow.prompt_tokens(), milliseconds(1000));
    small.Note(small.prompt_tokens(), milliseconds(1000));
  }
  EXPECT_EQ(slow.prompt_tokens(), StepPacer::kMinTokens);
  EXPECT_EQ(small.prompt_tokens(), 20);
}

TEST(StepPacerTest, AClockThatStandsStillChangesNothing) {
  StepPacer pacer(512, milliseconds(50));
  pacer.Note(512, milliseconds(0));
  EXPECT_EQ(pacer.prompt_tokens(), 512);
}

class PacedTest : public SchedulerTest {
 protected:
  PacedTest() { options.step_time = milliseconds(10); }

  // Each token of a step takes a tenth of a millisecond.
  void TakeTime() {
    engine().SetForwardHook([this](std::span<const Span> batch) {
      for (const Span& span : batch) {
        clock.Advance(std::ssize(span.tokens) * microseconds(100));
      }
    });
  }
};

TEST_F(PacedTest, ALongPromptLeavesStreamsTheirTime) {
  TakeTime();
  Submitted stream = Submit(Generation(4, 200, 1));
  Step();
  const Request request = Generation(5000, 2, 2);
  Submitted call = Submit(request);
  for (int step = 0; step < 10; ++step) Step();
  for (int step = 0; step < 20; ++step) {
    stream.reader.Take();
    const std::size_t before = stream.reader.tokens().size();
    Step();
    stream.reader.Take();
    EXPECT_EQ(stream.reader.tokens().size(), before + 1);
    EXPECT_LE(observer.steps.back().duration, milliseconds(11));
    EXPECT_GE(observer.steps.back().prompt_tokens, 90);
  }
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
  ExpectAtRest();
}

TEST_F(PacedTest, AloneItTakesAllOfTheBudget) {
  TakeTime();
  const Request request = Generation(5000, 2, 1);
  Submitted call = Submit(request);
  for (int step = 0; step < 5; ++step) {
    Step();
    EXPECT_EQ(observer.steps.back().prompt_tokens, 512);
  }
  RunUntilIdle();
  call.reader.Take();
  EXPECT_EQ(call.reader.tokens(), ExpectedTokens(request));
}

}  // namespace
}  // namespace goldfinch
