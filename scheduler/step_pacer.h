// How many prompt tokens a step takes while others generate, so that their next tokens do
// not wait for longer than a stated time.
//
// It learns from steps: what a prompt token costs depends on the model, the machine, and
// what else the step runs. No bit depends on where prompts are cut.
//
// Threads: one at a time.
#pragma once

#include <chrono>
#include <cstdint>

namespace goldfinch {

class StepPacer {
 public:
  // A long prompt goes on by so many tokens a step, whatever they cost: below, a step's
  // fixed cost is most of it.
  static constexpr std::int64_t kMinTokens = 32;

  // At most `most` tokens a step; `target` is how long a step may take, 0: any time.
  StepPacer(std::int64_t most, std::chrono::nanoseconds target);

  // Of the next step, at least 1.
  std::int64_t prompt_tokens() const { return static_cast<std::int64_t>(tokens_); }

  // A step that fed so many prompt tokens took so long.
  void Note(std::int64_t fed_tokens, std::chrono::nanoseconds duration);

 private:
  const double most_, least_;
  const std::chrono::nanoseconds target_;
  double tokens_;
};

}  // namespace goldfinch
