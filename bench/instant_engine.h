// An engine without a model, for benches of what is around one: every token is there at
// once, or after a time that a device would have taken. It measures how long it was left
// without work between two steps.
//
// Threads: as Engine; Pauses by any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/sync/mutex.h"

namespace goldfinch {

class InstantEngine final : public Engine {
 public:
  // Steps take `step_time`, in which the processor is free; with `runs_ahead` the next
  // one can be queued meanwhile.
  InstantEngine(std::int32_t num_slots, std::int32_t vocab_size,
                std::chrono::nanoseconds step_time, bool runs_ahead);

  // From the end of one step to the beginning of the next, in seconds, where both had at
  // least `rows` tokens; those since the last call.
  std::vector<double> TakePauses(std::int64_t rows);

  // Tokens so far.
  std::int64_t sampled() const { return sampled_.load(std::memory_order_relaxed); }

  const EngineInfo& info() const override { return info_; }
  absl::StatusOr<SequenceId> Open(const SequenceSpec& spec) override;
  absl::StatusOr<SequenceId> OpenBranch(SequenceId parent, std::int64_t at,
                                        const SequenceSpec& spec) override;
  void Branch(SequenceId child) override;
  void Close(SequenceId sequence) override;
  PrefixId Keep(SequenceId sequence) override;
  absl::StatusOr<SequenceId> OpenFrom(PrefixId base, const SequenceSpec& spec,
                                      std::span<const TokenId> history) override;
  std::int64_t PagesToOpen(PrefixId base, std::int64_t max_tokens) const override;
  void Drop(PrefixId prefix) override;
  absl::Status Save(PrefixId prefix, PrefixImage& image) override;
  absl::Status CheckImage(const PrefixImage& image) const override;
  absl::StatusOr<PrefixId> Load(const PrefixImage& image) override;
  std::size_t ReserveExpanded(std::span<const SequenceId> sequences) override {
    return sequences.size();
  }
  Preparation Prepare(SequenceId sequence, std::int64_t tokens,
                      std::int64_t max_tokens) override;
  void Queue(std::span<const Span> batch, std::span<SpanResult> results) override;
  bool QueueNext(std::span<const SequenceId> sequences,
                 std::span<SpanResult> results) override;
  absl::Status Wait() override;
  EngineUsage usage() const override;

 private:
  using Clock = std::chrono::steady_clock;
  // A step of so many rows, behind those that are queued.
  void Begin(std::int64_t rows);
  void Sample(SpanResult& result);
  struct Pause {
    std::int64_t rows;
    double seconds;
  };

  const EngineInfo info_;
  const std::chrono::nanoseconds step_time_;
  std::vector<SequenceId> free_;
  TokenId next_token_ = 0;
  std::deque<Clock::time_point> ends_;  // of queued steps
  Clock::time_point last_end_;
  std::int64_t last_rows_ = 0;
  std::atomic<std::int64_t> sampled_{0};

  Mutex mu_;
  std::vector<Pause> pauses_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
