// ModelEngine's insides: model_engine.cc makes engines and keeps sequences and prefixes,
// model_engine_steps.cc runs steps.
//
// Threads: as Engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/cache/sequence_table.h"
#include "engine/gold_rows.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "engine/model_engine.h"

namespace goldfinch {

class ModelEngineImpl final : public ModelEngine {
 public:
  ModelEngineImpl(std::unique_ptr<Backend> backend, const Checkpoint& checkpoint,
                  DType type, const ModelLimits& limits, EngineInfo info)
      : backend_(std::move(backend)),
        model_(*backend_, checkpoint, type, limits),
        info_(Complete(std::move(info), *backend_, model_)),
        num_parameters_(checkpoint.num_parameters()),
        max_logit_rows_(limits.max_logit_rows),
        table_(info_, limits.spare_slots,
               [this](std::int32_t page) { model_.DropExpanded(page); }) {
    spans_.reserve(static_cast<std::size_t>(limits.num_slots));
    const auto logit_rows = static_cast<std::size_t>(max_logit_rows_);
    rows_.reserve(logit_rows);
    sample_requests_.reserve(logit_rows);
    score_requests_.reserve(logit_rows);
    for (Flight& flight : flights_)
      flight.sampled.reserve(static_cast<std::size_t>(limits.num_slots));
  }

  const EngineInfo& info() const override { return info_; }
  bool lost() const override { return !backend_->status().ok(); }
  bool takes_host_memory() const override { return !backend_->FreeBytes().has_value(); }
  const ModelConfig& config() const override { return model_.config(); }
  std::int64_t num_parameters() const override { return num_parameters_; }
  std::int64_t cache_bytes_per_token() const override { return model_.cache_row_bytes(); }
  std::int64_t state_bytes_per_sequence() const override { return model_.state_bytes(); }
  EngineUsage usage() const override {
    EngineUsage usage = table_.usage();
    usage.expanded = model_.expanded_usage();
    return usage;
  }

  absl::StatusOr<SequenceId> Open(const SequenceSpec& spec) override;
  absl::StatusOr<SequenceId> OpenBranch(SequenceId parent, std::int64_t at,
                                        const SequenceSpec& spec) override;
  void Branch(SequenceId child) override;
  void Close(SequenceId sequence) override;
  PrefixId Keep(SequenceId sequence) override;
  absl::StatusOr<SequenceId> OpenFrom(PrefixId base, const SequenceSpec& spec,
                                      std::span<const TokenId> history) override;
  std::int64_t PagesToOpen(PrefixId base, std::int64_t max_tokens) const override {
    return table_.PagesToOpen(base, max_tokens);
  }
  void Drop(PrefixId prefix) override { table_.Drop(prefix); }
  absl::Status Save(PrefixId prefix, PrefixImage& image) override;
  absl::Status CheckImage(const PrefixImage& image) const override;
  absl::StatusOr<PrefixId> Load(const PrefixImage& image) override;
  Preparation Prepare(SequenceId sequence, std::int64_t tokens,
                      std::int64_t max_tokens) override;
  std::size_t ReserveExpanded(std::span<const SequenceId> sequences) override;
  void Queue(std::span<const Span> batch, std::span<SpanResult> results) override;
  bool QueueNext(std::span<const SequenceId> sequences,
                 std::span<SpanResult> results) override;
  absl::Status Wait() override;

 private:
  // A step between Queue or QueueNext and Wait.
  struct Flight {
    struct Sampled {
      SequenceId sequence;  // none: closed since
      SampledToken* out;
    };
    std::vector<Sampled> sampled;  // in the order of their set
    bool started = false;          // their results are waited for: Backend::FinishSample
    // It came by QueueNext, and its sequences are still what they were before it.
    bool ahead = false;
  };

  static EngineInfo Complete(EngineInfo info, const Backend& backend,
                             const Model& model) {
    // Only now: it may tell of what was chosen for the model's matrices.
    info.numerics_id.insert(0, backend.numerics());
    info.kernels = backend.kernels();
    info.refused = backend.refused();
    info.state_bytes = model.state_bytes();
    info.key_bytes = model.stored_key_bytes();
    info.num_pages = model.num_pages();
    info.expanded_pages = model.expanded_pages();
    info.device_bytes = model.device_bytes();
    return info;
  }
  // docs/model.md: GOLD layers are needed on this many positions before a wanted one.
  std::int64_t gold_rows() const { return 2 * std::int64_t{config().num_gold()}; }
  // Where they begin to run in a span from here.
  std::int64_t GoldBegin(const Sequence& sequence) const {
    return GoldRows::Begin(gold_rows(), sequence.length, sequence.spec.keep_at,
                           sequence.spec.first_logits);
  }
  void CopyPartialPage(std::span<const std::int32_t> from, std::int64_t length,
                       std::span<const std::int32_t> to);
  SpanInput InputOf(const Span& span);
  void Feed(Sequence& sequence, std::span<const TokenId> tokens);
  void SampleSpans(std::span<const Span> batch, std::span<SpanResult> results,
                   Flight& flight);
  // One more of sample_requests_, for the row that is the next of rows_. `pending`: where
  // among the tokens of the step before is the one it goes on with, which nobody has
  // seen.
  void AddSample(SequenceId id, std::optional<std::int64_t> pending, SampledToken& out,
                 Flight& flight);
  Flight& first_flight() { return flights_[first_flight_]; }
  // Those of its sequences that are open go on from what it makes of them.
  void Settle(Flight& flight);
  void ScoreSpans(std::span<const Span> batch, std::span<SpanResult> results);
  void CopyLogits(const Span& span, std::size_t index);
  // Logits of up to max_logit_rows_ rows of a span, from token `first` on.
  Matrix SpanLogits(std::size_t index, std::int64_t first, std::int64_t count);

  const std::unique_ptr<Backend> backend_;
  Model model_;
  const EngineInfo info_;
  const std::int64_t num_parameters_, max_logit_rows_;
  SequenceTable table_;

  // The number of one is that of its set of samples.
  static_assert(Backend::kSampleSets == 2);
  Flight flights_[Backend::kSampleSets];
  int num_flights_ = 0, first_flight_ = 0;

  // One step.
  std::vector<SpanInput> spans_;
  std::vector<std::int64_t> rows_;
  std::vector<Backend::SampleRequest> sample_requests_;
  std::vector<Backend::ScoreRequest> score_requests_;
};

}  // namespace goldfinch
