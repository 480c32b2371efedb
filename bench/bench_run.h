// One run of goldfinch-bench: what it was told, the model, the limits of what it runs on,
// the one engine that there is at a time, and where results go.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <regex>
#include <string>

#include "absl/status/status.h"
#include "bench/bench_flags.h"
#include "bench/limits.h"
#include "bench/rows.h"
#include "bench/shape.h"
#include "engine/backend/create_backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model_engine.h"

namespace goldfinch {

// What an engine has room for, in tokens.
struct TokenRoom {
  std::int64_t cached = 0;
  std::int64_t expanded = 0;
  int sequences = 0;

  // For sequences of so many tokens each, expanded unless they are to be rebuilt.
  static TokenRoom For(std::int64_t tokens, int sequences, bool rebuilt);
};

class BenchRun {
 public:
  // Exits when there is no such backend. Throws std::regex_error of --cases.
  BenchRun(const BenchFlags& flags, Checkpoint checkpoint);

  const BenchFlags& flags() const { return flags_; }
  const ModelConfig& config() const { return checkpoint_.config(); }
  const ShapeCosts& costs() const { return costs_; }
  bool bf16() const { return bf16_; }
  // Of the processor or the device that the engine runs on.
  Limits& limits() const { return *limits_; }
  const Rows& rows() const { return rows_; }

  // Whether --cases has it.
  bool Wanted(const std::string& name) const;
  // Whether so many sequences of so many tokens fit --memory_bytes; if not, it says so.
  bool FitsMemory(const std::string& name, std::int64_t tokens, int sequences,
                  bool rebuilt) const;
  // To whoever waits for the results.
  static void Announce(const std::string& name);
  static void Skip(const std::string& name, const std::string& why);
  [[noreturn]] static void Die(const absl::Status& status);

  // Makes an engine, before which the last one goes: two would not fit.
  ModelEngine& EngineFor(const TokenRoom& room);
  // A backend without an engine; the last one goes.
  std::unique_ptr<Backend> BackendAlone();

 private:
  BackendOptions OptionsOfBackend() const;
  std::unique_ptr<Backend> NewBackend() const;
  std::unique_ptr<Limits> LimitsOf() const;

  const BenchFlags flags_;
  const Checkpoint checkpoint_;
  const bool bf16_;
  const int threads_;
  const ShapeCosts costs_;
  const std::regex only_;
  const Rows rows_;
  const std::unique_ptr<Limits> limits_;
  std::unique_ptr<ModelEngine> engine_;
};

}  // namespace goldfinch
