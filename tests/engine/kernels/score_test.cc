// Score: the log probability of a given token, and whether it is the greedy one.
//
// Tolerance: the result is rounded to float32, and terms of exp are off by some u each:
// 4 u of the logprob and 8 u more.
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

class ScoreTest : public OpTest {};
GOLDFINCH_ON_ALL_BACKENDS(ScoreTest);

TEST_P(ScoreTest, TargetsAreScoredAgainstTheirOwnRow) {
  for (const std::int64_t vocab : {3, 33, 1000, 4099}) {
    const Grid logits = RandomGrid(5, vocab, 1, DType::kF32, 6.0);
    const Tensor rows(backend(), logits);
    std::vector<ScoredToken> scored(15);
    std::vector<Backend::ScoreRequest> requests;
    for (std::size_t i = 0; i < scored.size(); ++i) {
      const auto n = static_cast<std::int64_t>(i);
      requests.push_back({.row = (n * 3) % 5,
                          .target = static_cast<TokenId>((n * 17) % vocab),
                          .out = &scored[i]});
    }
    backend().Score(*rows, requests);
    for (const Backend::ScoreRequest& request : requests) {
      const auto [logprob, greedy] =
          reference::Score(logits, request.row, request.target);
      EXPECT_NEAR(request.out->logprob, logprob, kF32Unit * (4 * std::abs(logprob) + 8));
      EXPECT_EQ(request.out->is_greedy, greedy);
    }
  }
}

TEST_P(ScoreTest, GreedyIsTheFirstOfTheHighest) {
  Grid logits(1, 200);
  logits(0, 70) = logits(0, 150) = 2.0;
  const Tensor rows(backend(), logits);
  ScoredToken first, second;
  const Backend::ScoreRequest requests[] = {{.target = 70, .out = &first},
                                            {.target = 150, .out = &second}};
  backend().Score(*rows, requests);
  EXPECT_TRUE(first.is_greedy);
  EXPECT_FALSE(second.is_greedy);
  EXPECT_EQ(first.logprob, second.logprob);
}

TEST_P(ScoreTest, RowsWithoutNumbersAreScored) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  Grid logits(3, 2, kNaN);
  logits(0, 1) = 1.0;    // NaN, 1
  logits(2, 1) = -kInf;  // NaN, -inf
  const Tensor rows(backend(), logits);
  std::vector<ScoredToken> out(6);
  std::vector<Backend::ScoreRequest> requests;
  for (int i = 0; i < 6; ++i)
    requests.push_back(
        {.row = i / 2, .target = i % 2, .out = &out[static_cast<std::size_t>(i)]});
  backend().Score(*rows, requests);
  for (const std::size_t i : {0, 2, 3, 4, 5})
    EXPECT_EQ(static_cast<double>(out[i].logprob), -kInf) << i;
  EXPECT_EQ(out[1].logprob, 0.0f);
  for (const std::size_t i : {1, 2, 4}) EXPECT_TRUE(out[i].is_greedy) << i;
  for (const std::size_t i : {0, 3, 5}) EXPECT_FALSE(out[i].is_greedy) << i;
}

TEST_P(ScoreTest, ARequestsBitsDoNotDependOnItsBatch) {
  const Tensor rows(backend(), RandomGrid(7, 300, 2, DType::kF32, 4.0));
  std::vector<ScoredToken> together(150);
  std::vector<Backend::ScoreRequest> requests;
  for (std::size_t i = 0; i < together.size(); ++i)
    requests.push_back({.row = static_cast<std::int64_t>(i % 7),
                        .target = static_cast<TokenId>(i * 31 % 300),
                        .out = &together[i]});
  backend().Score(*rows, requests);
  for (std::size_t i = 0; i < together.size(); ++i) {
    ScoredToken alone;
    Backend::ScoreRequest request = requests[i];
    request.out = &alone;
    backend().Score(*rows, std::span(&request, 1));
    EXPECT_EQ(alone.logprob, together[i].logprob);
    EXPECT_EQ(alone.is_greedy, together[i].is_greedy);
  }
}

}  // namespace
}  // namespace goldfinch
