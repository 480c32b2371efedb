// Which sequences run in the next step, and how many tokens of each: policy as integers.
//
// What decodes reads its past expanded, and there is room for so many expanded pages. If
// the pasts are more together, sequences take turns: who has a place keeps it for
// kTurnTokens tokens, then it goes to who has waited longest. To expand a past again
// costs as much as some steps; to do without a place costs that in every step, and
// everybody in it waits. A past that is more than all the room would not be helped by
// waiting: it runs in every step, behind the others.
//
// Every decoding sequence gets its one token first; what is left of the budget, or less
// if a step must not take long (step_pacer.h), goes to prompt chunks: of the least served
// tenant first, within a tenant of the highest priority, then in the order of admission.
// So a prompt of any length costs the streams beside it no more than a bounded step, and
// the prompts of others no more than its turn.
//
// Nobody starves. A sequence begins to decode only by a prompt token that had room in the
// budget, so no more decode than the budget has tokens, but for those that were paused.
// When these come back and are too many, all take turns, the one that has waited longest
// first: each runs once in ceil(decoding / budget) steps. Prompts wait meanwhile; each
// decoding sequence ends, and what it leaves goes to the first of them.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"

namespace goldfinch {

// Tokens that a decoding sequence has a place for, once others wait for it.
inline constexpr std::int64_t kTurnTokens = 64;

// One sequence that could run, as lengths.
struct PlanSequence {
  std::int64_t prompt_left = 0;  // tokens to feed before it decodes; 0: it decodes
  std::int64_t position = 0;     // of the next token; of prompts
  // Among prompts: what the tenant has been served (fair_share.h), the lowest goes first;
  // then the highest priority.
  double service = 0;
  std::int32_t priority = 0;
  // Decoding: when its last turn was, by a counter of all turns; those of one step are
  // counted in the order of the plan.
  std::uint64_t last_turn = 0;
  // Decoding: pages of its past, and tokens that it still has a place for; 0: it has
  // none.
  std::int64_t pages = 0;
  std::int64_t place_left = 0;
  bool paused = false;  // left out: nobody takes what it would produce
};

struct PlannedSpan {
  std::size_t sequence = 0;  // index into what PlanStep was given
  std::int64_t tokens = 0;   // at least 1
  bool gets_place = false;   // for kTurnTokens tokens, this the first
};

// What a step may take, in tokens.
struct StepBudget {
  std::int64_t tokens = 0;                 // of all sequences
  std::int64_t prompt_tokens = INT64_MAX;  // of prompts, while others decode
  // Prompts are cut at multiples of this (EngineInfo::prompt_grid): what is cut last may
  // take grid - 1 tokens more than there are left, so that it gets anywhere.
  std::int64_t grid = 1;
  // That can be expanded at once (EngineInfo::expanded_pages).
  std::int64_t expanded_pages = INT64_MAX;
};

// How many of these sequences (indices into what PlanStep was given), from the first on,
// have room for their pasts together, pages that several share counted once; at least
// one.
using CountFitting = absl::FunctionRef<std::size_t(std::span<const std::size_t>)>;

// `sequences` are in order of admission. The decoding ones come first. `fitting` is only
// called if their pages, added up, are more than there is room for.
std::vector<PlannedSpan> PlanStep(std::span<const PlanSequence> sequences,
                                  const StepBudget& budget, CountFitting fitting);

}  // namespace goldfinch
