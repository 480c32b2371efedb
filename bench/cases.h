// The cases of goldfinch-bench, by what they measure. Each function runs those that are
// wanted and prints a row for each, beside its limit.
#pragma once

#include "bench/bench_run.h"

namespace goldfinch {

// Tokens of prompts, limited by arithmetic: recurrent layers and key compression.
void RunPrefillCases(BenchRun& run);
// Tokens decoded, limited by memory: weights once a step, state read and written and
// expanded keys and values read once a sequence. After the longer contexts also what it
// takes to expand them.
void RunDecodeCases(BenchRun& run);
// One op by itself, limited by the bytes that it must move.
void RunOpCases(BenchRun& run);
// What a session takes, how many there can be at once, and how long parking one takes.
void RunSessionCases(BenchRun& run);

}  // namespace goldfinch
