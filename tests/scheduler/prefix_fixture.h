// What tests of kept prefixes do: turns of a conversation, and what they have to say.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "tests/scheduler/harness.h"

namespace goldfinch {

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

}  // namespace goldfinch
