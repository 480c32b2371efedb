// What a client sees of the prefix cache.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/server/grpc/harness.h"

namespace goldfinch {
namespace {

TEST(PrefixCacheServiceTest, ScoresGoOnFromItToo) {
  TestServer server({.scheduler = {.prefix_cache_bytes = 1 << 20}});
  v1::ScoreRequest request;
  const std::string context_text(300, 'c');
  request.set_context_text(context_text);
  request.set_continuation_text("an end");
  std::vector<double> totals;
  // The context is kept but for its last token, whose logits come first.
  for (const std::int64_t cached : {0, 299, 299}) {
    grpc::ClientContext context;
    v1::ScoreResponse response;
    ASSERT_TRUE(server.stub().Score(&context, request, &response).ok());
    totals.push_back(response.total_logprob());
    EXPECT_EQ(response.usage().cached_prompt_tokens(), cached);
    ASSERT_TRUE(Generate(server.stub(), TextRequest(context_text, 1)).status.ok());
  }
  EXPECT_EQ(totals[1], totals[0]);
  EXPECT_EQ(totals[2], totals[0]);
}

TEST(PrefixCacheServiceTest, UsageTellsWhatWasNotComputedAgain) {
  TestServer server({.scheduler = {.prefix_cache_bytes = 1 << 20}});
  const std::string document(200, 'd');
  for (int question = 0; question < 5; ++question) {
    const auto request =
        TextRequest(document + std::string(5, static_cast<char>('a' + question)), 5);
    const GenerateOutput output = Generate(server.stub(), request);
    EXPECT_EQ(output.candidates[0].tokens, ExpectedTokens(request));
    const auto cached = output.candidates[0].last->usage().cached_prompt_tokens();
    // The first is kept at its end, the second finds where they part.
    if (question >= 2) {
      EXPECT_EQ(cached, std::ssize(document)) << question;
    }
  }
  EXPECT_GT(server.Metric("goldfinch_prefix_cache_hits_total"), 2);
}

}  // namespace
}  // namespace goldfinch
