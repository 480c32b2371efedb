// What cases let an engine do: sequences of random tokens that sample greedily, whole
// prompts and decode steps. That the engine fails at any of it is a bug (CHECK).
//
// Threads: one at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/model_engine.h"

namespace goldfinch {

using BenchClock = std::chrono::steady_clock;
double SecondsSince(BenchClock::time_point start);

// A sequence with room for `tokens`, the first `context` of which are there, though
// nothing computed them: it goes on from an image whose keys are some number and whose
// state is that of a new sequence.
SequenceId OpenFilled(ModelEngine& engine, std::int64_t tokens, std::int64_t context,
                      unsigned seed = 1);

// Seconds that a prompt takes, cut as the scheduler cuts it, and its first token.
double PrefillOnce(ModelEngine& engine, std::int64_t tokens);

// `count` steps of all sequences, each from the end of the one before it, behind which it
// is queued where the engine can. Appends the seconds of each.
void DecodeSteps(ModelEngine& engine, const std::vector<SequenceId>& ids,
                 std::size_t count, std::vector<double>& seconds);
// Seconds of one.
double DecodeStep(ModelEngine& engine, const std::vector<SequenceId>& ids);

}  // namespace goldfinch
