// Which sequences run in the next step, and how many tokens of each: policy as integers.
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

namespace goldfinch {

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
  bool paused = false;  // left out: nobody takes what it would produce
};

struct PlannedSpan {
  std::size_t sequence = 0;  // index into what PlanStep was given
  std::int64_t tokens = 0;   // at least 1
};

// What a step may take, in tokens.
struct StepBudget {
  std::int64_t tokens = 0;                 // of all sequences
  std::int64_t prompt_tokens = INT64_MAX;  // of prompts, while others decode
  // Prompts are cut at multiples of this (EngineInfo::prompt_grid): what is cut last may
  // take grid - 1 tokens more than there are left, so that it gets anywhere.
  std::int64_t grid = 1;
};

// `sequences` are in order of admission. The decoding ones come first.
std::vector<PlannedSpan> PlanStep(std::span<const PlanSequence> sequences,
                                  const StepBudget& budget);

}  // namespace goldfinch
