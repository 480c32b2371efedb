#include "scheduler/plan.h"

#include <algorithm>
#include <tuple>
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

// Moves those whose past has no room in any case to the end. Of the others, if they have
// no room together: keeps those that have a place, and as many more of those who have
// waited longest as there is room for. True then.
bool LetTakeTurns(std::span<const PlanSequence> sequences, std::int64_t room,
                  CountFitting fitting, std::vector<std::size_t>& decoding) {
  const auto beyond =
      std::stable_partition(decoding.begin(), decoding.end(),
                            [&](std::size_t i) { return sequences[i].pages <= room; });
  std::int64_t pages = 0;
  for (auto i = decoding.begin(); i != beyond; ++i) pages += sequences[*i].pages;
  if (pages <= room) return false;
  // Who is done first goes first: should pasts that have grown not fit any more, those
  // lose their place that have had the least of it.
  std::stable_sort(decoding.begin(), beyond, [&](std::size_t a, std::size_t b) {
    const auto key = [](const PlanSequence& s) {
      return std::tuple(s.place_left == 0, s.place_left, s.last_turn);
    };
    return key(sequences[a]) < key(sequences[b]);
  });
  const std::size_t count = fitting(std::span(decoding.begin(), beyond));
  decoding.erase(decoding.begin() + static_cast<std::ptrdiff_t>(count), beyond);
  return true;
}

// Of a prompt, when there are `left` tokens for it, at least one.
std::int64_t TokensOf(const PlanSequence& prompt, std::int64_t left, std::int64_t grid) {
  if (left >= prompt.prompt_left) return prompt.prompt_left;
  const std::int64_t end = (prompt.position + left + grid - 1) / grid * grid;
  return std::min(end - prompt.position, prompt.prompt_left);
}

}  // namespace

std::vector<PlannedSpan> PlanStep(std::span<const PlanSequence> sequences,
                                  const StepBudget& budget, CountFitting fitting) {
  std::vector<std::size_t> decoding;
  std::vector<std::size_t> prompts;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].paused) continue;
    (sequences[i].prompt_left == 0 ? decoding : prompts).push_back(i);
  }
  const bool turns = LetTakeTurns(sequences, budget.expanded_pages, fitting, decoding);
  if (std::ssize(decoding) > budget.tokens) {
    KeepLongestWaiting(sequences, budget.tokens, decoding);
  }
  std::ranges::stable_sort(prompts, {}, [&](std::size_t i) {
    return std::pair(sequences[i].service, -std::int64_t{sequences[i].priority});
  });

  std::vector<PlannedSpan> plan;
  plan.reserve(decoding.size() + prompts.size());
  for (const std::size_t i : decoding) {
    plan.push_back({.sequence = i,
                    .tokens = 1,
                    .gets_place = turns && sequences[i].place_left == 0 &&
                                  sequences[i].pages <= budget.expanded_pages});
  }
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
