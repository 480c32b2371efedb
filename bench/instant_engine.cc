#include "bench/instant_engine.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace goldfinch {
namespace {

absl::Status NoPrefixes() { return absl::UnimplementedError("it keeps no prefixes"); }

}  // namespace

InstantEngine::InstantEngine(std::int32_t num_slots, std::int32_t vocab_size,
                             std::chrono::nanoseconds step_time, bool runs_ahead)
    : info_{.vocab_size = vocab_size,
            .page_tokens = 64,
            .num_slots = num_slots,
            .max_step_tokens = 4096,
            .runs_ahead = runs_ahead,
            .compute_dtype = "f32",
            .numerics_id = "instant",
            .model_fingerprint = "0000000000000000"},
      step_time_(step_time) {
  for (std::int32_t i = num_slots; i-- > 0;) free_.push_back(static_cast<SequenceId>(i));
  pauses_.reserve(std::size_t{1} << 20);
}

std::vector<double> InstantEngine::TakePauses(std::int64_t rows) {
  std::vector<double> seconds;
  const MutexLock lock(mu_);
  for (const Pause& pause : pauses_)
    if (pause.rows >= rows) seconds.push_back(pause.seconds);
  pauses_.clear();
  return seconds;
}

absl::StatusOr<SequenceId> InstantEngine::Open(const SequenceSpec&) {
  if (free_.empty()) return absl::ResourceExhaustedError("no slot is free");
  const SequenceId id = free_.back();
  free_.pop_back();
  return id;
}

absl::StatusOr<SequenceId> InstantEngine::OpenBranch(SequenceId, std::int64_t,
                                                     const SequenceSpec& spec) {
  return Open(spec);
}
void InstantEngine::Branch(SequenceId) {}
void InstantEngine::Close(SequenceId sequence) { free_.push_back(sequence); }
PrefixId InstantEngine::Keep(SequenceId) { return PrefixId::kNone; }
absl::StatusOr<SequenceId> InstantEngine::OpenFrom(PrefixId, const SequenceSpec& spec,
                                                   std::span<const TokenId>) {
  return Open(spec);
}
std::int64_t InstantEngine::PagesToOpen(PrefixId, std::int64_t) const { return 0; }
void InstantEngine::Drop(PrefixId) {}
absl::Status InstantEngine::Save(PrefixId, PrefixImage&) { return NoPrefixes(); }
absl::Status InstantEngine::CheckImage(const PrefixImage&) const { return NoPrefixes(); }
absl::StatusOr<PrefixId> InstantEngine::Load(const PrefixImage&) { return NoPrefixes(); }
Preparation InstantEngine::Prepare(SequenceId, std::int64_t, std::int64_t) { return {}; }

void InstantEngine::Queue(std::span<const Span> batch, std::span<SpanResult> results) {
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    rows += static_cast<std::int64_t>(batch[i].tokens.size());
    results[i].scores.clear();
    if (batch[i].output == SpanOutput::kSample) Sample(results[i]);
  }
  Begin(rows);
}

bool InstantEngine::QueueNext(std::span<const SequenceId> sequences,
                              std::span<SpanResult> results) {
  if (!info_.runs_ahead || sequences.empty()) return false;
  for (SpanResult& result : results) Sample(result);
  Begin(static_cast<std::int64_t>(results.size()));
  return true;
}

// Whole characters, never the end of a text.
void InstantEngine::Sample(SpanResult& result) {
  result.sample.token = 'a' + 1 + next_token_;
  next_token_ = (next_token_ + 1) % 26;
  sampled_.fetch_add(1, std::memory_order_relaxed);
}

void InstantEngine::Begin(std::int64_t rows) {
  const Clock::time_point begin = std::max(Clock::now(), last_end_);
  if (const std::int64_t least = std::min(rows, last_rows_); least > 0) {
    const MutexLock lock(mu_);
    if (pauses_.size() < pauses_.capacity())
      pauses_.push_back(
          {least, std::chrono::duration<double>(begin - last_end_).count()});
  }
  last_rows_ = rows;
  last_end_ = begin + step_time_;
  ends_.push_back(last_end_);
}

absl::Status InstantEngine::Wait() {
  if (step_time_.count() > 0) std::this_thread::sleep_until(ends_.front());
  ends_.pop_front();
  // What the thread slept too long is not the caller's.
  if (ends_.empty()) last_end_ = Clock::now();
  return absl::OkStatus();
}

EngineUsage InstantEngine::usage() const {
  return {.slots_used = info_.num_slots - static_cast<std::int32_t>(free_.size())};
}

}  // namespace goldfinch
