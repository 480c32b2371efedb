// On an engine that computes prompts in blocks (EngineInfo::prompt_grid), where they are
// cut, what is kept of them and what they go on from change no token: every request
// produces what it does alone, fed whole. The fake engine checks the cuts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

constexpr std::int32_t kGrid = 16;

class PromptGridTest : public SchedulerTest {
 protected:
  PromptGridTest() {
    engine_options.prompt_grid = kGrid;
    options.prefix_cache_bytes = 1 << 20;
  }

  static std::vector<TokenId> Alone(const Request& request, std::int32_t candidate = 0) {
    SamplingParams sampling = request.sampling;
    sampling.candidate = static_cast<std::uint32_t>(candidate);
    return FakeEngine::Expected(request.prompt, sampling, request.max_tokens, 1000,
                                kGrid);
  }

  static std::vector<TokenId> Join(std::vector<TokenId> a,
                                   const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  static void ExpectAsAlone(const Request& request, Reader& reader) {
    ASSERT_TRUE(reader.ended());
    ASSERT_TRUE(reader.status().ok()) << reader.status();
    if (request.kind == RequestKind::kScore) {
      const auto expected =
          FakeEngine::ExpectedScores(request.prompt, request.continuation, kGrid);
      ASSERT_EQ(reader.scores->scores.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_EQ(reader.scores->scores[i].logprob, expected[i].logprob);
      return;
    }
    for (std::int32_t i = 0; i < request.num_candidates; ++i)
      EXPECT_EQ(reader.tokens(i), Alone(request, i));
  }
};

class PromptBudgetTest : public PromptGridTest,
                         public testing::WithParamInterface<std::int64_t> {};

TEST_P(PromptBudgetTest, APromptOfAnyLengthGivesItsTokens) {
  options.step_tokens = GetParam();
  for (const std::int64_t prompt : {1, 2, 15, 16, 17, 18, 32, 33, 100}) {
    const Request request = Generation(prompt, 5, static_cast<std::uint64_t>(prompt));
    Submitted call = Submit(request);
    RunUntilIdle();
    call.reader.Take();
    ExpectAsAlone(request, call.reader);
  }
}

INSTANTIATE_TEST_SUITE_P(Budgets, PromptBudgetTest, testing::Values(1, 7, 16, 40, 512));

// Prompts that begin alike, in every way a request can be made, beside each other and
// with too little room: they go on from what others left, are put aside and come back.
TEST_F(PromptGridTest, WhatIsCachedOrPutAsideChangesNoToken) {
  options.step_tokens = 48;
  engine_options.num_pages = 140;
  engine_options.num_slots = 9;
  std::mt19937_64 random(5);
  const auto between = [&](std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() %
                                           static_cast<std::uint64_t>(high - low + 1));
  };
  const std::vector<TokenId> document = Generation(300, 1, 77).prompt;
  std::vector<Request> requests;
  std::vector<Submitted> calls;
  int hits = 0;
  observer.on_lookup = [&hits](PrefixLookup lookup) {
    hits += lookup == PrefixLookup::kHit;
  };
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Request request = Generation(between(1, 60), between(1, 30), seed);
    const std::int64_t shared = between(0, 300);
    request.prompt.insert(request.prompt.begin(), document.begin(),
                          document.begin() + shared);
    if (!requests.empty() && random() % 2 == 0) {  // or like another one, all of it
      const std::vector<TokenId>& other = requests[random() % requests.size()].prompt;
      request.prompt.insert(request.prompt.begin(), other.begin(), other.end());
      if (request.prompt.size() > 500) request.prompt.resize(500);
    }
    request.use_prefix_cache = random() % 8 != 0;
    request.tenant = std::string(1, static_cast<char>('a' + random() % 2));
    request.priority = static_cast<std::int32_t>(between(0, 2));
    if (random() % 4 == 0) request.num_candidates = 3;
    if (random() % 5 == 0) {
      request.num_candidates = 1;
      request.kind = RequestKind::kScore;
      request.continuation = Generation(between(1, 60), 1, seed + 1000).prompt;
    }
    requests.push_back(request);
    calls.push_back(Submit(std::move(request)));
    for (std::int64_t step = between(0, 3); step > 0; --step) Step();
    for (Submitted& call : calls) call.reader.Take();
  }
  while (Step())
    for (Submitted& call : calls) call.reader.Take();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    calls[i].reader.Take();
    ExpectAsAlone(requests[i], calls[i].reader);
  }
  EXPECT_GT(hits, 20);
}

TEST_F(PromptGridTest, TheSecondPromptGoesOnFromTheLastBlockOfTheFirst) {
  Request first = Generation(100, 3, 1);
  first.use_prefix_cache = true;
  Submit(first);
  RunUntilIdle();
  Request second = Generation(30, 3, 2);
  second.use_prefix_cache = true;
  second.prompt = Join(first.prompt, second.prompt);
  Submitted call = Submit(second);
  RunUntilIdle();
  call.reader.Take();
  ExpectAsAlone(second, call.reader);
  EXPECT_EQ(call.reader.candidates[0].finished->usage.cached_prompt_tokens, 96);
}

// What was generated is not what the same tokens become as a prompt, and a prompt that
// went on from that is none either.
TEST_F(PromptGridTest, NothingGeneratedIsCached) {
  Request first = Generation(100, 189, 1);
  first.use_prefix_cache = true;
  const std::vector<TokenId> said = Join(first.prompt, Alone(first));
  std::optional<RequestEnd> end;
  Request cut = first;
  cut.on_end = [&end](RequestEnd e) { end = std::move(e); };
  Submitted call = Submit(std::move(cut));
  while (Step()) call.reader.Take();
  ASSERT_TRUE(end.has_value());
  ASSERT_EQ(end->kept->length(), 288);

  Request turn = Generation(32, 1, 5);
  turn.kind = RequestKind::kPrefill;
  const std::vector<TokenId> whole = Join(said, turn.prompt);
  ASSERT_EQ(std::ssize(whole) - 1, 320);
  turn.base = end->kept;
  turn.on_end = [](RequestEnd) {};
  Submit(turn);
  RunUntilIdle();

  Request second = Generation(1, 3, 2);
  second.use_prefix_cache = true;
  second.prompt = Join(whole, Generation(5, 1, 6).prompt);
  call = Submit(second);
  RunUntilIdle();
  call.reader.Take();
  ExpectAsAlone(second, call.reader);
  EXPECT_EQ(call.reader.candidates[0].finished->usage.cached_prompt_tokens, 96);
}

// A generation that is cut off at any step, wherever its prompt is by then, goes on as if
// nothing had happened.
TEST_F(PromptGridTest, AnInterruptedGenerationGoesOnWithItsTokens) {
  options.step_tokens = 20;
  const Request request = Generation(90, 12, 3);
  const std::vector<TokenId> expected = Alone(request);
  for (int steps = 1; steps < 18; ++steps) {
    std::optional<RequestEnd> end;
    Request cut = request;
    cut.on_end = [&end](RequestEnd e) { end = std::move(e); };
    Submitted call = Submit(std::move(cut));
    for (int i = 0; i < steps; ++i) Step();
    scheduler().Interrupt(call.id, absl::UnavailableError("interrupted"));
    RunUntilIdle();
    call.reader.Take();
    ASSERT_TRUE(end.has_value()) << steps;
    if (!end->interrupted) continue;
    ASSERT_NE(end->kept, nullptr);
    std::vector<TokenId> tokens = call.reader.tokens();
    Request rest = request;
    rest.prompt.clear();
    rest.base = end->kept;
    rest.num_generated = end->num_generated;
    call = Submit(std::move(rest));
    RunUntilIdle();
    call.reader.Take();
    ASSERT_TRUE(call.reader.status().ok()) << call.reader.status();
    const std::vector<TokenId>& more = call.reader.tokens();
    tokens.insert(tokens.end(), more.begin(), more.end());
    EXPECT_EQ(tokens, expected) << steps;
  }
}

}  // namespace
}  // namespace goldfinch
