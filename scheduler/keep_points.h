// Where prefixes are kept while a prompt is fed, for prompts that will begin like it.
//
// Each costs a copy of the state and one more step of the prompt, so they are few: where
// the prompt left what is known already (others will leave it there too), before its last
// token if all of it is known; a ladder that grows coarser from the prompt's end
// backwards, because prompts that share a long beginning often differ in a short end (a
// document and a question), and nobody can tell yet where; and every `interval` tokens of
// a long prompt.
//
// The end of the prompt itself costs no step and is not among them. Where prompts are cut
// on a grid (EngineInfo::prompt_grid), only its points can be kept, and the last one
// before the end stands in for it.
//
// Threads: a pure function.
#pragma once

#include <cstdint>
#include <vector>

namespace goldfinch {

struct PromptShape {
  std::int64_t begin = 0;   // tokens that need not be fed: a prefix is known
  std::int64_t end = 0;     // the prompt's length
  std::int64_t shared = 0;  // its beginning that was seen before, whether kept or not
  std::int64_t grid = 1;
};

// Ascending, in (begin, end).
std::vector<std::int64_t> KeepPoints(const PromptShape& prompt, std::int64_t interval);

}  // namespace goldfinch
