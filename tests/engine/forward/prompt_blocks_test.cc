// Prompts on a device that computes them in blocks (EngineInfo::prompt_grid): what comes
// after one has the same bits wherever it was cut on the grid, whatever shared its steps
// and wherever it was kept in between; and it is what the CPU makes of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/backend/create_backend.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kAfter = 6;  // tokens whose logits are asked for

struct Model {
  std::string name;
  ComputeType type;
};
void PrintTo(const Model& model, std::ostream* out) { *out << model.name; }

class PromptBlocksTest : public testing::TestWithParam<std::tuple<Model, std::string>> {
 protected:
  void SetUp() override {
    const std::string backend = std::get<1>(GetParam());
    if (backend == "cuda" && !CreateBackend({.kind = backend}).ok())
      GTEST_SKIP() << "no CUDA device";
    engine_ = Make(backend);
    grid_ = engine_->info().prompt_grid;
    ASSERT_GT(grid_, 1);
  }

  std::unique_ptr<ModelEngine> Make(const std::string& backend) const {
    return MakeEngine(folder_.path(), type(), [&](ModelEngineOptions& options) {
      options.backend.kind = backend;
      options.page_tokens = 16;
      options.max_step_tokens = 320;
    });
  }
  ComputeType type() const { return std::get<0>(GetParam()).type; }
  std::vector<TokenId> Tokens(std::int64_t prompt, std::uint64_t seed = 1) const {
    return RandomTokens(prompt + kAfter, engine_->info().vocab_size, seed);
  }

  // Runs [begin, end) of the tokens of a sequence, of which `prompt` are prompt; gives
  // the logits if there are any to be had.
  std::vector<float> Run(Engine& engine, SequenceId id, std::span<const TokenId> tokens,
                         std::int64_t begin, std::int64_t end) const {
    std::vector<float> logits;
    const Span span = SpanOf(engine, id, tokens, begin, end, logits);
    Forward(engine, std::span(&span, 1));
    return logits;
  }
  static Span SpanOf(Engine& engine, SequenceId id, std::span<const TokenId> tokens,
                     std::int64_t begin, std::int64_t end, std::vector<float>& logits) {
    const auto part = tokens.subspan(static_cast<std::size_t>(begin),
                                     static_cast<std::size_t>(end - begin));
    if (begin >= std::ssize(tokens) - kAfter)
      return LogitsSpan(id, part, 0, logits, engine.info().vocab_size);
    Span span;
    span.sequence = id;
    span.tokens = part;
    return span;
  }
  static SequenceId Open(Engine& engine, std::span<const TokenId> tokens) {
    return OpenSequence(engine, std::ssize(tokens), std::ssize(tokens) - kAfter);
  }

  // The logits after a prompt that is fed `step` tokens at a time, and what comes after
  // it one at a time.
  std::vector<float> Feed(Engine& engine, std::span<const TokenId> tokens,
                          std::int64_t step) const {
    const std::int64_t count = std::ssize(tokens), prompt = count - kAfter;
    const SequenceId id = Open(engine, tokens);
    std::vector<float> all;
    for (std::int64_t at = 0; at < count;) {
      const std::int64_t end = at < prompt ? std::min(at + step, prompt) : at + 1;
      const std::vector<float> logits = Run(engine, id, tokens, at, end);
      all.insert(all.end(), logits.begin(), logits.end());
      at = end;
    }
    engine.Close(id);
    return all;
  }

  const ModelFolder folder_{FamilyConfig(std::get<0>(GetParam()).name)};
  std::unique_ptr<ModelEngine> engine_;
  std::int64_t grid_ = 0;
};

TEST_P(PromptBlocksTest, CutsOnTheGridChangeNoBitsAndTheCpuAgrees) {
  const auto cpu = Make("cpu");
  for (const std::int64_t prompt : {grid_, 3 * grid_ - 27}) {
    const std::vector<TokenId> tokens =
        Tokens(prompt, static_cast<std::uint64_t>(prompt));
    const std::vector<float> whole = Feed(*engine_, tokens, prompt);
    for (const std::int64_t blocks : {1, 2})
      EXPECT_TRUE(SameBits(Feed(*engine_, tokens, blocks * grid_), whole))
          << prompt << " tokens, " << blocks << " blocks a step";
    // Blocks there are: without a whole one between two cuts, bits differ.
    EXPECT_FALSE(SameBits(Feed(*engine_, tokens, grid_ - 1), whole)) << prompt;
    const std::vector<float> expected = Feed(*cpu, tokens, prompt);
    ASSERT_EQ(whole.size(), expected.size());
    float error = 0;
    for (std::size_t i = 0; i < whole.size(); ++i)
      error = std::max(error, std::abs(whole[i] - expected[i]));
    EXPECT_LE(error, type() == ComputeType::kF32 ? 2e-5f : 3e-2f) << prompt;
  }
}

// Decoding rows come before those of prompts in a step, whatever the order of its spans.
TEST_P(PromptBlocksTest, SequencesBesideOthersHaveTheBitsOfThoseAlone) {
  struct Member {
    std::vector<TokenId> tokens;
    std::vector<float> alone, beside, logits;
    SequenceId id = SequenceId::kNone;
    std::int64_t fed = 0;
  };
  std::mt19937_64 random(3);
  std::vector<Member> members(4);
  for (Member& member : members) {
    const auto prompt = static_cast<std::int64_t>(random() % 150);
    member.tokens = Tokens(prompt, random());
    member.alone = Feed(*engine_, member.tokens, std::max<std::int64_t>(prompt, 1));
    member.id = Open(*engine_, member.tokens);
  }
  for (bool busy = true; busy;) {
    std::vector<Span> batch;
    std::vector<Member*> running;
    for (Member& member : members) {
      const std::int64_t count = std::ssize(member.tokens), prompt = count - kAfter;
      if (member.fed == count || random() % 3 == 0) continue;
      const std::int64_t end =
          member.fed < prompt ? std::min(member.fed + grid_, prompt) : member.fed + 1;
      member.logits.clear();
      batch.push_back(
          SpanOf(*engine_, member.id, member.tokens, member.fed, end, member.logits));
      member.fed = end;
      running.push_back(&member);
    }
    if (!batch.empty()) Forward(*engine_, batch);
    for (Member* member : running)
      member->beside.insert(member->beside.end(), member->logits.begin(),
                            member->logits.end());
    busy = std::ranges::any_of(members, [](const Member& member) {
      return member.fed < std::ssize(member.tokens);
    });
  }
  for (const Member& member : members) {
    EXPECT_TRUE(SameBits(member.beside, member.alone)) << member.tokens.size();
    engine_->Close(member.id);
  }
}

// Kept on the grid, in host memory in between, and gone on from.
TEST_P(PromptBlocksTest, AKeptPromptGoesOnWithTheBitsOfTheWholeOne) {
  const std::int64_t prompt = 2 * grid_ + 11;
  const std::vector<TokenId> tokens = Tokens(prompt);
  const std::vector<float> whole = Feed(*engine_, tokens, prompt);
  for (const std::int64_t at : {grid_, 2 * grid_}) {
    const SequenceSpec spec = {
        .max_tokens = std::ssize(tokens), .first_logits = prompt, .keep_at = {at}};
    absl::StatusOr<SequenceId> id = engine_->Open(spec);
    ASSERT_TRUE(id.ok());
    Run(*engine_, *id, tokens, 0, at);
    const PrefixId kept = engine_->Keep(*id);
    engine_->Close(*id);
    PrefixImage image;
    ASSERT_TRUE(engine_->Save(kept, image).ok());
    engine_->Drop(kept);
    const absl::StatusOr<PrefixId> loaded = engine_->Load(image);
    ASSERT_TRUE(loaded.ok());
    id = engine_->OpenFrom(*loaded,
                           {.max_tokens = spec.max_tokens, .first_logits = prompt},
                           std::span(tokens).first(static_cast<std::size_t>(at)));
    ASSERT_TRUE(id.ok());
    std::vector<float> logits;
    for (std::int64_t begin = at; begin < spec.max_tokens;) {
      const std::int64_t end = begin < prompt ? prompt : begin + 1;
      const std::vector<float> some = Run(*engine_, *id, tokens, begin, end);
      logits.insert(logits.end(), some.begin(), some.end());
      begin = end;
    }
    EXPECT_TRUE(SameBits(logits, whole)) << at;
    engine_->Close(*id);
    engine_->Drop(*loaded);
  }
}

// With v2 and without, with the bonus of the current token and without.
INSTANTIATE_TEST_SUITE_P(
    Models, PromptBlocksTest,
    testing::Combine(testing::Values(Model{"paper", ComputeType::kF32},
                                     Model{"paper", ComputeType::kBf16},
                                     Model{"finch_only", ComputeType::kBf16}),
                     testing::Values("cuda_emulated", "cuda")),
    [](const auto& test) {
      const Model& model = std::get<0>(test.param);
      return model.name + "_" + std::get<1>(test.param) +
             (model.type == ComputeType::kF32 ? "_f32" : "_bf16");
    });

}  // namespace
}  // namespace goldfinch
