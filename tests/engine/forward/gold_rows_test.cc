// Which positions GOLD layers must run on (docs/model.md, "What follows from it", 2): 2G
// before the first wanted logits are enough, and not one less.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/backend/create_backend.h"
#include "engine/model/model.h"
#include "tests/engine/forward/engine_harness.h"

namespace goldfinch {
namespace {

bool HasNan(std::span<const float> values) {
  return std::any_of(values.begin(), values.end(), [](float v) { return std::isnan(v); });
}

class GoldRowsTest : public testing::TestWithParam<std::string> {
 protected:
  GoldRowsTest() : folder_(FamilyConfig(GetParam())) {
    backend_ = *CreateBackend({.num_threads = 1});
    model_ = std::make_unique<Model>(*backend_, *Checkpoint::Load(folder_.path()),
                                     DType::kBf16,
                                     ModelLimits{.max_rows = 256,
                                                 .num_slots = 1,
                                                 .page_tokens = 64,
                                                 .num_pages = 4,
                                                 .arena_frames = 4,
                                                 .max_logit_rows = 4});
  }

  // Logits after the last of the tokens, with GOLD from `gold_begin` on and every shift
  // state it must not read poisoned. Then those after two more tokens.
  std::vector<float> LastLogits(std::span<const TokenId> tokens, std::int64_t gold_begin,
                                std::int64_t chunk) {
    model_->ClearSlot(0);
    model_->PoisonGoldShifts(0);
    std::vector<float> out;
    const auto count = static_cast<std::int64_t>(tokens.size());
    for (std::int64_t begin = 0; begin < count;) {
      const std::int64_t step =
          begin >= count - 2 ? 1 : std::min(chunk, count - 2 - begin);
      const SpanInput span{.slot = 0,
                           .position = begin,
                           .tokens = tokens.subspan(static_cast<std::size_t>(begin),
                                                    static_cast<std::size_t>(step)),
                           .pages = pages_,
                           .gold_begin = gold_begin};
      model_->Run(std::span(&span, 1));
      begin += step;
      if (begin >= count - 2) Append(model_->OutputRow(0, step - 1), out);
    }
    return out;
  }

  void Append(std::int64_t row, std::vector<float>& out) {
    const Matrix logits = model_->Logits(std::span(&row, 1));
    const std::size_t at = out.size();
    out.resize(at + static_cast<std::size_t>(logits.cols));
    backend_->CopyToHost(out.data() + at, logits.data,
                         logits.cols * static_cast<std::int64_t>(sizeof(float)));
  }

  const ModelFolder folder_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  const std::vector<std::int32_t> pages_ = {2, 0, 3, 1};
};

constexpr std::int64_t kPrompt = 101;

TEST_P(GoldRowsTest, TwoPositionsALayerAreEnoughWithEveryOtherShiftStatePoisoned) {
  const std::vector<TokenId> tokens =
      RandomTokens(kPrompt + 2, model_->config().vocab_size, 3);
  const std::int64_t first = kPrompt - 2 * model_->config().num_gold();
  // All positions, from a clean start, are the truth.
  model_->ClearSlot(0);
  const std::vector<float> truth = [&] {
    std::vector<float> out;
    const SpanInput all{.position = 0,
                        .tokens = std::span(tokens).first(kPrompt),
                        .pages = pages_,
                        .gold_begin = 0};
    model_->Run(std::span(&all, 1));
    Append(model_->OutputRow(0, kPrompt - 1), out);
    for (std::int64_t i = kPrompt; i < kPrompt + 2; ++i) {
      const SpanInput one{
          .position = i,
          .tokens = std::span(tokens).subspan(static_cast<std::size_t>(i), 1),
          .pages = pages_,
          .gold_begin = 0};
      model_->Run(std::span(&one, 1));
      Append(model_->OutputRow(0, 0), out);
    }
    return out;
  }();
  ASSERT_FALSE(HasNan(truth));
  for (const std::int64_t chunk : {1, 2, 3, 7, 50, 99, 101})
    EXPECT_TRUE(SameBits(LastLogits(tokens, first, chunk), truth))
        << "chunks of " << chunk;
}

// The engine runs from 2G positions before the first logits, that is 2G + 1 rows;
// docs/model.md says the last 2G positions are enough. Both are tried, and one less must
// fail.
TEST_P(GoldRowsTest, TheBoundIsTight) {
  const std::vector<TokenId> tokens =
      RandomTokens(kPrompt + 2, model_->config().vocab_size, 4);
  const std::int64_t gold = model_->config().num_gold();
  EXPECT_TRUE(HasNan(LastLogits(tokens, kPrompt - 2 * gold + 1, 40)));
}

INSTANTIATE_TEST_SUITE_P(Family, GoldRowsTest,
                         testing::Values("paper", "three_gold_rope",
                                         "four_gold_tiny_keys", "odd_keys_no_v2",
                                         "finch_below_gold"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace goldfinch
