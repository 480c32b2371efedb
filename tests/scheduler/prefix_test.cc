// Requests that go on from what an earlier one kept, and the prefix cache: whatever is
// reused, moved or forgotten, tokens are those of the whole history as one prompt.
#include <gmock/gmock.h>

#include <numeric>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

class PrefixTest : public SchedulerTest {
 protected:
  // A request whose end is kept in `end`.
  Request Keeping(Request request) {
    request.on_end = [this](RequestEnd ended) {
      EXPECT_FALSE(end.has_value()) << "ended twice";
      end = std::move(ended);
    };
    end.reset();
    return request;
  }

  // `tokens` more, generated after the whole of `base` and `prompt` of `seed`.
  static Request Turn(std::shared_ptr<KeptPrefix> base, std::int64_t prompt,
                      std::int64_t tokens, std::uint64_t seed) {
    Request request = Generation(prompt, tokens, seed);
    request.base = std::move(base);
    return request;
  }

  // What the request has to generate, by its whole history.
  static std::vector<TokenId> Expected(const Request& request) {
    Request whole = request;
    if (request.base != nullptr) {
      whole.prompt = request.base->history();
      whole.prompt.insert(whole.prompt.end(), request.prompt.begin(),
                          request.prompt.end());
      whole.base = nullptr;
    }
    return ExpectedTokens(whole);
  }

  // Runs a turn to its end and gives what it kept.
  std::shared_ptr<KeptPrefix> Run(const Request& request) {
    Submitted submitted = Submit(Keeping(request));
    RunUntilIdle();
    submitted.reader.Take();
    EXPECT_TRUE(submitted.reader.status().ok()) << submitted.reader.status();
    EXPECT_EQ(submitted.reader.tokens(), Expected(request));
    EXPECT_TRUE(end.has_value() && end->kept != nullptr);
    return end.has_value() ? end->kept : nullptr;
  }

  std::int64_t PromptTokensRun() const {
    return std::accumulate(observer.steps.begin(), observer.steps.end(), std::int64_t{0},
                           [](std::int64_t sum, const StepReport& step) {
                             return sum + step.prompt_tokens;
                           });
  }

  std::optional<RequestEnd> end;
};

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
    const std::shared_ptr<KeptPrefix> kept = end->kept;
    Run(Turn(kept, 0, 5, 2));
    Run(Turn(kept, 7, 5, 3));
  }
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

class PrefixCacheTest : public PrefixTest {
 protected:
  PrefixCacheTest() { options.prefix_cache_bytes = 1 << 20; }

  static Request Cached(std::vector<TokenId> prompt, std::uint64_t seed,
                        const std::string& tenant = "a") {
    Request request = Generation(0, 4, seed);
    request.prompt = std::move(prompt);
    request.use_prefix_cache = true;
    request.tenant = tenant;
    return request;
  }
  static std::vector<TokenId> Document(std::int64_t tokens, std::uint64_t seed = 99) {
    return Generation(tokens, 1, seed).prompt;
  }
  static std::vector<TokenId> Join(std::vector<TokenId> a,
                                   const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  // Tokens of the prompt that had to be run.
  std::int64_t Ask(const Request& request) {
    const std::int64_t before = PromptTokensRun();
    Submitted submitted = Submit(request);
    RunUntilIdle();
    submitted.reader.Take();
    EXPECT_EQ(submitted.reader.tokens(), Expected(request));
    const std::int64_t run = PromptTokensRun() - before;
    const RequestUsage usage = submitted.reader.candidates[0].finished->usage;
    EXPECT_EQ(usage.prompt_tokens - usage.cached_prompt_tokens, run);
    return run;
  }
};

TEST_F(PrefixCacheTest, ALongerPromptGoesOnFromAShorterOne) {
  EXPECT_EQ(Ask(Cached(Document(100), 1)), 100);
  EXPECT_EQ(Ask(Cached(Document(130), 2)), 100 + 30 - 100 + 0);
}

TEST_F(PrefixCacheTest, AConversationSentWholeGoesOnFromItsLastTurn) {
  const Request first = Cached(Document(100), 1);
  Ask(first);
  const std::vector<TokenId> said = Join(first.prompt, Expected(first));
  // The last token of the turn was never fed.
  EXPECT_EQ(Ask(Cached(Join(said, Document(20, 5)), 2)), 21);
}

TEST_F(PrefixCacheTest, TwentyQuestionsCostTheQuestions) {
  const std::vector<TokenId> document = Document(5000);
  engine_options.num_pages = 4096;
  EXPECT_EQ(Ask(Cached(Join(document, Document(30, 1)), 1)), 5030);
  // The second finds the last rung before the document's end, and leaves a prefix there.
  EXPECT_LE(Ask(Cached(Join(document, Document(30, 2)), 2)), 30 + 64);
  for (std::uint64_t i = 3; i <= 20; ++i) {
    EXPECT_EQ(Ask(Cached(Join(document, Document(30, i)), i)), 30) << i;
  }
}

TEST_F(PrefixCacheTest, TheSamePromptCostsOneTokenFromTheThirdTimeOn) {
  EXPECT_EQ(Ask(Cached(Document(200), 1)), 200);
  EXPECT_EQ(Ask(Cached(Document(200), 2)), 200);
  EXPECT_EQ(Ask(Cached(Document(200), 3)), 1);
}

TEST_F(PrefixCacheTest, TenantsShareNothing) {
  EXPECT_EQ(Ask(Cached(Document(100), 1, "a")), 100);
  EXPECT_EQ(Ask(Cached(Document(130), 1, "b")), 130);
}

TEST_F(PrefixCacheTest, CandidatesOfOnePromptShareTheHit) {
  Ask(Cached(Document(100), 1));
  Request request = Cached(Document(150), 2);
  request.num_candidates = 3;
  Submitted submitted = Submit(request);
  RunUntilIdle();
  submitted.reader.Take();
  for (std::int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(submitted.reader.tokens(i), ExpectedTokens(request, i));
    EXPECT_EQ(submitted.reader.candidates[i].finished->usage.cached_prompt_tokens, 100);
  }
  // They left a prefix where they parted.
  EXPECT_EQ(Ask(Cached(Document(150), 4)), 1);
}

TEST_F(PrefixCacheTest, TheSamePromptAgainAndAgainIsItsLastToken) {
  EXPECT_EQ(Ask(Cached(Document(150), 1)), 150);
  EXPECT_EQ(Ask(Cached(Document(150), 2)), 150) << "kept there now";
  EXPECT_EQ(Ask(Cached(Document(150), 3)), 1);
  EXPECT_EQ(Ask(Cached(Document(150), 4)), 1);
}

// What goes on from the middle of a page takes one page more than there is.
TEST_F(PrefixCacheTest, ARequestOfTheWholePoolStartsWhateverTheCacheHas) {
  engine_options.num_pages = 8;
  Request request = Cached(Document(40), 1);
  request.max_tokens = 8 * engine_options.page_tokens - 40 + 1;
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Ask(request), 40);
}

TEST_F(PrefixCacheTest, ScoresOfOneContextShareIt) {
  const auto score = [&](std::uint64_t seed) {
    Request request;
    request.kind = RequestKind::kScore;
    request.prompt = Document(100);
    request.continuation = Document(10, seed);
    request.use_prefix_cache = true;
    request.tenant = "a";
    Submitted submitted = Submit(request);
    RunUntilIdle();
    submitted.reader.Take();
    const auto expected =
        FakeEngine::ExpectedScores(request.prompt, request.continuation);
    const std::vector<ScoredToken>& scores = submitted.reader.scores->scores;
    EXPECT_EQ(scores.size(), expected.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      EXPECT_EQ(scores[i].logprob, expected[i].logprob);
    }
    return submitted.reader.scores->usage.cached_prompt_tokens;
  };
  EXPECT_EQ(score(1), 0);
  EXPECT_EQ(score(2), 99) << "all but the token whose logits come first";
  EXPECT_EQ(score(3), 99);
}

// A running request has its own share in the pages of what it went on from. What the
// cache alone holds then is forgotten for others, not copied.
TEST_F(PrefixCacheTest, NothingIsCopiedOutForWhoHasGoneOnFromIt) {
  engine_options.num_pages = 16;
  Ask(Cached(Document(100), 1));
  Request goes_on = Cached(Document(130), 2);
  goes_on.max_tokens = 60;
  Submitted runs = Submit(goes_on);
  Step();
  EXPECT_EQ(engine().usage().pages_open, 12);
  const Request other = Generation(50, 14, 3);  // four pages, where three are free
  Submitted comes = Submit(other);
  RunUntilIdle();
  runs.reader.Take();
  comes.reader.Take();
  EXPECT_EQ(runs.reader.tokens(), Expected(goes_on));
  EXPECT_EQ(comes.reader.tokens(), Expected(other));
  EXPECT_EQ(engine().num_saves(), 0);
}

TEST_F(PrefixCacheTest, MissesSayWhy) {
  std::map<PrefixLookup, int> seen;
  options.prefix_cache_bytes = 3000;
  observer.on_lookup = [&](PrefixLookup lookup) { ++seen[lookup]; };
  Ask(Cached(Document(10), 1));  // too short to ask
  EXPECT_TRUE(seen.empty());
  Ask(Cached(Document(100), 1));
  EXPECT_EQ(seen[PrefixLookup::kCold], 1);
  Ask(Cached(Document(120), 1));
  EXPECT_EQ(seen[PrefixLookup::kHit], 1);
  Ask(Cached(Join(Document(80), Document(20, 7)), 1));
  EXPECT_EQ(seen[PrefixLookup::kNotKeptThere], 1);
  for (std::uint64_t i = 0; i < 20; ++i) Ask(Cached(Document(100, 200 + i), 1));
  Ask(Cached(Document(120), 1));
  EXPECT_EQ(seen[PrefixLookup::kEvicted], 1);
}

TEST_F(PrefixCacheTest, StaysWithinItsBudgetAndGivesPagesBack) {
  options.prefix_cache_bytes = 40000;
  for (std::uint64_t i = 0; i < 50; ++i) {
    Ask(Cached(Document(200, i), 1));
    EXPECT_LE(observer.levels.prefix_cache_bytes, 40000);
  }
  EXPECT_GT(observer.levels.prefix_cache_evictions, 0u);
  // A request that needs every page gets them.
  const std::int64_t all = engine_options.num_pages * engine_options.page_tokens;
  Request large = Generation(100, all - 100, 7);
  large.max_tokens = 10;
  Submitted submitted = Submit(large);
  RunUntilIdle();
  submitted.reader.Take();
  EXPECT_EQ(submitted.reader.tokens(), ExpectedTokens(large));
}

TEST_F(PrefixCacheTest, PagesOfTheCacheCountAsFree) {
  engine_options.num_pages = 16;
  for (std::uint64_t i = 0; i < 10; ++i) Ask(Cached(Document(120, i), 1));
  EXPECT_GT(engine().usage().pages_used, 8);
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 240, 16, 3));
  EXPECT_EQ(std::ssize(kept->history()), 256);
}

TEST_F(PrefixCacheTest, ATurnOfAConversationIsThereForPromptsThatBeginLikeIt) {
  Request turn = Turn(nullptr, 60, 5, 1);
  turn.tenant = "a";
  turn = Turn(Run(turn), 10, 5, 2);
  turn.tenant = "a";
  const std::shared_ptr<KeptPrefix> kept = Run(turn);
  EXPECT_EQ(Ask(Cached(Join(kept->history(), Document(20)), 3)), 21);
}

// An image may have other bits than this server computes, or be forged. Who goes on from
// it knows that; others are told nothing.
TEST_F(PrefixCacheTest, NothingThatCameAsAnImageReachesOtherCalls) {
  engine_options.num_slots = 2;
  const std::shared_ptr<KeptPrefix> honest = Run(Turn(nullptr, 60, 5, 1));
  std::shared_ptr<const PrefixImage> image;
  scheduler().GetImage(
      honest, [&](std::shared_ptr<const PrefixImage> got) { image = std::move(got); });
  RunUntilIdle();
  ASSERT_TRUE(image != nullptr);
  auto state =
      std::make_shared<std::vector<std::byte>>(image->state.begin(), image->state.end());
  state->front() ^= std::byte{1};
  auto forged = std::make_shared<PrefixImage>(*image);
  forged->state = *state;
  ASSERT_TRUE(engine().CheckImage(*forged).ok());

  std::shared_ptr<KeptPrefix> kept = KeptPrefix::Make(honest->history(), forged);
  // A turn; another one; one that is put aside and cancelled there. A tenant for each, as
  // what each asks for itself is kept.
  for (const std::string tenant : {"once", "again", "aside"}) {
    const bool put_aside = tenant == "aside";
    Request turn = Turn(kept, 1, put_aside ? 200 : 1, 2);
    turn.use_prefix_cache = true;
    turn.tenant = tenant;
    Request beside = Generation(1, 200, 4);
    beside.tenant = tenant;
    if (put_aside) Submit(beside);
    const Submitted submitted = Submit(Keeping(turn));
    if (put_aside) {
      for (int i = 0; i < 5; ++i) Step();
      Request newcomer = Generation(1, 5, 3);
      newcomer.tenant = "b";
      Submit(newcomer);
      Step();
      ASSERT_EQ(observer.levels.aside_requests, 1);
      scheduler().Cancel(submitted.id);
    }
    RunUntilIdle();
    ASSERT_TRUE(end.has_value() && end->kept != nullptr);
    kept = end->kept;
    const std::vector<TokenId> prompt = Join(kept->history(), Document(20));
    EXPECT_EQ(Ask(Cached(prompt, 3, tenant)), std::ssize(prompt)) << tenant;
  }
}

// Conversations, forks, interruptions, cached prompts and a pool too small for them, in
// any order.
TEST_F(PrefixCacheTest, RandomTrafficNeverChangesAToken) {
  std::mt19937_64 random(5);
  engine_options.num_pages = 60;
  engine_options.num_slots = 4;
  options.step_tokens = 40;
  options.prefix_cache_bytes = 20000;
  std::vector<std::shared_ptr<KeptPrefix>> kept(12);
  struct Live {
    Request request;
    Submitted submitted;
    std::size_t conversation = 0;
    std::shared_ptr<RequestEnd> end = std::make_shared<RequestEnd>();
    bool broken_off = false;
  };
  std::vector<std::unique_ptr<Live>> live;
  for (int step = 0; step < 6000; ++step) {
    if (live.size() < 6 && random() % 2 == 0) {
      auto next = std::make_unique<Live>();
      next->conversation = random() % kept.size();
      const std::uint64_t seed = random() % 50;
      if (random() % 3 == 0) {
        next->request = Cached(Join(Document(static_cast<std::int64_t>(random() % 300)),
                                    Document(1 + static_cast<std::int64_t>(seed), seed)),
                               seed);
        next->conversation = kept.size();
      } else {
        auto base = kept[next->conversation];
        if (base != nullptr && std::ssize(base->history()) > 400) base = nullptr;
        next->request = Turn(base, 1 + static_cast<std::int64_t>(random() % 60),
                             1 + static_cast<std::int64_t>(random() % 20), seed);
        next->request.on_end = [end = next->end](RequestEnd e) { *end = std::move(e); };
      }
      next->submitted = Submit(next->request);
      live.push_back(std::move(next));
    }
    if (!live.empty() && random() % 20 == 0) {
      Live& one = *live[random() % live.size()];
      one.broken_off = true;
      if (random() % 2 == 0) {
        scheduler().Cancel(one.submitted.id);
      } else {
        scheduler().Interrupt(one.submitted.id, absl::UnavailableError("interrupted"));
      }
    }
    if (random() % 50 == 0 && kept[step % kept.size()] != nullptr) {
      scheduler().MoveToHost(kept[step % kept.size()]);
    }
    Step();
    for (auto& one : live) {
      one->submitted.reader.Take();
      if (!one->submitted.reader.ended()) continue;
      const std::vector<TokenId> tokens = one->submitted.reader.tokens();
      std::vector<TokenId> expected = Expected(one->request);
      if (one->broken_off) expected.resize(std::min(expected.size(), tokens.size()));
      ASSERT_EQ(tokens, expected);
      if (one->end->kept != nullptr) kept[one->conversation] = one->end->kept;
      one.reset();
    }
    std::erase(live, nullptr);
    ASSERT_LE(engine().usage().pages_used, 60);
  }
  RunUntilIdle();
  EXPECT_EQ(engine().usage().pages_open, 0);
  EXPECT_EQ(engine().usage().slots_used, 0);
}

}  // namespace
}  // namespace goldfinch
