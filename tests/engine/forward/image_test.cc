// A sequence that is saved, closed and restored, in this engine or in another, continues
// with the bits it would have had.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

struct Variant {
  std::string model;
  ComputeType compute = ComputeType::kBf16;
  StorageType cache = StorageType::kCompute;
};

std::ostream& operator<<(std::ostream& out, const Variant& v) {
  return out << v.model << (v.compute == ComputeType::kF32 ? " f32" : " bf16")
             << (v.cache == StorageType::kInt8 ? " int8 cache" : "");
}

std::vector<Variant> Variants() {
  std::vector<Variant> all;
  for (const FamilyMember& member : Family()) {
    for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16})
      all.push_back({member.name, type});
    all.push_back({member.name, ComputeType::kBf16, StorageType::kInt8});
  }
  return all;
}

class ImageTest : public testing::TestWithParam<Variant> {
 protected:
  static constexpr std::int64_t kPrompt = 150, kTokens = 190;

  const ModelConfig& config() const { return FamilyConfig(GetParam().model); }
  std::unique_ptr<ModelEngine> Make() {
    return MakeEngine(folder_.path(), GetParam().compute,
                      [this](ModelEngineOptions& options) {
                        options.cache_storage = GetParam().cache;
                      });
  }
  std::vector<TokenId> Tokens() { return RandomTokens(kTokens, config().vocab_size, 4); }

  // Feeds tokens [begin, end) in chunks of `chunk`; appends the logits of positions from
  // the prompt's last one on.
  void Feed(ModelEngine& engine, SequenceId id, std::int64_t begin, std::int64_t end,
            std::int64_t chunk, std::vector<float>& logits) {
    const std::vector<TokenId> tokens = Tokens();
    const std::int32_t vocab = config().vocab_size;
    while (begin < end) {
      const std::int64_t count = std::min(chunk, end - begin);
      const std::int64_t first = std::clamp<std::int64_t>(kPrompt - 1 - begin, 0, count);
      const auto part = std::span(tokens).subspan(static_cast<std::size_t>(begin),
                                                  static_cast<std::size_t>(count));
      std::vector<float> some;
      Span span;
      span.sequence = id;
      span.tokens = part;
      if (first < count) span = LogitsSpan(id, part, first, some, vocab);
      Forward(engine, std::span(&span, 1));
      logits.insert(logits.end(), some.begin(), some.end());
      begin += count;
    }
  }

  const ModelFolder folder_{config()};
};

// Saved within the prompt, at its end, where a page ends, and while it decodes.
TEST_P(ImageTest, RestoredSequenceContinuesWithTheBitsOfAnUninterruptedOne) {
  auto engine = Make(), other = Make();
  std::vector<float> whole;
  const SequenceId solo = OpenSequence(*engine, kTokens, kPrompt - 1);
  Feed(*engine, solo, 0, kTokens, 37, whole);
  engine->Close(solo);
  for (const std::int64_t at : {1, 63, 64, 145, 149, 150, 151, 170}) {
    for (ModelEngine* to : {engine.get(), other.get()}) {
      std::vector<float> logits;
      const SequenceId from = OpenSequence(*engine, kTokens, kPrompt - 1);
      Feed(*engine, from, 0, at, 50, logits);
      SequenceImage image;
      engine->Save(from, image);
      EXPECT_EQ(image.length, at);
      engine->Close(from);
      // Whatever had the slot and the pages meanwhile leaves no trace.
      std::vector<float> ignored;
      const SequenceId between = OpenSequence(*to, kTokens, kPrompt - 1);
      Feed(*to, between, 0, 160, 64, ignored);
      to->Close(between);
      const auto id = to->Restore(
          {.max_tokens = kTokens, .first_logits = kPrompt - 1, .sampling = {}}, image,
          {});
      ASSERT_TRUE(id.ok()) << id.status();
      Feed(*to, *id, at, kTokens, 23, logits);
      to->Close(*id);
      EXPECT_TRUE(SameBits(logits, whole)) << "saved at " << at;
      EXPECT_EQ(to->usage().pages_used, 0);
      EXPECT_EQ(to->usage().slots_used, 0);
    }
  }
}

TEST_P(ImageTest, EqualSequencesGiveEqualImages) {
  auto engine = Make();
  SequenceImage images[3];
  for (const std::size_t i : {0u, 1u}) {
    std::vector<float> logits;
    const SequenceId id = OpenSequence(*engine, kTokens, kPrompt - 1);
    Feed(*engine, id, 0, 160, i == 0 ? 160 : 7, logits);
    engine->Save(id, images[i]);
    engine->Close(id);
  }
  const auto id = engine->Restore(
      {.max_tokens = kTokens, .first_logits = kPrompt - 1, .sampling = {}}, images[0],
      {});
  ASSERT_TRUE(id.ok()) << id.status();
  engine->Save(*id, images[2]);
  engine->Close(*id);
  const bool cached = config().num_gold() > 0;
  EXPECT_EQ(images[0].tokens.size(), cached ? 160u : 0u);
  for (const std::size_t i : {1u, 2u}) {
    EXPECT_EQ(images[i].tokens, images[0].tokens) << i;
    EXPECT_EQ(images[i].keys, images[0].keys) << i;
    EXPECT_EQ(images[i].state, images[0].state) << i;
    EXPECT_EQ(images[i].num_generated, images[0].num_generated) << i;
  }
}

// Sampling with penalties: draws go on counting, and what was generated is remembered.
TEST_P(ImageTest, SampledTokensGoOnAsIfNothingHadHappened) {
  auto engine = Make();
  SamplingParams sampling;
  sampling.temperature = 0.9f;
  sampling.seed = 42;
  sampling.repetition_penalty = 1.3f;
  sampling.frequency_penalty = 0.5f;
  const std::vector<TokenId> prompt = RandomTokens(70, config().vocab_size, 5);
  const SequenceSpec spec = {.max_tokens = 110, .first_logits = 69, .sampling = sampling};
  const auto run = [&](int restore_after) {
    std::vector<TokenId> history = prompt;
    SequenceId id = OpenSequence(*engine, 110, 69, sampling);
    for (int i = 0; i < 40; ++i) {
      if (i == restore_after) {
        SequenceImage image;
        engine->Save(id, image);
        engine->Close(id);
        const auto restored = engine->Restore(spec, image, history);
        EXPECT_TRUE(restored.ok()) << restored.status();
        id = *restored;
      }
      Span span;
      span.sequence = id;
      span.tokens = i == 0 ? std::span<const TokenId>(prompt)
                           : std::span<const TokenId>(history).last(1);
      span.output = SpanOutput::kSample;
      history.push_back(Forward(*engine, std::span(&span, 1))[0].sample.token);
    }
    engine->Close(id);
    return history;
  };
  const std::vector<TokenId> whole = run(-1);
  for (const int at : {1, 2, 20, 39}) EXPECT_EQ(run(at), whole) << at;
}

TEST_P(ImageTest, ImageOfAnotherShapeIsRefusedAndNothingIsTaken) {
  auto engine = Make();
  std::vector<float> logits;
  const SequenceId id = OpenSequence(*engine, kTokens, kPrompt - 1);
  Feed(*engine, id, 0, 100, 100, logits);
  SequenceImage good;
  engine->Save(id, good);
  engine->Close(id);
  const auto refused = [&](const std::function<void(SequenceImage&)>& spoil) {
    SequenceImage image = good;
    spoil(image);
    const auto restored = engine->Restore(
        {.max_tokens = kTokens, .first_logits = kPrompt - 1, .sampling = {}}, image, {});
    EXPECT_TRUE(absl::IsInvalidArgument(restored.status())) << restored.status();
    EXPECT_EQ(engine->usage().slots_used, 0);
    EXPECT_EQ(engine->usage().pages_used, 0);
  };
  refused([](SequenceImage& image) { image.state.pop_back(); });
  refused([](SequenceImage& image) { image.keys.emplace_back(); });
  refused([](SequenceImage& image) { image.length = -1; });
  refused([](SequenceImage& image) { image.num_generated = 101; });
  if (config().num_gold() == 0) return;
  refused([](SequenceImage& image) { image.tokens.pop_back(); });
  refused([&](SequenceImage& image) { image.tokens[7] = config().vocab_size; });
  refused([](SequenceImage& image) { image.tokens[7] = -1; });
}

INSTANTIATE_TEST_SUITE_P(Family, ImageTest, testing::ValuesIn(Variants()),
                         [](const auto& variant) {
                           std::string name = testing::PrintToString(variant.param);
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

}  // namespace
}  // namespace goldfinch
