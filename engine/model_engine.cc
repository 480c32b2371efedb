#include "engine/model_engine.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/create_backend.h"
#include "engine/cache/sequence_table.h"
#include "engine/check.h"
#include "engine/gold_rows.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"
#include "engine/model_limits.h"

namespace goldfinch {
namespace {

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
  void Queue(std::span<const Span> batch, std::span<SpanResult> results) override;
  bool QueueNext(std::span<const SequenceId> sequences,
                 std::span<SpanResult> results) override;
  absl::Status Wait() override;
  void WriteCache(SequenceId id, std::span<const TokenId> tokens,
                  std::span<const std::byte> keys) override {
    Sequence& sequence = table_.Get(id);
    const auto count = static_cast<std::int64_t>(tokens.size());
    GOLDFINCH_CHECK(sequence.length + count <= sequence.spec.max_tokens);
    model_.WriteCache(sequence.pages, sequence.length, tokens, keys);
    sequence.length += count;
  }

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
    info.state_bytes = model.state_bytes();
    info.key_bytes = model.stored_key_bytes();
    info.num_pages = model.num_pages();
    info.expanded_pages = model.expanded_pages();
    info.device_bytes = model.device_bytes();
    return info;
  }
  // model.md: GOLD layers are needed on this many positions before a wanted one.
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

absl::StatusOr<SequenceId> ModelEngineImpl::Open(const SequenceSpec& spec) {
  auto id = table_.Open(spec, {});
  if (id.ok()) model_.ClearSlot(table_.Get(*id).slot);
  return id;
}

absl::StatusOr<SequenceId> ModelEngineImpl::OpenBranch(SequenceId parent_id,
                                                       std::int64_t at,
                                                       const SequenceSpec& spec) {
  const Sequence& parent = table_.Get(parent_id);
  GOLDFINCH_CHECK(at <= parent.spec.max_tokens);
  const std::int64_t shared = info_.num_pages > 0 ? at / info_.page_tokens : 0;
  auto id =
      table_.Open(spec, std::span(parent.pages).first(static_cast<std::size_t>(shared)));
  if (!id.ok()) return id;
  Sequence& child = table_.Get(*id);
  child.parent = parent_id;
  child.branch_at = at;
  return id;
}

void ModelEngineImpl::CopyPartialPage(std::span<const std::int32_t> from,
                                      std::int64_t length,
                                      std::span<const std::int32_t> to) {
  if (info_.num_pages == 0 || length % info_.page_tokens == 0) return;
  const auto partial = static_cast<std::size_t>(length / info_.page_tokens);
  model_.CopyPage(from[partial], to[partial]);
}

void ModelEngineImpl::Branch(SequenceId child_id) {
  Sequence& child = table_.Get(child_id);
  GOLDFINCH_CHECK(child.parent != SequenceId::kNone);
  const Sequence& parent = table_.Get(child.parent);
  GOLDFINCH_CHECK(parent.length == child.branch_at);
  model_.CopySlot(parent.slot, child.slot);
  CopyPartialPage(parent.pages, parent.length, child.pages);
  child.length = parent.length;
  child.gold = parent.gold;
  if (child.counts.has_value() && parent.counts.has_value()) child.counts = parent.counts;
  child.parent = SequenceId::kNone;
}

void ModelEngineImpl::Close(SequenceId id) {
  for (Flight& flight : flights_)
    for (Flight::Sampled& sampled : flight.sampled)
      if (sampled.sequence == id) sampled.sequence = SequenceId::kNone;
  table_.Close(id);
}

PrefixId ModelEngineImpl::Keep(SequenceId id) {
  const PrefixId prefix = table_.Keep(id);
  auto state = std::make_shared<HostBytes>(static_cast<std::size_t>(info_.state_bytes));
  model_.ReadState(table_.Get(id).slot, state->span());
  table_.Get(prefix).state = std::move(state);
  return prefix;
}

absl::StatusOr<SequenceId> ModelEngineImpl::OpenFrom(PrefixId base_id,
                                                     const SequenceSpec& spec,
                                                     std::span<const TokenId> history) {
  const Prefix& base = table_.Get(base_id);
  GOLDFINCH_CHECK(base.length < spec.max_tokens);
  GOLDFINCH_CHECK(base.gold.CanGoOn(gold_rows(), base.length, spec.first_logits));
  auto id = table_.Open(spec, table_.FullPages(base));
  if (!id.ok()) return id;
  Sequence& sequence = table_.Get(*id);
  CopyPartialPage(base.pages, base.length, sequence.pages);
  model_.WriteState(sequence.slot, base.state->span());
  sequence.length = base.length;
  sequence.gold = base.gold;
  if (!sequence.counts.has_value()) return id;
  GOLDFINCH_CHECK(static_cast<std::int64_t>(history.size()) >= base.length);
  const auto prompt = static_cast<std::size_t>(
      std::min(static_cast<std::int64_t>(history.size()), spec.first_logits + 1));
  sequence.counts->AddPrompt(history.first(prompt));
  for (const TokenId token : history.subspan(prompt)) sequence.counts->AddOutput(token);
  return id;
}

absl::Status ModelEngineImpl::Save(PrefixId id, PrefixImage& image) {
  struct Owner {
    HostBytes keys;
    std::shared_ptr<const HostBytes> state;
  };
  const Prefix& prefix = table_.Get(id);
  const auto key_bytes = static_cast<std::size_t>(prefix.length * info_.key_bytes);
  const auto owner =
      std::make_shared<Owner>(Owner{.keys = HostBytes(key_bytes), .state = prefix.state});
  image.length = prefix.length;
  model_.ReadCache(prefix.pages, prefix.length, image.tokens, owner->keys.span());
  image.keys = owner->keys.span();
  image.state = owner->state->span();
  image.owner = owner;
  // Copies of a device that has failed leave what was there. Its state may have been kept
  // after the fault, too; a fault is never forgotten.
  return backend_->status();
}

absl::StatusOr<PrefixId> ModelEngineImpl::Load(const PrefixImage& image) {
  GOLDFINCH_CHECK(CheckImage(image).ok());
  auto id = table_.NewPrefix(image.length);
  if (!id.ok()) return id;
  Prefix& prefix = table_.Get(*id);
  // A copy: the image may be a part of something larger.
  auto state = std::make_shared<HostBytes>(image.state.size());
  std::memcpy(state->span().data(), image.state.data(), image.state.size());
  prefix.state = std::move(state);
  model_.WriteCache(prefix.pages, 0, image.tokens, image.keys);
  return id;
}

absl::Status ModelEngineImpl::CheckImage(const PrefixImage& image) const {
  const auto expect = [](const char* what, std::size_t got,
                         std::int64_t want) -> absl::Status {
    if (static_cast<std::int64_t>(got) == want) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the sequence's ", what, " are ", got, "; this model has ", want));
  };
  // No product of a hostile length below overflows.
  constexpr std::int64_t kMaxLength = std::int64_t{1} << 40;
  if (image.length < 1 || image.length > kMaxLength)
    return absl::InvalidArgumentError(
        absl::StrCat("the sequence has ", image.length, " tokens"));
  const std::int64_t tokens = config().num_gold() > 0 ? image.length : 0;
  absl::Status status = expect("tokens", image.tokens.size(), tokens);
  if (status.ok())
    status = expect("bytes of keys", image.keys.size(), tokens * info_.key_bytes);
  if (status.ok())
    status = expect("bytes of state", image.state.size(), info_.state_bytes);
  for (std::size_t i = 0; status.ok() && i < image.tokens.size(); ++i)
    if (image.tokens[i] < 0 || image.tokens[i] >= info_.vocab_size)
      status = absl::InvalidArgumentError(
          absl::StrCat("the sequence's token ", i, " is ", image.tokens[i],
                       "; it must be in [0, ", info_.vocab_size, ")"));
  return status;
}

void ModelEngineImpl::Feed(Sequence& sequence, std::span<const TokenId> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (sequence.counts.has_value() && sequence.length <= sequence.spec.first_logits) {
    const std::int64_t prompt =
        std::min(count, sequence.spec.first_logits + 1 - sequence.length);
    sequence.counts->AddPrompt(tokens.first(static_cast<std::size_t>(prompt)));
  }
  sequence.length += count;
}

SpanInput ModelEngineImpl::InputOf(const Span& span) {
  Sequence& sequence = table_.Get(span.sequence);
  const std::int64_t position = sequence.length;
  const std::int64_t end = position + static_cast<std::int64_t>(span.tokens.size());
  GOLDFINCH_CHECK(sequence.parent == SequenceId::kNone && end > position &&
                  end <= sequence.spec.max_tokens);
  const std::span<const std::int64_t> keep_at = sequence.spec.keep_at;
  const auto next = std::upper_bound(keep_at.begin(), keep_at.end(), position);
  GOLDFINCH_CHECK(next == keep_at.end() || end <= *next);
  const std::int64_t first_logits = sequence.spec.first_logits;
  const std::int64_t begin = GoldBegin(sequence);
  GOLDFINCH_CHECK(info_.SpanEnd(position, end, first_logits) == end);
  sequence.gold.Advance(position, end, begin);
  Feed(sequence, span.tokens);
  return {.slot = sequence.slot,
          .next_slot = sequence.slot,
          .position = position,
          .tokens = span.tokens,
          .pages = sequence.pages,
          .gold_begin = begin,
          .prompt = info_.IsPrompt(position, first_logits)};
}

Preparation ModelEngineImpl::Prepare(SequenceId id, std::int64_t tokens,
                                     std::int64_t max_tokens) {
  const Sequence& sequence = table_.Get(id);
  const std::int64_t begin = GoldBegin(sequence);
  GOLDFINCH_CHECK(num_flights_ == 0);
  if (config().num_gold() == 0 || begin >= sequence.length + tokens) return {};
  backend_->BeginStep();
  const Preparation done = model_.Prepare(sequence.pages, sequence.length, max_tokens);
  backend_->Synchronize();
  backend_->EndStep();
  return done;
}

void ModelEngineImpl::Queue(std::span<const Span> batch, std::span<SpanResult> results) {
  GOLDFINCH_CHECK(num_flights_ == 0 && batch.size() == results.size());
  Flight& flight = flights_[first_flight_];
  num_flights_ = 1;
  spans_.clear();
  for (const Span& span : batch) spans_.push_back(InputOf(span));
  for (SpanResult& result : results) result.scores.clear();  // of an earlier step
  backend_->BeginStep();
  model_.Run(spans_);
  SampleSpans(batch, results, flight);
  ScoreSpans(batch, results);
  for (std::size_t i = 0; i < batch.size(); ++i)
    if (batch[i].output == SpanOutput::kLogits) CopyLogits(batch[i], i);
  backend_->EndStep();
}

void ModelEngineImpl::SampleSpans(std::span<const Span> batch,
                                  std::span<SpanResult> results, Flight& flight) {
  const auto samples = std::count_if(batch.begin(), batch.end(), [](const Span& span) {
    return span.output == SpanOutput::kSample;
  });
  flight.started = samples <= max_logit_rows_;
  rows_.clear();
  sample_requests_.clear();
  const auto flush = [&] {
    if (rows_.empty()) return;
    const Matrix logits = model_.Logits(rows_);
    if (flight.started)
      backend_->StartSample(logits, sample_requests_, first_flight_);
    else
      backend_->Sample(logits, sample_requests_);
    rows_.clear();
    sample_requests_.clear();
  };
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output != SpanOutput::kSample) continue;
    const Sequence& sequence = table_.Get(batch[i].sequence);
    GOLDFINCH_CHECK(sequence.length > sequence.spec.first_logits);
    sample_requests_.push_back(
        {.row = static_cast<std::int64_t>(rows_.size()),
         .params = &sequence.spec.sampling,
         .counts = sequence.counts.has_value() ? &*sequence.counts : nullptr,
         .num_generated = sequence.num_generated,
         .out = &results[i].sample});
    flight.sampled.push_back({batch[i].sequence, &results[i].sample});
    rows_.push_back(
        model_.OutputRow(i, static_cast<std::int64_t>(batch[i].tokens.size()) - 1));
    if (static_cast<std::int64_t>(rows_.size()) == max_logit_rows_) flush();
  }
  flush();
}

bool ModelEngineImpl::QueueNext(std::span<const SequenceId> sequences,
                                std::span<SpanResult> results) {
  GOLDFINCH_CHECK(num_flights_ == 1 && sequences.size() == results.size());
  Flight& last = first_flight();
  if (sequences.empty() || !info_.runs_ahead || !last.started) return false;
  Settle(last);
  if (static_cast<std::int64_t>(sequences.size()) > table_.spare_slots()) return false;

  const int set = 1 - first_flight_;
  Flight& flight = flights_[set];
  flight.started = flight.ahead = true;
  num_flights_ = 2;
  static constexpr TokenId kNotSeen = 0;
  spans_.clear();
  rows_.clear();
  sample_requests_.clear();
  std::size_t sampled = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    while (sampled < last.sampled.size() &&
           last.sampled[sampled].sequence != sequences[i])
      ++sampled;
    GOLDFINCH_CHECK(sampled < last.sampled.size());
    Sequence& sequence = table_.Get(sequences[i]);
    GOLDFINCH_CHECK(sequence.length < sequence.spec.max_tokens);
    table_.TakeNextSlot(sequence);
    spans_.push_back({.slot = sequence.slot,
                      .next_slot = sequence.next_slot,
                      .position = sequence.length,
                      .tokens = std::span(&kNotSeen, 1),
                      .pages = sequence.pages,
                      .gold_begin = GoldBegin(sequence),
                      .sampled = static_cast<std::int64_t>(sampled)});
    sample_requests_.push_back(
        {.row = static_cast<std::int64_t>(i),
         .params = &sequence.spec.sampling,
         // The token of the step before is not counted yet.
         .counts = sequence.counts.has_value() ? &*sequence.counts : nullptr,
         .pending = static_cast<std::int64_t>(sampled),
         .num_generated = sequence.num_generated + 1,
         .out = &results[i].sample});
    flight.sampled.push_back({sequences[i], &results[i].sample});
  }
  backend_->BeginStep();
  model_.Run(spans_, backend_->SampledTokens(first_flight_));
  for (std::size_t i = 0; i < sequences.size(); ++i)
    rows_.push_back(model_.OutputRow(i, 0));
  backend_->StartSample(model_.Logits(rows_), sample_requests_, set);
  backend_->EndStep();
  return true;
}

void ModelEngineImpl::Settle(Flight& flight) {
  if (!flight.ahead) return;
  flight.ahead = false;
  for (const auto& [id, out] : flight.sampled) {
    if (id == SequenceId::kNone) continue;
    Sequence& sequence = table_.Get(id);
    sequence.gold.Advance(sequence.length, sequence.length + 1, GoldBegin(sequence));
    ++sequence.length;
    table_.MoveToNextSlot(sequence);
  }
}

absl::Status ModelEngineImpl::Wait() {
  GOLDFINCH_CHECK(num_flights_ > 0);
  Flight& flight = first_flight();
  Settle(flight);
  if (flight.started) backend_->FinishSample(first_flight_);
  if (num_flights_ == 1) backend_->Synchronize();
  for (const auto& [id, out] : flight.sampled) {
    if (id == SequenceId::kNone) continue;
    Sequence& sequence = table_.Get(id);
    ++sequence.num_generated;
    if (sequence.counts.has_value()) sequence.counts->AddOutput(out->token);
  }
  flight.sampled.clear();
  first_flight_ = 1 - first_flight_;
  --num_flights_;
  absl::Status status = backend_->status();
  // A step behind one that failed has failed as well.
  if (!status.ok() && num_flights_ > 0) static_cast<void>(Wait());
  return status;
}

void ModelEngineImpl::ScoreSpans(std::span<const Span> batch,
                                 std::span<SpanResult> results) {
  rows_.clear();
  score_requests_.clear();
  const auto flush = [this] {
    if (!rows_.empty()) backend_->Score(model_.Logits(rows_), score_requests_);
    rows_.clear();
    score_requests_.clear();
  };
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output != SpanOutput::kScore) continue;
    const std::span<const TokenId> targets = batch[i].targets;
    GOLDFINCH_CHECK(batch[i].first_output_row +
                        static_cast<std::int64_t>(targets.size()) ==
                    static_cast<std::int64_t>(batch[i].tokens.size()));
    results[i].scores.resize(targets.size());
    for (std::size_t j = 0; j < targets.size(); ++j) {
      score_requests_.push_back({.row = static_cast<std::int64_t>(rows_.size()),
                                 .target = targets[j],
                                 .out = &results[i].scores[j]});
      rows_.push_back(
          model_.OutputRow(i, batch[i].first_output_row + static_cast<std::int64_t>(j)));
      if (static_cast<std::int64_t>(rows_.size()) == max_logit_rows_) flush();
    }
  }
  flush();
}

Matrix ModelEngineImpl::SpanLogits(std::size_t index, std::int64_t first,
                                   std::int64_t count) {
  rows_.clear();
  for (std::int64_t i = 0; i < count; ++i)
    rows_.push_back(model_.OutputRow(index, first + i));
  return model_.Logits(rows_);
}

void ModelEngineImpl::CopyLogits(const Span& span, std::size_t index) {
  const auto count =
      static_cast<std::int64_t>(span.tokens.size()) - span.first_output_row;
  const std::int64_t vocab = info_.vocab_size;
  GOLDFINCH_CHECK(static_cast<std::int64_t>(span.logits.size()) == count * vocab);
  for (std::int64_t first = 0; first < count; first += max_logit_rows_) {
    const std::int64_t rows = std::min(max_logit_rows_, count - first);
    const Matrix logits = SpanLogits(index, span.first_output_row + first, rows);
    backend_->CopyToHost(span.logits.data() + first * vocab, logits.data,
                         rows * vocab * static_cast<std::int64_t>(sizeof(float)));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelEngine>> ModelEngine::Create(
    const ModelEngineOptions& options) {
  // Cheap mistakes first: loading may read gigabytes.
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  auto checkpoint = Checkpoint::Load(options.model_dir);
  if (!checkpoint.ok()) return checkpoint.status();
  return Create(options, *checkpoint);
}

absl::StatusOr<std::unique_ptr<ModelEngine>> ModelEngine::Create(
    const ModelEngineOptions& options, const Checkpoint& checkpoint) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  try {
    auto backend = CreateBackend({.backend = options.backend,
                                  .device = options.device,
                                  .cuda_graphs = options.cuda_graphs,
                                  .batch_invariant = options.batch_invariant,
                                  .cpu_isa = options.cpu_isa,
                                  .num_threads = options.num_threads,
                                  .pin_threads = options.pin_threads});
    if (!backend.ok()) return backend.status();
    return Create(options, checkpoint, *std::move(backend));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("not enough memory for the backend");
  }
}

absl::StatusOr<std::unique_ptr<ModelEngine>> ModelEngine::Create(
    const ModelEngineOptions& options, const Checkpoint& checkpoint,
    std::unique_ptr<Backend> backend) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  const ComputeType compute = options.compute_type.value_or(
      checkpoint.stored_bf16() ? ComputeType::kBf16 : ComputeType::kF32);
  const DType type = compute == ComputeType::kBf16 ? DType::kBf16 : DType::kF32;
  // Prompts fill the device twice over.
  ModelEngineOptions sized = options;
  if (sized.max_step_tokens == 0)
    sized.max_step_tokens = static_cast<std::int32_t>(2 * backend->piece_rows());
  auto limits = LimitsOf(sized, checkpoint.config(), type);
  if (!limits.ok()) return limits.status();
  const char* name = compute == ComputeType::kBf16 ? "bf16" : "f32";
  EngineInfo info{.vocab_size = checkpoint.config().vocab_size,
                  .page_tokens = options.page_tokens,
                  .num_slots = options.max_sequences,
                  .max_step_tokens = static_cast<std::int32_t>(limits->max_rows),
                  .prompt_grid = static_cast<std::int32_t>(backend->prompt_grid()),
                  .runs_ahead = options.run_ahead && backend->runs_ahead(),
                  .compute_dtype = name,
                  // Behind the backend's.
                  .numerics_id = absl::StrCat(
                      "-", name,
                      options.weight_storage == StorageType::kInt8  ? "-w8"
                      : options.weight_storage == StorageType::kFp8 ? "-wf8"
                                                                    : "",
                      options.cache_storage == StorageType::kInt8 ? "-c8" : "",
                      // Attention folds a page at a time.
                      "-p", options.page_tokens),
                  .model_fingerprint = checkpoint.fingerprint()};
  limits->max_rows += info.prompt_grid - 1;
  limits->max_logit_rows =
      std::min(std::max<std::int64_t>(kLeastLogitRows, options.max_sequences),
               backend->max_logit_rows());
  // A step's samples are one set.
  if (info.runs_ahead)
    limits->spare_slots =
        std::min<std::int64_t>(options.max_sequences, limits->max_logit_rows);
  const Backend& device = *backend;
  try {
    auto engine = std::make_unique<ModelEngineImpl>(std::move(backend), checkpoint, type,
                                                    *limits, std::move(info));
    if (absl::Status status = device.status(); !status.ok()) return status;
    return engine;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "not enough memory for the model; lower cache_bytes, expanded_bytes, "
        "max_sequences or step_tokens");
  }
}

}  // namespace goldfinch
