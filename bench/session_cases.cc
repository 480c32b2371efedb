// Sessions at rest: their bytes, many of them at once, and parking.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/cases.h"
#include "bench/engine_steps.h"
#include "bench/resident.h"
#include "bench/session_times.h"

namespace goldfinch {
namespace {

void SessionBytes(BenchRun& run) {
  constexpr double kTokens = 65536;
  if (!run.Wanted("session_bytes")) return;
  const ModelConfig& config = run.config();
  const double bytes = run.costs().state_bytes + kTokens * run.costs().cache_bytes;
  // A transformer of the same shape keeps keys and values in every layer.
  const double full = kTokens * 2 * config.n_embd * (run.bf16() ? 2 : 4) * config.n_layer;
  run.rows().Print("session_bytes/t:65536", bytes, "bytes", full);
  run.rows().Print("sessions_per_gb/t:65536", 1e9 / bytes, "sessions", 1e9 / full);
}

// Images of so many sessions, all different.
std::vector<PrefixImage> Images(ModelEngine& engine, std::int64_t tokens, int count) {
  std::vector<PrefixImage> images(static_cast<std::size_t>(count));
  unsigned seed = 0;
  for (PrefixImage& image : images) {
    const SequenceId id = OpenFilled(engine, tokens, tokens - 1, ++seed);
    const PrefixId kept = engine.Keep(id);
    engine.Close(id);
    const absl::Status saved = engine.Save(kept, image);
    engine.Drop(kept);
    if (!saved.ok()) BenchRun::Die(saved);
  }
  return images;
}

// So many sessions in device memory at once, each of which answers.
void Resident(BenchRun& run, std::int64_t tokens) {
  const std::string name = absl::StrCat("resident/t:", tokens);
  const auto count = static_cast<int>(run.flags().sessions);
  if (!run.Wanted(name) || !run.FitsMemory(name, tokens * count, 1, true)) return;
  run.Announce(name);
  constexpr int kImages = 3;
  ModelEngine& engine = run.EngineFor({.cached = tokens * (count + kImages + 1),
                                       .expanded = tokens + 128,
                                       .sequences = 2});
  const std::vector<PrefixImage> images = Images(engine, tokens, kImages);
  const double peak = run.limits().PeakFlops(5);
  const auto residents = MeasureResidents(engine, images, count, /*next=*/17);
  if (!residents.ok()) return run.Skip(name, std::string(residents.status().message()));
  run.rows().Print(name, static_cast<double>(residents->sessions), "sessions", 0);
  run.rows().Print(absl::StrCat("resident_load/t:", tokens),
                   1 / residents->seconds_to_load, "sessions/s", 0);
  run.rows().Print(absl::StrCat("resident_answer/t:", tokens),
                   1 / residents->seconds_to_answer, "sessions/s",
                   peak / run.costs().expand_flops / static_cast<double>(tokens));
}

// Parking a whole session and bringing it back, against plain copies of its bytes.
void Parking(BenchRun& run, std::int64_t tokens) {
  const auto name = [tokens](const char* what) {
    return absl::StrCat(what, "/t:", tokens);
  };
  const auto names = {name("keep"), name("park"), name("restore"),
                      name("open"), name("put"),  name("get")};
  if (std::ranges::none_of(names, [&run](const auto& n) { return run.Wanted(n); }))
    return;
  if (!run.FitsMemory(name("park"), tokens, 2, true)) return;
  run.Announce(name("park"));
  ModelEngine& engine = run.EngineFor(TokenRoom::For(tokens, 2, true));
  const SequenceId id = OpenFilled(engine, tokens, tokens - 1);
  const auto times = MeasureSession(engine, id, tokens);
  engine.Close(id);
  if (!times.ok()) return run.Skip(name("park"), std::string(times.status().message()));
  const auto report = [&](const char* what, double seconds, double limit) {
    run.rows().Print(name(what), times->bytes / seconds, "bytes/s", times->bytes / limit);
  };
  report("keep", times->keep, times->copy);
  report("park", times->park, times->copy);
  report("restore", times->restore, times->copy);
  report("open", times->open, times->copy);
  report("put", times->put, times->file_write);
  report("get", times->get, times->file_read);
}

}  // namespace

void RunSessionCases(BenchRun& run) {
  SessionBytes(run);
  Resident(run, 65536);
  for (const std::int64_t tokens : {8192, 65536}) Parking(run, tokens);
}

}  // namespace goldfinch
