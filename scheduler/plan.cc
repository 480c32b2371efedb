#include "scheduler/plan.h"

#include <algorithm>
#include <utility>

namespace goldfinch {
namespace {

// Keeps the `count` entries that have waited longest, ties in order of admission.
void KeepLongestWaiting(std::span<const PlanSequence> sequences, std::int64_t count,
                        std::vector<std::size_t>& decoding) {
  std::ranges::stable_sort(decoding, {},
                           [&](std::size_t i) { return sequences[i].last_turn; });
  decoding.resize(static_cast<std::size_t>(count));
}

// Of a prompt, when there are `left` tokens for it, at least one.
std::int64_t TokensOf(const PlanSequence& prompt, std::int64_t left, std::int64_t grid) {
  if (left >= prompt.prompt_left) return prompt.prompt_left;
  const std::int64_t end = (prompt.position + left + grid - 1) / grid * grid;
  return std::min(end - prompt.position, prompt.prompt_left);
}

}  // namespace

std::vector<PlannedSpan> PlanStep(std::span<const PlanSequence> sequences,
                                  const StepBudget& budget) {
  std::vector<std::size_t> decoding;
  std::vector<std::size_t> prompts;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].paused) continue;
    (sequences[i].prompt_left == 0 ? decoding : prompts).push_back(i);
  }
  if (std::ssize(decoding) > budget.tokens) {
    KeepLongestWaiting(sequences, budget.tokens, decoding);
  }
  std::ranges::stable_sort(prompts, {}, [&](std::size_t i) {
    return std::pair(sequences[i].service, -std::int64_t{sequences[i].priority});
  });

  std::vector<PlannedSpan> plan;
  plan.reserve(decoding.size() + prompts.size());
  for (const std::size_t i : decoding) plan.push_back({.sequence = i, .tokens = 1});
  std::int64_t left = budget.tokens - std::ssize(decoding);
  if (!decoding.empty()) left = std::min(left, budget.prompt_tokens);
  for (const std::size_t i : prompts) {
    if (left <= 0) break;
    const std::int64_t tokens = TokensOf(sequences[i], left, budget.grid);
    plan.push_back({.sequence = i, .tokens = tokens});
    left -= tokens;
  }
  return plan;
}

}  // namespace goldfinch
