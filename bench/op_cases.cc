// Single ops of one layer.
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

template <typename Op>
void OneOp(BenchRun& run, const std::string& name, Backend& backend, double bytes,
           const Op& op) {
  run.Announce(name);
  const double before = CopyBandwidth(backend, 5);
  const double rate = MedianRate(backend, /*passes=*/30, bytes, op);
  const double limit = (before + CopyBandwidth(backend, 5)) / 2;
  run.rows().Print(name, rate, "bytes/s", limit);
}

// States of one layer read and written, a token of each sequence.
void WkvDecode(BenchRun& run, int batch) {
  const std::string name = absl::StrCat("wkv/batch:", batch);
  const std::int64_t d = run.config().dim_att;
  if (!run.Wanted(name)) return;
  const auto backend = run.BackendAlone();
  OpInputs inputs(*backend);
  const WkvArgs args = inputs.Wkv(batch, d, /*single=*/false);
  OneOp(run, name, *backend, 2.0 * 4 * kHeadSize * static_cast<double>(batch * d),
        [&] { backend->Wkv(args); });
}

// Expanded keys and values of one layer read, in bf16.
void Attend(BenchRun& run, const std::string& contexts_name,
            const std::vector<std::int64_t>& contexts) {
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
  const AttendArgs args = inputs.Attend(contexts, d);
  OneOp(run, name, *backend, bytes, [&] { backend->Attend(args); });
}

}  // namespace

void RunOpCases(BenchRun& run) {
  for (const int batch : {64, 256}) WkvDecode(run, batch);
  Attend(run, "ctx:32768/batch:1", {32768});
  Attend(run, "ctx:32768/batch:16", std::vector<std::int64_t>(16, 32768));
  // One that sees far more than the others, in their midst.
  std::vector<std::int64_t> mixed(16, 1024);
  mixed[8] = 32768;
  Attend(run, "ctx:32768,1024/batch:1,15", mixed);
}

}  // namespace goldfinch
