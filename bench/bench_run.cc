#include "bench/bench_run.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/dtype_names.h"
#include "engine/sync/usable_cpus.h"

namespace goldfinch {
namespace {

ElementBytes BytesOf(const BenchFlags& flags) {
  const std::int64_t compute =
      ParseComputeDtype(flags.compute_dtype) == ComputeType::kBf16 ? 2 : 4;
  const auto bytes = [compute](const std::string& dtype) {
    return ParseStorageDtype(dtype) == StorageType::kCompute ? compute : 1;
  };
  return {.compute = compute,
          .weights = bytes(flags.weight_dtype),
          .cache = bytes(flags.cache_dtype)};
}

}  // namespace

TokenRoom TokenRoom::For(std::int64_t tokens, int sequences, bool rebuilt) {
  const std::int64_t all = (tokens / 64 + 2) * 64 * sequences;
  return {.cached = all, .expanded = rebuilt ? 0 : all, .sequences = sequences};
}

BenchRun::BenchRun(const BenchFlags& flags, Checkpoint checkpoint)
    : flags_(flags),
      checkpoint_(std::move(checkpoint)),
      bf16_(ParseComputeDtype(flags.compute_dtype) == ComputeType::kBf16),
      threads_(flags.threads > 0 ? flags.threads : UsableCpus()),
      costs_(CostsOf(checkpoint_.config(), BytesOf(flags))),
      only_(flags.cases),
      rows_(flags.json, /*decimals=*/1),
      limits_(LimitsOf()) {}

BackendOptions BenchRun::OptionsOfBackend() const {
  return {.kind = flags_.backend,
          .device = flags_.device,
          .cuda_graphs = flags_.cuda_graphs,
          .cuda_overlap = flags_.cuda_overlap,
          .cublas = flags_.cublas,
          .batch_invariant = flags_.batch_invariant,
          .cpu_isa = flags_.cpu_isa,
          .num_threads = threads_,
          .pin_threads = !flags_.float_threads};
}

std::unique_ptr<Backend> BenchRun::NewBackend() const {
  auto backend = CreateBackend(OptionsOfBackend());
  if (!backend.ok()) Die(backend.status());
  return *std::move(backend);
}

std::unique_ptr<Backend> BenchRun::BackendAlone() {
  engine_.reset();
  return NewBackend();
}

std::unique_ptr<Limits> BenchRun::LimitsOf() const {
  if (flags_.backend != "cpu") {
    std::unique_ptr<Backend> backend = NewBackend();
    if (backend->numerics().starts_with("cuda"))
      return DeviceLimits(std::move(backend), bf16_);
  }
  return CpuLimits(threads_, bf16_);
}

ModelEngine& BenchRun::EngineFor(const TokenRoom& room) {
  engine_.reset();
  ModelEngineOptions options;
  options.backend = OptionsOfBackend();
  options.compute_type = ParseComputeDtype(flags_.compute_dtype);
  options.weight_storage = ParseStorageDtype(flags_.weight_dtype).value();
  options.cache_storage = ParseStorageDtype(flags_.cache_dtype).value();
  options.run_ahead = flags_.run_ahead;
  options.vocab_table = flags_.vocab_table;
  options.max_sequences = room.sequences;
  options.max_step_tokens = flags_.step_tokens;
  options.cache_bytes = static_cast<std::int64_t>(static_cast<double>(room.cached) *
                                                  costs_.cache_bytes * 1.01);
  options.expanded_bytes = static_cast<std::int64_t>(static_cast<double>(room.expanded) *
                                                     costs_.expanded_bytes * 1.01);
  auto engine = ModelEngine::Create(options, checkpoint_);
  if (!engine.ok()) Die(engine.status());
  engine_ = *std::move(engine);
  // Whether a library has products is part of it.
  std::fprintf(stderr, "numerics id: %s\n", engine_->info().numerics_id.c_str());
  std::fprintf(stderr, "kernels: %s\n", engine_->info().kernels.c_str());
  if (!engine_->info().refused.empty())
    std::fprintf(stderr, "the driver refused %s\n", engine_->info().refused.c_str());
  return *engine_;
}

bool BenchRun::Wanted(const std::string& name) const {
  return std::regex_search(name, only_);
}

bool BenchRun::FitsMemory(const std::string& name, std::int64_t tokens, int sequences,
                          bool rebuilt) const {
  const bool ahead = flags_.backend != "cpu" && flags_.run_ahead;
  const double need =
      costs_.weight_bytes * 2 +
      sequences * (costs_.state_bytes * (ahead ? 2 : 1) +
                   static_cast<double>(tokens) *
                       (costs_.cache_bytes + (rebuilt ? 0 : costs_.expanded_bytes)));
  if (need <= static_cast<double>(flags_.memory_bytes)) return true;
  Skip(name,
       absl::StrCat("needs ", static_cast<std::int64_t>(need / 1e9),
                    " GB; --memory_bytes allows ", flags_.memory_bytes / 1'000'000'000));
  return false;
}

void BenchRun::Announce(const std::string& name) {
  std::fprintf(stderr, "%s ...\n", name.c_str());
}

void BenchRun::Skip(const std::string& name, const std::string& why) {
  std::fprintf(stderr, "%s: skipped: %s\n", name.c_str(), why.c_str());
}

void BenchRun::Die(const absl::Status& status) {
  std::fprintf(stderr, "goldfinch-bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

}  // namespace goldfinch
