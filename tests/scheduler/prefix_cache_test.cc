// The prefix cache: what is found in it, what goes for want of space, and that no token
// depends on either.
#include "scheduler/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/prefix_fixture.h"

namespace goldfinch {
namespace {

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

// What is remembered of entries that went is bounded: the oldest are forgotten, and then
// a miss is one of something that was never there.
class PrefixMemoryTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kRemembered = 4096;

  void ComeAndGo(std::uint64_t seed) {
    const auto kept = KeptPrefix::Make(Beginning(seed), nullptr);
    cache_.Insert("a", Beginning(seed), kept);
    EXPECT_EQ(cache_.num_entries(), 1);
    cache_.Forget(*kept);
  }
  PrefixLookup Outcome(std::uint64_t seed) {
    PrefixCache::Lookup lookup;
    cache_.Find("a", Beginning(seed), PrefixCache::kMinTokens, lookup);
    return lookup.outcome;
  }

 private:
  static std::vector<TokenId> Beginning(std::uint64_t seed) {
    return Generation(PrefixCache::kMinTokens, 1, seed).prompt;
  }

  PrefixCache cache_{1 << 20};
};

TEST_F(PrefixMemoryTest, WhatWentLongAgoIsForgotten) {
  for (std::uint64_t seed = 0; seed < kRemembered; ++seed) ComeAndGo(seed);
  EXPECT_EQ(Outcome(0), PrefixLookup::kEvicted);
  ComeAndGo(kRemembered);
  EXPECT_EQ(Outcome(0), PrefixLookup::kCold);
  EXPECT_EQ(Outcome(1), PrefixLookup::kEvicted);
  EXPECT_EQ(Outcome(kRemembered), PrefixLookup::kEvicted);
}

TEST_F(PrefixMemoryTest, WhatWentAgainIsRememberedForAsLongAsOthers) {
  for (std::uint64_t seed = 0; seed < kRemembered; ++seed) ComeAndGo(seed);
  ComeAndGo(0);
  EXPECT_EQ(Outcome(0), PrefixLookup::kEvicted);
}

// What waits asks in every step.
class PrefixLookupTest : public testing::Test {
 protected:
  static std::vector<TokenId> Tokens(std::int64_t num, std::uint64_t seed = 1) {
    return Generation(num, 1, seed).prompt;
  }
  static std::shared_ptr<KeptPrefix> Insert(PrefixCache& cache,
                                            const std::vector<TokenId>& tokens) {
    const auto kept = KeptPrefix::Make(tokens, nullptr);
    cache.Insert("a", tokens, kept);
    return kept;
  }
  static const KeptPrefix* Find(PrefixCache& cache, const std::vector<TokenId>& prompt,
                                PrefixCache::Lookup& lookup) {
    return cache.Find("a", prompt, 200, lookup).prefix.get();
  }
};

TEST_F(PrefixLookupTest, TokensAreComparedAgainWhenEntriesHaveComeOrGone) {
  PrefixCache cache(1 << 20);
  PrefixCache::Lookup lookup;
  const auto shorter = Insert(cache, Tokens(64));
  EXPECT_EQ(Find(cache, Tokens(200), lookup), shorter.get());
  // Others would not be found: nobody looks.
  EXPECT_EQ(Find(cache, Tokens(200, 2), lookup), shorter.get());
  const auto longer = Insert(cache, Tokens(100));
  EXPECT_EQ(Find(cache, Tokens(200), lookup), longer.get());
  cache.Forget(*longer);
  EXPECT_EQ(longer.use_count(), 1) << "so that it is dropped, not moved";
  EXPECT_EQ(Find(cache, Tokens(200), lookup), shorter.get());
  EXPECT_EQ(lookup.outcome, PrefixLookup::kHit);
  cache.Forget(*shorter);
  EXPECT_EQ(Find(cache, Tokens(200), lookup), nullptr);
  EXPECT_EQ(lookup.outcome, PrefixLookup::kEvicted);
}

TEST_F(PrefixLookupTest, WhatIsAskedForAgainIsInUse) {
  PrefixCache measured(1 << 20);
  for (const std::uint64_t seed : {1u, 2u}) Insert(measured, Tokens(100, seed));
  PrefixCache cache(measured.bytes());
  PrefixCache::Lookup first, second;
  for (const std::uint64_t seed : {1u, 2u}) Insert(cache, Tokens(100, seed));
  EXPECT_NE(Find(cache, Tokens(200, 1), first), nullptr);
  EXPECT_NE(Find(cache, Tokens(200, 2), second), nullptr);
  EXPECT_NE(Find(cache, Tokens(200, 1), first), nullptr);
  Insert(cache, Tokens(100, 3));
  EXPECT_NE(Find(cache, Tokens(200, 1), first), nullptr);
  EXPECT_EQ(Find(cache, Tokens(200, 2), second), nullptr);
}

TEST_F(PrefixCacheTest, WhoWaitsGoesOnFromWhatCameMeanwhile) {
  engine_options.num_pages = 16;
  std::map<PrefixLookup, int> seen;
  observer.on_lookup = [&](PrefixLookup lookup) { ++seen[lookup]; };
  Request first = Cached(Document(100), 1);
  first.max_tokens = 140;
  const Request second = Cached(Document(130), 2);
  Submitted runs = Submit(first);
  Submitted waits = Submit(second);
  Step();
  EXPECT_EQ(observer.levels.waiting_requests, 1);
  RunUntilIdle();
  runs.reader.Take();
  waits.reader.Take();
  EXPECT_EQ(runs.reader.tokens(), Expected(first));
  EXPECT_EQ(waits.reader.tokens(), Expected(second));
  EXPECT_EQ(waits.reader.candidates[0].finished->usage.cached_prompt_tokens, 100);
  EXPECT_EQ(seen, (std::map<PrefixLookup, int>{{PrefixLookup::kCold, 1},
                                               {PrefixLookup::kHit, 1}}));
}

// The session's copy is in host memory from then on, and so is no place to go on from at
// once.
TEST_F(PrefixCacheTest, ATurnThatMovesToHostMemoryIsNotFoundAnyMore) {
  const auto after = [&](bool moves, std::uint64_t seed) {
    const Request first = Cached(Document(100, seed), 1);
    const std::shared_ptr<KeptPrefix> kept = Run(first);
    if (moves) scheduler().MoveToHost(kept);
    RunUntilIdle();
    EXPECT_EQ(kept->place(),
              moves ? KeptPrefix::Place::kHost : KeptPrefix::Place::kDevice);
    return Ask(Cached(Join(kept->history(), Document(20, 5)), 2));
  };
  EXPECT_EQ(after(false, 70), 20 + 1) << "from the end of the turn";
  EXPECT_EQ(after(true, 71), 20 + 4) << "from the end of its prompt";
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
  EXPECT_EQ(observer.levels.prefix_cache_forgotten, 0u) << "there were pages enough";
}

TEST_F(PrefixCacheTest, StatesAreWhatTheBudgetIsFor) {
  engine_options.state_bytes = 4096;
  options.prefix_cache_bytes = 40000;
  for (std::uint64_t i = 0; i < 20; ++i) {
    Ask(Cached(Document(40, i), 1));
    EXPECT_GE(observer.levels.prefix_cache_bytes,
              observer.levels.prefix_cache_entries * 4096);
    EXPECT_LE(observer.levels.prefix_cache_bytes, 40000);
  }
  EXPECT_GE(observer.levels.prefix_cache_entries, 5);
}

TEST_F(PrefixCacheTest, PagesOfTheCacheCountAsFree) {
  engine_options.num_pages = 16;
  for (std::uint64_t i = 0; i < 10; ++i) Ask(Cached(Document(120, i), 1));
  EXPECT_GT(engine().usage().pages_used, 8);
  const std::uint64_t forgotten = observer.levels.prefix_cache_forgotten;
  const std::int64_t entries = observer.levels.prefix_cache_entries;
  EXPECT_GT(forgotten, 0u);
  // All pages but the one that it would need to be resumed.
  const std::shared_ptr<KeptPrefix> kept = Run(Turn(nullptr, 225, 16, 3));
  EXPECT_EQ(observer.levels.prefix_cache_evictions, 0u) << "there was room enough";
  EXPECT_GE(observer.levels.prefix_cache_forgotten - forgotten,
            static_cast<std::uint64_t>(entries - observer.levels.prefix_cache_entries));
  EXPECT_EQ(std::ssize(kept->history()), 241);
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
