// A sequence that goes on from a prefix, in this engine or by its image in another, has
// the bits of one that was never interrupted.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

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

class PrefixTest : public testing::TestWithParam<Variant> {
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

  // The image of what `id` is now; closes it.
  static PrefixImage CloseAndSave(ModelEngine& engine, SequenceId id) {
    const PrefixId prefix = engine.Keep(id);
    engine.Close(id);
    PrefixImage image;
    EXPECT_TRUE(engine.Save(prefix, image).ok());
    engine.Drop(prefix);
    return image;
  }

  // A sequence that goes on from an image; no prefix is left.
  static SequenceId OpenFromImage(ModelEngine& engine, const PrefixImage& image,
                                  const SequenceSpec& spec,
                                  std::span<const TokenId> history = {}) {
    const auto prefix = engine.Load(image);
    EXPECT_TRUE(prefix.ok()) << prefix.status();
    const auto id = engine.OpenFrom(*prefix, spec, history);
    EXPECT_TRUE(id.ok()) << id.status();
    engine.Drop(*prefix);
    return *id;
  }

  const ModelFolder folder_{config()};
};

constexpr auto kSpec = [](std::int64_t max_tokens, std::int64_t first_logits) {
  SequenceSpec spec;
  spec.max_tokens = max_tokens;
  spec.first_logits = first_logits;
  return spec;
};

// Saved within the prompt, at its end, where a page ends, and while it decodes.
TEST_P(PrefixTest, RestoredSequenceContinuesWithTheBitsOfAnUninterruptedOne) {
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
      const PrefixImage image = CloseAndSave(*engine, from);
      EXPECT_EQ(image.length, at);
      // Whatever had the slot and the pages meanwhile leaves no trace.
      std::vector<float> ignored;
      const SequenceId between = OpenSequence(*to, kTokens, kPrompt - 1);
      Feed(*to, between, 0, 160, 64, ignored);
      to->Close(between);
      const SequenceId id = OpenFromImage(*to, image, kSpec(kTokens, kPrompt - 1));
      Feed(*to, id, at, kTokens, 23, logits);
      to->Close(id);
      EXPECT_TRUE(SameBits(logits, whole)) << "saved at " << at;
      EXPECT_EQ(to->usage().pages_used, 0);
      EXPECT_EQ(to->usage().slots_used, 0);
    }
  }
}

TEST_P(PrefixTest, EqualSequencesGiveEqualImages) {
  auto engine = Make();
  PrefixImage images[3];
  for (const std::size_t i : {0u, 1u}) {
    std::vector<float> logits;
    const SequenceId id = OpenSequence(*engine, kTokens, kPrompt - 1);
    Feed(*engine, id, 0, 160, i == 0 ? 160 : 7, logits);
    images[i] = CloseAndSave(*engine, id);
  }
  images[2] = CloseAndSave(
      *engine, OpenFromImage(*engine, images[0], kSpec(kTokens, kPrompt - 1)));
  const bool cached = config().num_gold() > 0;
  EXPECT_EQ(images[0].tokens.size(), cached ? 160u : 0u);
  for (const std::size_t i : {1u, 2u}) {
    EXPECT_EQ(images[i].tokens, images[0].tokens) << i;
    EXPECT_TRUE(std::ranges::equal(images[i].keys, images[0].keys)) << i;
    EXPECT_TRUE(std::ranges::equal(images[i].state, images[0].state)) << i;
  }
}

// Sampling with penalties: draws go on counting, and what was generated is remembered.
TEST_P(PrefixTest, SampledTokensGoOnAsIfNothingHadHappened) {
  auto engine = Make();
  SamplingParams sampling;
  sampling.temperature = 0.9f;
  sampling.seed = 42;
  sampling.repetition_penalty = 1.3f;
  sampling.frequency_penalty = 0.5f;
  const std::vector<TokenId> prompt = RandomTokens(70, config().vocab_size, 5);
  SequenceSpec spec = kSpec(110, 69);
  spec.sampling = sampling;
  const auto run = [&](int restore_after) {
    std::vector<TokenId> history = prompt;
    SequenceId id = OpenSequence(*engine, 110, 69, sampling);
    for (int i = 0; i < 40; ++i) {
      if (i == restore_after) {
        spec.num_generated = i;
        id = OpenFromImage(*engine, CloseAndSave(*engine, id), spec, history);
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

TEST_P(PrefixTest, ImageOfAnotherShapeIsRefused) {
  auto engine = Make();
  std::vector<float> logits;
  const SequenceId id = OpenSequence(*engine, kTokens, kPrompt - 1);
  Feed(*engine, id, 0, 100, 100, logits);
  const PrefixImage good = CloseAndSave(*engine, id);
  const auto refused = [&](const std::function<void(PrefixImage&)>& spoil) {
    PrefixImage image = good;
    spoil(image);
    const absl::Status status = engine->CheckImage(image);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  };
  refused([](PrefixImage& image) {
    image.state = image.state.first(image.state.size() - 1);
  });
  refused([](PrefixImage& image) { image.keys = image.state.first(7); });
  refused([](PrefixImage& image) { image.length = -1; });
  refused([](PrefixImage& image) { image.length = 0; });
  refused([](PrefixImage& image) {
    image.length = std::numeric_limits<std::int64_t>::max();
  });
  EXPECT_TRUE(engine->CheckImage(good).ok());
  if (config().num_gold() == 0) return;
  refused([](PrefixImage& image) { image.tokens.pop_back(); });
  refused([&](PrefixImage& image) { image.tokens[7] = config().vocab_size; });
  refused([](PrefixImage& image) { image.tokens[7] = -1; });
  refused([](PrefixImage& image) {
    image.tokens.back() = std::numeric_limits<TokenId>::max();
  });
  refused([](PrefixImage& image) {
    image.tokens.front() = std::numeric_limits<TokenId>::min();
  });
}

// Longer than what is copied at once, on pages side by side and on pages that are not.
TEST_P(PrefixTest, LongImageComesBackAsItWent) {
  constexpr std::int64_t kLength = 2500;
  auto engine = Make();
  const auto image_of = [&](std::int64_t length, std::vector<std::byte>& bytes) {
    const std::int64_t tokens = config().num_gold() > 0 ? length : 0;
    const std::int64_t key_bytes = tokens * engine->info().key_bytes;
    bytes.resize(static_cast<std::size_t>(key_bytes + engine->info().state_bytes));
    std::mt19937 random(11);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    PrefixImage image;
    image.length = length;
    image.tokens = RandomTokens(tokens, config().vocab_size, 12);
    image.keys = std::span(bytes).first(static_cast<std::size_t>(key_bytes));
    image.state = std::span(bytes).subspan(static_cast<std::size_t>(key_bytes));
    return image;
  };
  std::vector<std::byte> bytes, few_bytes;
  const PrefixImage image = image_of(kLength, bytes), few = image_of(70, few_bytes);
  const auto load = [&](const PrefixImage& from) {
    const auto id = engine->Load(from);
    EXPECT_TRUE(id.ok()) << id.status();
    return *id;
  };
  for (const bool side_by_side : {true, false}) {
    std::vector<PrefixId> others;
    if (!side_by_side) {
      for (int i = 0; i < 6; ++i) others.push_back(load(few));
      for (const std::size_t i : {4u, 0u, 2u}) engine->Drop(others[i]);
    }
    const PrefixId id = load(image);
    PrefixImage back;
    ASSERT_TRUE(engine->Save(id, back).ok());
    EXPECT_EQ(back.length, image.length);
    EXPECT_EQ(back.tokens, image.tokens);
    EXPECT_TRUE(std::ranges::equal(back.keys, image.keys));
    EXPECT_TRUE(std::ranges::equal(back.state, image.state));
    engine->Drop(id);
    for (const std::size_t i : {1u, 3u, 5u}) {
      if (side_by_side) break;
      PrefixImage other;
      ASSERT_TRUE(engine->Save(others[i], other).ok());
      EXPECT_TRUE(std::ranges::equal(other.keys, few.keys));
      engine->Drop(others[i]);
    }
  }
}

// Kept where the spec said, a prefix is good for prompts that end anywhere behind it,
// also right behind it; the sequence it was kept of, and a second one beside, do not
// mind.
TEST_P(PrefixTest, ManySequencesGoOnFromOnePrefix) {
  auto engine = Make();
  const std::vector<TokenId> tokens = Tokens();
  for (const std::int64_t at : {1, 20, 64, 100, 149}) {
    SequenceSpec spec = kSpec(kTokens, kPrompt - 1);
    spec.keep_at = {at};
    const auto parent = engine->Open(spec);
    ASSERT_TRUE(parent.ok()) << parent.status();
    std::vector<float> logits, whole;
    Feed(*engine, *parent, 0, at, 64, logits);
    const PrefixId prefix = engine->Keep(*parent);
    Feed(*engine, *parent, at, kTokens, 64, logits);
    for (const std::int64_t first_logits : {at, at + 1, at + 9, kTokens - 1}) {
      if (first_logits >= kTokens) continue;
      const std::int64_t chunk[] = {31};
      whole = FeedInChunks(*engine, tokens, chunk, first_logits);
      for (int round = 0; round < 2; ++round) {
        const auto id = engine->OpenFrom(prefix, kSpec(kTokens, first_logits), {});
        ASSERT_TRUE(id.ok()) << id.status();
        std::vector<float> rest;
        const auto left = std::span(tokens).subspan(static_cast<std::size_t>(at));
        const auto first = first_logits - at;
        const Span span = LogitsSpan(*id, left, first, rest, config().vocab_size);
        Forward(*engine, std::span(&span, 1));
        engine->Close(*id);
        EXPECT_TRUE(SameBits(rest, whole)) << at << ", logits from " << first_logits;
      }
    }
    engine->Close(*parent);
    engine->Drop(prefix);
    EXPECT_EQ(engine->usage().pages_used, 0);
  }
}

// Two sequences write behind the same partly filled page at once.
TEST_P(PrefixTest, SequencesFromOnePrefixDoNotMeet) {
  auto engine = Make();
  const std::vector<TokenId> start = RandomTokens(100, config().vocab_size, 8);
  SequenceSpec spec = kSpec(160, 120);
  spec.keep_at = {100};
  const auto parent = engine->Open(spec);
  ASSERT_TRUE(parent.ok());
  std::vector<std::vector<TokenId>> tokens;
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    tokens.push_back(start);
    for (const TokenId token : RandomTokens(50, config().vocab_size, seed))
      tokens.back().push_back(token);
  }
  Span span;
  span.sequence = *parent;
  span.tokens = start;
  Forward(*engine, std::span(&span, 1));
  const PrefixId prefix = engine->Keep(*parent);
  std::vector<SequenceId> ids = {*parent};
  for (int i = 0; i < 2; ++i) {
    const auto id = engine->OpenFrom(prefix, kSpec(160, 120), {});
    ASSERT_TRUE(id.ok());
    ids.push_back(*id);
  }
  engine->Drop(prefix);
  std::vector<std::vector<float>> logits(3);
  std::vector<Span> batch;
  for (std::size_t i = 0; i < 3; ++i)
    batch.push_back(LogitsSpan(ids[i], std::span(tokens[i]).subspan(100), 20, logits[i],
                               config().vocab_size));
  Forward(*engine, batch);
  for (const SequenceId id : ids) engine->Close(id);
  for (std::size_t i = 0; i < 3; ++i) {
    const std::int64_t chunk[] = {64};
    EXPECT_TRUE(SameBits(logits[i], FeedInChunks(*engine, tokens[i], chunk, 120))) << i;
  }
}

// Pages in common are read once for all that have them (engine/model/attend_runs.h): some
// sequences share all of a past but its end, some only its beginning. Each has a twin
// that steps alone.
TEST_P(PrefixTest, ReadingACommonPastTogetherChangesNoBit) {
  for (const char* const kind : {"cpu", "cuda_emulated"}) {
    SCOPED_TRACE(kind);
    const auto engine =
        MakeEngine(folder_.path(), GetParam().compute, [&](ModelEngineOptions& options) {
          options.cache_storage = GetParam().cache;
          options.backend.kind = kind;
          options.page_tokens = 4;
          options.max_sequences = 12;
        });
    const std::vector<TokenId> start = RandomTokens(192, config().vocab_size, 8);
    SequenceSpec spec = kSpec(200, 192);
    spec.keep_at = {64, 192};
    const auto parent = engine->Open(spec);
    ASSERT_TRUE(parent.ok()) << parent.status();
    std::vector<PrefixId> prefixes;
    for (std::size_t at = 0; at < start.size(); at += 64) {
      Span span;
      span.sequence = *parent;
      span.tokens = std::span(start).subspan(at, 64);
      Forward(*engine, std::span(&span, 1));
      if (at != 64) prefixes.push_back(engine->Keep(*parent));
    }
    engine->Close(*parent);

    const std::int64_t lengths[] = {64, 192, 192, 64, 192, 192};
    std::vector<SequenceId> together, alone;
    for (const std::int64_t length : lengths) {
      for (auto* const ids : {&together, &alone}) {
        const auto id = engine->OpenFrom(prefixes[length == 64 ? 0 : 1],
                                         kSpec(length + 40, length), {});
        ASSERT_TRUE(id.ok()) << id.status();
        ids->push_back(*id);
      }
    }
    for (std::uint64_t step = 0; step < 3; ++step) {
      // Of one sequence more than one, as of a prompt.
      std::vector<std::vector<TokenId>> tokens;
      for (std::uint64_t i = 0; i < std::size(lengths); ++i)
        tokens.push_back(
            RandomTokens(i == 2 ? 9 : 1, config().vocab_size, 100 * step + i));
      std::vector<std::vector<float>> got(tokens.size());
      std::vector<Span> batch;
      for (std::size_t i = 0; i < tokens.size(); ++i)
        batch.push_back(
            LogitsSpan(together[i], tokens[i], 0, got[i], config().vocab_size));
      Forward(*engine, batch);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        std::vector<float> want;
        const Span span = LogitsSpan(alone[i], tokens[i], 0, want, config().vocab_size);
        Forward(*engine, std::span(&span, 1));
        EXPECT_TRUE(SameBits(got[i], want)) << "sequence " << i << ", step " << step;
      }
    }
    for (const PrefixId prefix : prefixes) engine->Drop(prefix);
    for (const auto* const ids : {&together, &alone})
      for (const SequenceId id : *ids) engine->Close(id);
  }
}

INSTANTIATE_TEST_SUITE_P(Family, PrefixTest, testing::ValuesIn(Variants()),
                         [](const auto& variant) {
                           std::string name = testing::PrintToString(variant.param);
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

}  // namespace
}  // namespace goldfinch
