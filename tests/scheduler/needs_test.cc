#include "scheduler/needs.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {
namespace {

EngineInfo Info() {
  EngineInfo info;
  info.vocab_size = 1000;
  info.page_tokens = 16;
  info.num_pages = 100;
  info.num_slots = 8;
  info.max_step_tokens = 512;
  return info;
}

Request Scoring(std::int64_t context, std::int64_t continuation) {
  Request request = Generation(context, 0);
  request.kind = RequestKind::kScore;
  request.continuation.assign(static_cast<std::size_t>(continuation), 5);
  return request;
}

TEST(NeedsTest, TheLastGeneratedTokenNeedsNoRoom) {
  const auto needs = NeedsOf(Generation(17, 16), Info(), 8192);
  ASSERT_TRUE(needs.ok()) << needs.status();
  EXPECT_EQ(needs->slots, 1);
  EXPECT_EQ(needs->sequence_tokens, 32);
  EXPECT_EQ(needs->pages, 2);
}

TEST(NeedsTest, FullPromptPagesOfCandidatesCountOnce) {
  Request request = Generation(33, 16);  // 48 tokens, 3 pages; 2 full before position 32
  request.num_candidates = 4;
  const auto needs = NeedsOf(request, Info(), 8192);
  ASSERT_TRUE(needs.ok());
  EXPECT_EQ(needs->slots, 4);
  EXPECT_EQ(needs->pages, 3 + 3 * (3 - 2));

  request = Generation(32, 17);  // position 31 lies in the second page: 1 full page
  request.num_candidates = 4;
  EXPECT_EQ(NeedsOf(request, Info(), 8192)->pages, 3 + 3 * (3 - 1));
}

TEST(NeedsTest, ScoringNeedsContextAndAllButTheLastTokenOfTheContinuation) {
  const auto needs = NeedsOf(Scoring(16, 17), Info(), 8192);
  ASSERT_TRUE(needs.ok());
  EXPECT_EQ(needs->sequence_tokens, 32);
  EXPECT_EQ(needs->pages, 2);
}

TEST(NeedsTest, AModelWithoutACacheNeedsNoPages) {
  EngineInfo info = Info();
  info.num_pages = 0;
  Request request = Generation(1000, 1000);
  request.num_candidates = 3;
  const auto needs = NeedsOf(request, info, 8192);
  ASSERT_TRUE(needs.ok()) << needs.status();
  EXPECT_EQ(needs->pages, 0);
}

TEST(NeedsTest, MessagesNameTheValueAndTheLimit) {
  const auto message = [](const Request& request) {
    const absl::Status status = NeedsOf(request, Info(), 8192).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    return std::string(status.message());
  };
  EXPECT_EQ(message(Generation(9000, 1)), "prompt has 9000 tokens; the limit is 8192");
  EXPECT_EQ(message(Generation(8000, 193)),
            "prompt has 8000 tokens and max_tokens is 193; the limit for both is 8192");
  EXPECT_EQ(message(Generation(10, std::numeric_limits<std::int64_t>::max())),
            "prompt has 10 tokens and max_tokens is 9223372036854775807; the limit for "
            "both is 8192");
  EXPECT_EQ(
      message(Scoring(8000, 200)),
      "prompt has 8000 tokens and the continuation 200; the limit for both is 8192");
  EXPECT_EQ(message(Generation(1601, 1)),
            "request needs 101 cache pages of 16 tokens; the limit is 100");
  Request wide = Generation(10, 10);
  wide.num_candidates = 9;
  EXPECT_EQ(message(wide), "request has 9 candidates; the limit is 8");
  EXPECT_EQ(message(Generation(0, 1)), "the prompt is empty");
  EXPECT_EQ(message(Generation(1, 0)), "max_tokens is 0; it must be at least 1");
  EXPECT_EQ(message(Scoring(5, 0)), "the continuation is empty");
  Request none = Generation(1, 1);
  none.num_candidates = 0;
  EXPECT_EQ(message(none), "number of candidates is 0; it must be at least 1");
}

// An equal server takes up what this one was interrupted in.
TEST(NeedsTest, WhatIsKeptOfAnAcceptedRequestCanGoOn) {
  Request kept = Generation(1500, 101);
  kept.on_end = [](RequestEnd) {};
  EXPECT_EQ(NeedsOf(kept, Info(), 8192).status().message(),
            "request needs 101 cache pages of 16 tokens; the limit is 100");
  kept.max_tokens = 85;  // 1,584 tokens, 99 pages
  EXPECT_TRUE(NeedsOf(kept, Info(), 8192).ok());

  Request resumed = Generation(0, 85);
  const auto image = std::make_shared<PrefixImage>();
  image->length = 1509;
  resumed.base = KeptPrefix::Make(std::vector<TokenId>(1510, 7), image);
  resumed.num_generated = 10;
  const auto needs = NeedsOf(resumed, Info(), 8192);
  ASSERT_TRUE(needs.ok()) << needs.status();
  EXPECT_EQ(needs->pages, 100);
}

TEST(NeedsTest, WhatJustFitsIsAccepted) {
  EXPECT_TRUE(NeedsOf(Generation(1600, 1), Info(), 8192).ok());
  EngineInfo large = Info();
  large.num_pages = 10000;
  EXPECT_TRUE(NeedsOf(Generation(8000, 192), large, 8192).ok());
}

}  // namespace
}  // namespace goldfinch
