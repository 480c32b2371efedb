// Requests that go on from what an earlier one kept: whatever is reused, moved or
// forgotten, tokens are those of the whole history as one prompt.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tests/scheduler/prefix_fixture.h"

namespace goldfinch {
namespace {

TEST_F(PrefixTest, EachTurnGoesOnFromTheLast) {
  std::shared_ptr<KeptPrefix> kept;
  std::int64_t length = 0;
  for (const std::uint64_t turn : {1u, 2u, 3u, 4u}) {
    const std::int64_t run_before = PromptTokensRun();
    kept = Run(Turn(kept, 37, 11, turn));
    length += 37 + 11;
    EXPECT_EQ(std::ssize(kept->history()), length);
    EXPECT_EQ(kept->length(), length - 1);
    EXPECT_EQ(PromptTokensRun() - run_before, 37 + (turn > 1 ? 1 : 0));
  }
  EXPECT_EQ(engine().usage().pages_open, 0);
  EXPECT_EQ(engine().usage().slots_used, 0);
  kept.reset();
  end.reset();
  Step();
  ExpectAtRest();
}

TEST_F(PrefixTest, UsageCountsTheHistoryAsCached) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 20, 10, 1));
  Submitted second = Submit(Keeping(Turn(kept, 5, 3, 2)));
  RunUntilIdle();
  second.reader.Take();
  const RequestUsage usage = second.reader.candidates[0].finished->usage;
  EXPECT_EQ(usage.prompt_tokens, 35);
  EXPECT_EQ(usage.cached_prompt_tokens, 29);
  EXPECT_EQ(usage.generated_tokens, 3);
}

// The bytes that are counted are those of its tokens.
TEST_F(PrefixTest, WhatIsKeptHasLittleSpareRoom) {
  options.max_context_tokens = 20000;
  options.stream_buffer_tokens = 20000;
  engine_options.num_pages = 4096;
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 3000, 10, 1));
  const auto spare = [](const KeptPrefix& prefix) {
    return static_cast<std::int64_t>(prefix.history().capacity()) -
           std::ssize(prefix.history());
  };
  EXPECT_EQ(spare(*kept), 0);
  // More tokens than there are places for at first.
  EXPECT_LE(spare(*Run(Turn(kept, 10, 5000, 2))), (3010 + 5010) / 16);
  // Far fewer.
  Request stops = Turn(kept, 10, 5000, 3);
  stops.make_stop_condition = [] { return std::make_unique<StopAtMultiple>(2); };
  Submit(Keeping(stops));
  RunUntilIdle();
  ASSERT_NE(end->kept, nullptr);
  EXPECT_LT(std::ssize(end->kept->history()), 3500);
  EXPECT_LE(spare(*end->kept), 3500 / 16);
}

TEST_F(PrefixTest, ForksGoTheirOwnWays) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 50, 10, 1));
  std::vector<Request> requests;
  std::vector<Submitted> submitted;
  for (std::uint64_t seed = 2; seed < 10; ++seed) {
    requests.push_back(Turn(kept, 3, 20, seed));
    submitted.push_back(Submit(requests.back()));
  }
  RunUntilIdle();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    submitted[i].reader.Take();
    EXPECT_EQ(submitted[i].reader.tokens(), Expected(requests[i]));
  }
}

TEST_F(PrefixTest, NothingNewToSayIsEnoughToGoOn) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 9, 4, 1));
  Run(Turn(kept, 0, 6, 2));
}

TEST_F(PrefixTest, PrefillKeepsAllButTheLastToken) {
  for (const std::int64_t prompt : {1, 2, 16, 17, 300, 1000}) {
    Request fill = Generation(prompt, 0, 1);
    fill.kind = RequestKind::kPrefill;
    Submitted submitted = Submit(Keeping(fill));
    RunUntilIdle();
    submitted.reader.Take();
    ASSERT_TRUE(submitted.reader.status().ok()) << submitted.reader.status();
    ASSERT_TRUE(end->kept != nullptr);
    EXPECT_EQ(end->kept->history(), fill.prompt);
    EXPECT_EQ(end->kept->length(), prompt - 1);
    ASSERT_TRUE(submitted.reader.filled.has_value());
    EXPECT_EQ(submitted.reader.filled->usage.prompt_tokens, prompt);
    EXPECT_EQ(submitted.reader.filled->usage.cached_prompt_tokens, 0);
    const std::shared_ptr<KeptPrefix> kept = end->kept;
    Run(Turn(kept, 0, 5, 2));
    Run(Turn(kept, 7, 5, 3));
  }
}

// They end as they are admitted, and who waits behind them has their memory at once: no
// step of the engine, and nobody's call, would wake the scheduler again.
TEST_F(PrefixTest, PrefillsOfNothingKeepNobodyWaiting) {
  engine_options.num_slots = 1;
  std::vector<Submitted> submitted;
  for (std::uint64_t i = 0; i < 5; ++i) {
    Request fill = Generation(1, 0, i);
    fill.kind = RequestKind::kPrefill;
    submitted.push_back(Submit(fill));
  }
  submitted.push_back(Submit(Generation(3, 2)));
  RunUntilIdle();
  for (Submitted& call : submitted) {
    call.reader.Take();
    EXPECT_TRUE(call.reader.status().ok()) << call.reader.status();
  }
  EXPECT_EQ(engine().num_forwards(), 2);
}

TEST_F(PrefixTest, PrefillGoesOnFromAConversation) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 30, 5, 1));
  Request fill = Turn(kept, 40, 0, 2);
  fill.kind = RequestKind::kPrefill;
  Submitted submitted = Submit(Keeping(fill));
  RunUntilIdle();
  submitted.reader.Take();
  ASSERT_TRUE(submitted.reader.status().ok()) << submitted.reader.status();
  ASSERT_TRUE(end->kept != nullptr);
  EXPECT_EQ(std::ssize(end->kept->history()), 30 + 5 + 40);
  EXPECT_EQ(submitted.reader.filled->usage.prompt_tokens, 30 + 5 + 40);
  EXPECT_EQ(submitted.reader.filled->usage.cached_prompt_tokens, 30 + 5 - 1);
  Run(Turn(end->kept, 0, 5, 3));
  Run(Turn(kept, 40, 5, 3));
}

TEST_F(PrefixTest, PrefillThatEndsTooSoonLeavesTheConversationAsItWas) {
  options.step_tokens = 10;
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 30, 5, 1));
  Request fill = Turn(kept, 40, 0, 2);
  fill.kind = RequestKind::kPrefill;
  Submitted submitted = Submit(Keeping(fill));
  Step();
  Step();
  scheduler().Cancel(submitted.id);
  RunUntilIdle();
  submitted.reader.Take();
  EXPECT_TRUE(absl::IsCancelled(end->status));
  EXPECT_EQ(end->kept, nullptr);
  EXPECT_FALSE(submitted.reader.filled.has_value());
  Run(Turn(kept, 40, 5, 2));
}

TEST_F(PrefixTest, CancelledBeforeItsFirstTokenLeavesTheConversationAsItWas) {
  options.step_tokens = 10;
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 30, 5, 1));
  Submitted submitted = Submit(Keeping(Turn(kept, 30, 5, 2)));
  Step();
  Step();
  scheduler().Cancel(submitted.id);
  RunUntilIdle();
  EXPECT_TRUE(absl::IsCancelled(end->status));
  EXPECT_EQ(end->kept, nullptr);
  Run(Turn(kept, 30, 5, 2));
}

TEST_F(PrefixTest, WhatEndsInTheQueueHasTheLengthItWouldHaveRunWith) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 30, 5, 1));
  observer.finished.clear();
  Submitted submitted = Submit(Keeping(Turn(kept, 7, 5, 2)));
  scheduler().Cancel(submitted.id);
  Step();
  ASSERT_EQ(observer.finished.size(), 1u);
  EXPECT_EQ(observer.finished[0].usage.prompt_tokens, 30 + 5 + 7);
  EXPECT_EQ(observer.finished[0].read_prompt_tokens, 0);
}

// 34 of its tokens have run before it began.
TEST_F(PrefixTest, OfAPromptThatEndsWithinItThePartIsReportedThatWasRead) {
  options.step_tokens = 10;
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 30, 5, 1));
  ASSERT_EQ(observer.finished.size(), 1u);
  EXPECT_EQ(observer.finished[0].read_prompt_tokens, 30);
  Submitted submitted = Submit(Keeping(Turn(kept, 70, 5, 2)));
  Step();
  Step();
  scheduler().Cancel(submitted.id);
  RunUntilIdle();
  ASSERT_EQ(observer.finished.size(), 2u);
  EXPECT_EQ(observer.finished[1].usage.prompt_tokens, 35 + 70);
  EXPECT_EQ(observer.finished[1].usage.cached_prompt_tokens, 34);
  EXPECT_EQ(observer.finished[1].read_prompt_tokens, 34 + 2 * 10);
}

TEST_F(PrefixTest, CancelledLaterKeepsWhatWasGenerated) {
  const Request request = Turn(nullptr, 30, 50, 1);
  Submitted submitted = Submit(Keeping(request));
  for (int i = 0; i < 7; ++i) Step();
  scheduler().Cancel(submitted.id);
  RunUntilIdle();
  ASSERT_TRUE(end->kept != nullptr);
  EXPECT_EQ(end->num_generated, 7);
  EXPECT_EQ(std::ssize(end->kept->history()), 37);
  Run(Turn(end->kept, 4, 6, 2));
}

// However far it got: in the queue, at each chunk of its prompt, at each token.
TEST_F(PrefixTest, InterruptedAndResumedIsAsIfNothingHadHappened) {
  options.step_tokens = 10;
  const std::shared_ptr<KeptPrefix> first = Run(Turn(nullptr, 21, 5, 1));
  for (const bool fresh : {true, false}) {
    Request request = Turn(fresh ? nullptr : first, 33, 12, 2);
    request.sampling.num_logprobs = 2;
    const std::vector<TokenId> expected = Expected(request);
    for (int steps = 1; steps < 15; ++steps) {
      Submitted submitted = Submit(Keeping(request));
      for (int i = 0; i < steps; ++i) Step();
      scheduler().Interrupt(submitted.id, absl::UnavailableError("interrupted"));
      RunUntilIdle();
      submitted.reader.Take();
      ASSERT_TRUE(absl::IsUnavailable(end->status));
      ASSERT_TRUE(end->interrupted && end->kept != nullptr) << steps;
      std::vector<TokenId> tokens = submitted.reader.tokens();
      EXPECT_EQ(end->num_generated, std::ssize(tokens));
      EXPECT_EQ(end->sampled.size(), tokens.size());

      Request rest = request;
      rest.base = end->kept;
      rest.prompt.clear();
      rest.num_generated = end->num_generated;
      Submitted resumed = Submit(Keeping(rest));
      RunUntilIdle();
      resumed.reader.Take();
      ASSERT_TRUE(resumed.reader.status().ok()) << resumed.reader.status();
      tokens.insert(tokens.end(), resumed.reader.tokens().begin(),
                    resumed.reader.tokens().end());
      EXPECT_EQ(tokens, expected) << steps;
      EXPECT_EQ(end->num_generated, 12);
      EXPECT_EQ(resumed.reader.candidates[0].finished->usage.generated_tokens, 12);
    }
  }
}

TEST_F(PrefixTest, WhatOnlyAnInterruptionKeepsIsNotKeptAtAnEnd) {
  Request request = Keeping(Turn(nullptr, 30, 10, 1));
  request.keeps_only_interrupted = true;
  Submit(request);
  RunUntilIdle();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->kept, nullptr);
  end.reset();
  const Submitted interrupted = Submit(request);
  Step();
  scheduler().Interrupt(interrupted.id, absl::UnavailableError("interrupted"));
  RunUntilIdle();
  ASSERT_TRUE(end.has_value());
  EXPECT_TRUE(end->interrupted);
  EXPECT_NE(end->kept, nullptr);
}

TEST_F(PrefixTest, InterruptedBeforeItRanLeavesNothing) {
  engine_options.num_slots = 1;
  Submitted running = Submit(Generation(5, 50, 1));
  Submitted waiting = Submit(Keeping(Turn(nullptr, 5, 50, 2)));
  Step();
  scheduler().InterruptAll();
  RunUntilIdle();
  waiting.reader.Take();
  running.reader.Take();
  EXPECT_TRUE(absl::IsUnavailable(waiting.reader.status()));
  EXPECT_EQ(running.reader.status(),
            absl::UnavailableError("the server is shutting down"));
  EXPECT_FALSE(end->interrupted);
  EXPECT_EQ(end->kept, nullptr);
  ExpectAtRest();
}

// Running, or in the queue.
TEST_F(PrefixTest, WhoInterruptsSaysWhyAndOthersGoOn) {
  engine_options.num_slots = 2;
  const Request request = Turn(nullptr, 5, 20, 1);
  Submitted goes_on = Submit(request);
  Submitted running = Submit(Keeping(Turn(nullptr, 5, 20, 2)));
  Submitted waiting = Submit(Turn(nullptr, 5, 20, 3));
  Step();
  scheduler().Interrupt(running.id, absl::UnavailableError("its lease lapsed"));
  scheduler().Interrupt(waiting.id, absl::AbortedError("not needed"));
  RunUntilIdle();
  EXPECT_EQ(end->status, absl::UnavailableError("its lease lapsed"));
  EXPECT_TRUE(end->interrupted);
  running.reader.Take();
  EXPECT_EQ(running.reader.status(), absl::UnavailableError("its lease lapsed"));
  waiting.reader.Take();
  EXPECT_EQ(waiting.reader.status(), absl::AbortedError("not needed"));
  goes_on.reader.Take();
  EXPECT_EQ(goes_on.reader.tokens(), Expected(request));
}

TEST_F(PrefixTest, ShutdownInterrupts) {
  Submit(Keeping(Turn(nullptr, 5, 50, 2)));
  Step();
  Step();
  scheduler().Shutdown();
  EXPECT_TRUE(end->interrupted);
  ASSERT_TRUE(end->kept != nullptr);
  EXPECT_EQ(std::ssize(end->kept->history()), 7);
}

TEST_F(PrefixTest, DeviceFaultLeavesTheConversationAsItWas) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 30, 5, 1));
  Submitted submitted = Submit(Keeping(Turn(kept, 3, 50, 2)));
  Step();
  Step();
  engine().FailForward(1, absl::InternalError("fault"));
  RunUntilIdle();
  EXPECT_TRUE(absl::IsInternal(end->status));
  EXPECT_EQ(end->kept, nullptr);
  Run(Turn(kept, 3, 50, 2));
}

// What cannot be read any more must not get into a store, over what is there.
TEST_F(PrefixTest, AFailedDeviceGivesNoImages) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 40, 8, 1));
  engine().FailSaves(absl::InternalError("fault"));
  bool called = false;
  scheduler().GetImage(kept, [&](std::shared_ptr<const PrefixImage> image) {
    EXPECT_TRUE(image == nullptr);
    called = true;
  });
  RunUntilIdle();
  EXPECT_TRUE(called);
}

TEST_F(PrefixTest, WhatIsLostWithTheDeviceEndsTheRequestThatGoesOnFromIt) {
  engine_options.num_pages = 8;
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 60, 20, 1));
  engine().FailSaves(absl::InternalError("fault"));
  // It needs all pages, so the other one has to give way.
  Run(Turn(nullptr, 90, 20, 2));
  EXPECT_EQ(kept->place(), KeptPrefix::Place::kHost);
  Submitted submitted = Submit(Keeping(Turn(kept, 0, 10, 3)));
  RunUntilIdle();
  ASSERT_TRUE(end.has_value());
  EXPECT_TRUE(absl::IsInternal(end->status)) << end->status;
}

TEST_F(PrefixTest, ImageMovesToAnotherServer) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 40, 8, 1));
  std::shared_ptr<const PrefixImage> image;
  scheduler().GetImage(
      kept, [&](std::shared_ptr<const PrefixImage> got) { image = std::move(got); });
  RunUntilIdle();
  ASSERT_TRUE(image != nullptr);
  EXPECT_EQ(kept->place(), KeptPrefix::Place::kDevice);

  FakeEngine other_engine(engine_options);
  Scheduler other(other_engine, options, clock, observer);
  ASSERT_TRUE(other_engine.CheckImage(*image).ok());
  const Request request = Turn(KeptPrefix::Make(kept->history(), image), 5, 9, 2);
  const auto submission = other.Submit(request);
  ASSERT_TRUE(submission.ok());
  while (other.Step()) {
  }
  Reader reader(submission->stream);
  reader.Take();
  EXPECT_EQ(reader.tokens(), Expected(request));
}

// Room on the device for about six of them, and slots for two.
TEST_F(PrefixTest, AnyNumberOfConversationsMakeProgress) {
  engine_options.num_pages = 40;
  engine_options.num_slots = 2;
  std::vector<std::shared_ptr<KeptPrefix>> kept(100);
  for (std::uint64_t turn = 1; turn <= 3; ++turn) {
    for (std::size_t i = 0; i < kept.size(); ++i) {
      kept[i] = Run(Turn(kept[i], 20, 9, 10 * i + turn));
    }
  }
  const auto on_device = std::ranges::count_if(
      kept, [](const auto& k) { return k->place() == KeptPrefix::Place::kDevice; });
  EXPECT_GE(on_device, 5);
  EXPECT_LE(on_device, 7);
  EXPECT_LE(engine().usage().pages_used, 40);
}

TEST_F(PrefixTest, WhatWasUsedLongestAgoGoesFirst) {
  engine_options.num_pages = 8;  // four conversations of two pages
  std::vector<std::shared_ptr<KeptPrefix>> kept;
  for (std::uint64_t i = 0; i < 4; ++i) kept.push_back(Run(Turn(nullptr, 20, 9, i)));
  kept[0] = Run(Turn(kept[0], 0, 2, 9));  // used again
  kept.push_back(Run(Turn(nullptr, 20, 9, 10)));
  EXPECT_EQ(kept[0]->place(), KeptPrefix::Place::kDevice);
  EXPECT_EQ(kept[1]->place(), KeptPrefix::Place::kHost);
}

TEST_F(PrefixTest, OneThatFillsThePoolCanGoOn) {
  engine_options.num_pages = 8;  // 128 tokens
  std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 60, 20, 1));
  const std::shared_ptr<KeptPrefix> other = Run(Turn(nullptr, 90, 20, 2));
  kept = Run(Turn(kept, 0, 32, 3));  // 7 pages, and the partly filled one of the base
  EXPECT_EQ(other->place(), KeptPrefix::Place::kHost);
  const auto refused = scheduler().Submit(Turn(kept, 10, 20, 4));
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
}

TEST_F(PrefixTest, MovedToHostOnDemandComesBack) {
  std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 40, 8, 1));
  scheduler().MoveToHost(kept);
  RunUntilIdle();
  EXPECT_EQ(kept->place(), KeptPrefix::Place::kHost);
  EXPECT_EQ(engine().usage().pages_used, 0);
  EXPECT_GT(kept->host_bytes(), 40 * 4);
  Run(Turn(kept, 2, 4, 2));
  EXPECT_EQ(kept->place(), KeptPrefix::Place::kDevice);
}

// Copies for others are as large as they are; admission has its part of every step.
TEST_F(PrefixTest, NobodyWaitsForEverForMemoryWhileOthersCopy) {
  engine_options.num_pages = 16;
  engine_options.state_bytes = 70 << 20;  // more than a step may copy
  const std::shared_ptr<KeptPrefix> idle = Run(Turn(nullptr, 60, 4, 1));
  const std::shared_ptr<KeptPrefix> copied = Run(Turn(nullptr, 20, 4, 2));
  Submitted running = Submit(Generation(16, 100, 3));
  Step();
  Submitted waiting = Submit(Generation(60, 30, 4));
  for (int i = 0; i < 5; ++i) {
    scheduler().GetImage(copied, [](auto) {});
    Step();
  }
  waiting.reader.Take();
  EXPECT_FALSE(waiting.reader.tokens().empty());
  EXPECT_EQ(idle->place(), KeptPrefix::Place::kHost);
}

TEST_F(PrefixTest, KeptPrefixesMayOutliveTheScheduler) {
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 40, 8, 1));
  FakeEngine other(engine_options);
  std::shared_ptr<KeptPrefix> orphan;
  {
    Scheduler gone(other, options, clock, observer);
    Request request = Generation(20, 5, 1);
    request.on_end = [&](RequestEnd ended) { orphan = ended.kept; };
    ASSERT_TRUE(gone.Submit(request).ok());
    while (gone.Step()) {
    }
    EXPECT_GT(other.usage().pages_used, 0);
  }
  EXPECT_EQ(other.usage().pages_used, 0);
  ASSERT_TRUE(orphan != nullptr);
  orphan.reset();
}

}  // namespace
}  // namespace goldfinch
