// Single ops of one layer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/cases.h"
#include "bench/op_inputs.h"

namespace goldfinch {
namespace {

// Ops that are queued at once, for what one of them moves: waiting for a device takes
// some 10 us, which shall be little of it.
int NumQueued(double bytes) {
  constexpr double kAll = 1 << 30;
  return static_cast<int>(std::clamp(kAll / bytes, 1.0, 16.0));
}

// op(i) for i in [0, queued), each of which moves so many bytes.
template <typename Op>
void OneOp(BenchRun& run, const std::string& name, Backend& backend, double bytes,
           int queued, const Op& op) {
  run.Announce(name);
  const double before = CopyBandwidth(backend, 5);
  const double rate = MedianRate(backend, /*passes=*/30, bytes * queued, [&] {
    for (int i = 0; i < queued; ++i) op(i);
  });
  const double limit = (before + CopyBandwidth(backend, 5)) / 2;
  run.rows().Print(name, rate, "bytes/s", limit);
}

// States read and written, a token of each sequence; of several layers, as in a step,
// between two of which no cache keeps them.
void WkvDecode(BenchRun& run, int batch) {
  const std::string name = absl::StrCat("wkv/batch:", batch);
  const std::int64_t d = run.config().dim_att;
  if (!run.Wanted(name)) return;
  const auto backend = run.BackendAlone();
  OpInputs inputs(*backend);
  const double bytes = 2.0 * 4 * kHeadSize * static_cast<double>(batch * d);
  const int layers = NumQueued(bytes);
  std::vector<WkvArgs> args;
  for (int i = 0; i < layers; ++i) args.push_back(inputs.Wkv(batch, d, /*single=*/false));
  OneOp(run, name, *backend, bytes, layers,
        [&](int i) { backend->Wkv(args[static_cast<std::size_t>(i)]); });
}

// Expanded keys and values of one layer read, in bf16. What rows have in common counts
// for each of them, so the ratio can be above 1.
void Attend(BenchRun& run, const std::string& contexts_name,
            const std::vector<std::int64_t>& contexts,
            OpInputs::Pasts pasts = OpInputs::Pasts::kOwn) {
  const std::string name = absl::StrCat("attend/", contexts_name);
  const std::int64_t d = run.config().n_embd;
  const std::int64_t tokens =
      std::accumulate(contexts.begin(), contexts.end(), std::int64_t{0});
  const double bytes = 2.0 * 2 * static_cast<double>(tokens * d);
  if (!run.Wanted(name)) return;
  if (bytes > static_cast<double>(run.flags().memory_bytes))
    return run.Skip(name, "--memory_bytes allows less");
  const auto backend = run.BackendAlone();
  OpInputs inputs(*backend);
  const AttendArgs args = inputs.Attend(contexts, d, pasts);
  OneOp(run, name, *backend, bytes, NumQueued(bytes),
        [&](int) { backend->Attend(args); });
}

}  // namespace

void RunOpCases(BenchRun& run) {
  for (const int batch : {64, 256}) WkvDecode(run, batch);
  Attend(run, "ctx:32768/batch:1", {32768});
  Attend(run, "ctx:32768/batch:16", std::vector<std::int64_t>(16, 32768));
  Attend(run, "ctx:32768/batch:16/shared", std::vector<std::int64_t>(16, 32768),
         OpInputs::Pasts::kShared);
  // One that sees far more than the others, in their midst.
  std::vector<std::int64_t> mixed(16, 1024);
  mixed[8] = 32768;
  Attend(run, "ctx:32768,1024/batch:1,15", mixed);
}

}  // namespace goldfinch
