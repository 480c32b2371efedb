// goldfinch-bench: how fast the engine is, as ratios of what the machine allows.
//
// Limits are measured in the same run, next to each case, on the processor or the device
// that the engine runs on (limits.h); the cases are in cases.h.
#include <cstdio>
#include <optional>
#include <regex>
#include <string>
#include <utility>

#include "bench/bench_flags.h"
#include "bench/cases.h"
#include "bench/shape.h"
#include "engine/host_bytes.h"

namespace goldfinch {
namespace {

absl::StatusOr<Checkpoint> MakeCheckpoint(const BenchFlags& flags) {
  if (!flags.model.empty()) return Checkpoint::Load(flags.model);
  auto config = ConfigOfShape(flags.shape);
  if (!config.ok()) return config.status();
  return Checkpoint::Random(*config, 1);
}

int Main(int argc, char** argv) {
  BenchFlags flags;
  if (const std::optional<int> exit_code = ParseFlags(argc, argv, flags))
    return *exit_code;
  ReuseLargeBuffers();  // as the server does
  auto checkpoint = MakeCheckpoint(flags);
  if (!checkpoint.ok()) {
    std::fprintf(stderr, "goldfinch-bench: %s\n",
                 std::string(checkpoint.status().message()).c_str());
    return 1;
  }
  try {
    BenchRun run(flags, *std::move(checkpoint));
    RunPrefillCases(run);
    RunDecodeCases(run);
    RunOpCases(run);
    RunSessionCases(run);
  } catch (const std::regex_error& error) {
    std::fprintf(stderr, "goldfinch-bench: --cases: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace goldfinch

int main(int argc, char** argv) { return goldfinch::Main(argc, argv); }
