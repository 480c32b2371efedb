// Prompts and decode steps, as a server runs them.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/cases.h"
#include "bench/engine_steps.h"
#include "bench/median.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kShortContext = 64;
constexpr std::size_t kDecodeSteps = 200;  // at most, and room kept for them

struct DecodeCase {
  std::int64_t context = 0;
  int batch = 0;
  bool rebuilt = false;
  std::string name;
};

// The system backs the cache and the arena as they are first written, which a server
// that has run for a while is past.
void WriteMemory(ModelEngine& engine, std::int64_t tokens) {
  const SequenceId id = OpenFilled(engine, tokens, tokens - 1);
  DecodeStep(engine, {id});
  engine.Close(id);
}

// `rate` is that of the last case, 0 before the first.
void Prefill(BenchRun& run, std::int64_t tokens, double& rate) {
  const std::string name = absl::StrCat("prefill/t:", tokens);
  const double case_seconds = run.flags().case_seconds;
  if (!run.Wanted(name) || !run.FitsMemory(name, tokens, 1, false)) return;
  if (rate > 0 && static_cast<double>(tokens) / rate > case_seconds)
    return run.Skip(name,
                    absl::StrCat("would take longer than --case_seconds=", case_seconds));
  run.Announce(name);
  constexpr int kPasses = 15;
  const double before = run.limits().PeakFlops(kPasses);
  ModelEngine& engine = run.EngineFor(TokenRoom::For(tokens, 1, false));
  WriteMemory(engine, tokens);
  PrefillOnce(engine, std::min<std::int64_t>(tokens, engine.info().max_step_tokens));
  std::vector<double> seconds;
  const auto start = BenchClock::now();
  do {
    seconds.push_back(PrefillOnce(engine, tokens));
  } while (seconds.size() < 5 && SecondsSince(start) < case_seconds / 6);
  rate = static_cast<double>(tokens) / Median(seconds);
  const double peak = (before + run.limits().PeakFlops(kPasses)) / 2;
  run.rows().Print(name, rate, "tokens/s", peak / run.costs().prompt_flops);
}

// Keys and values of a whole context, as a restored session pays for them in its first
// step: `step` seconds of it are the step itself. The arena's memory has been written
// before, as on a server that has run for a while.
void Expand(BenchRun& run, ModelEngine& engine, std::int64_t context, double step) {
  constexpr int kPasses = 15;
  std::vector<double> seconds;
  const double before = run.limits().PeakFlops(kPasses);
  for (int i = 0; i < 3; ++i) {
    const std::vector<SequenceId> ids = {OpenFilled(engine, context + 1, context)};
    seconds.push_back(DecodeStep(engine, ids) - step);
    engine.Close(ids[0]);
  }
  const double peak = (before + run.limits().PeakFlops(kPasses)) / 2;
  run.rows().Print(absl::StrCat("expand/t:", context),
                   static_cast<double>(context) / Median(seconds), "tokens/s",
                   peak / run.costs().expand_flops);
}

void Decode(BenchRun& run, const DecodeCase& decode) {
  constexpr int kPasses = 5;
  constexpr std::size_t kStepsBetween = 8;
  const std::int64_t tokens = decode.context + static_cast<std::int64_t>(kDecodeSteps);
  if (!run.Wanted(decode.name) ||
      !run.FitsMemory(decode.name, tokens, decode.batch, decode.rebuilt))
    return;
  run.Announce(decode.name);
  ModelEngine& engine =
      run.EngineFor(TokenRoom::For(tokens, decode.batch, decode.rebuilt));
  std::vector<SequenceId> ids;
  for (int i = 0; i < decode.batch; ++i)
    ids.push_back(OpenFilled(engine, tokens, decode.context));
  std::vector<double> seconds, bandwidths = {run.limits().Bandwidth(kPasses)};
  // The first step expands the whole context; it is not a decode step.
  const double first = DecodeStep(engine, ids);
  if (decode.rebuilt && first * 3 > run.flags().case_seconds)
    return run.Skip(decode.name, "would take longer than --case_seconds");
  const auto start = BenchClock::now();
  // As many as the scheduler queues one behind the other, where steps overlap.
  const std::size_t at_once = engine.info().runs_ahead ? 2 * kStepsBetween : 1;
  do {
    // Before and after, and in between: a neighbour may come and go within a case.
    if (seconds.size() >= kStepsBetween * bandwidths.size())
      bandwidths.push_back(run.limits().Bandwidth(1));
    DecodeSteps(engine, ids, at_once, seconds);
  } while (seconds.size() + at_once < kDecodeSteps - 1 &&
           (seconds.size() < 3 || SecondsSince(start) < run.flags().case_seconds / 12));
  bandwidths.push_back(run.limits().Bandwidth(kPasses));
  const ShapeCosts& costs = run.costs();
  const double expanded =
      decode.rebuilt ? 0 : static_cast<double>(decode.context) * costs.expanded_bytes;
  const double bytes =
      costs.weight_bytes + decode.batch * (2 * costs.state_bytes + expanded);
  // A name of its own, to be beside the others in a report.
  const char* const how = run.flags().run_ahead ? "" : "/run_ahead:off";
  run.rows().Print(absl::StrCat(decode.name, how), decode.batch / Median(seconds),
                   "tokens/s", decode.batch * Median(bandwidths) / bytes);
  for (const SequenceId id : ids) engine.Close(id);
  if (decode.batch == 1 && !decode.rebuilt && decode.context > kShortContext)
    Expand(run, engine, decode.context, Median(seconds));
}

}  // namespace

void RunPrefillCases(BenchRun& run) {
  double rate = 0;
  for (const std::int64_t tokens : {512, 1024, 2048, 8192, 32768, 131072})
    Prefill(run, tokens, rate);
}

void RunDecodeCases(BenchRun& run) {
  for (const int batch : {1, 4, 16, 64, 256})
    Decode(run, {.context = kShortContext,
                 .batch = batch,
                 .name = absl::StrCat("decode/batch:", batch)});
  for (const bool rebuilt : {false, true}) {
    for (const std::int64_t context : {1024, 8192, 32768, 131072}) {
      if (context > 32768 && !run.flags().long_contexts) continue;
      for (const int batch : {1, 8, 16})
        Decode(run, {.context = context,
                     .batch = batch,
                     .rebuilt = rebuilt,
                     .name = absl::StrCat(rebuilt ? "decode_rebuilt" : "decode",
                                          "/ctx:", context, "/batch:", batch)});
    }
  }
}

}  // namespace goldfinch
