#include "engine/model_engine.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/create_backend.h"
#include "engine/cache/page_pool.h"
#include "engine/check.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model.h"

namespace goldfinch {
namespace {

// Rows of logits computed at once: at a vocabulary of 65536, 16 MiB.
constexpr std::int64_t kLogitRows = 64;

// One open sequence; its index is its state slot.
struct Sequence {
  bool open = false;
  std::int64_t max_tokens = 0;
  std::int64_t first_logits = 0;
  std::int64_t length = 0;
  std::int64_t num_generated = 0;
  std::vector<std::int32_t> pages = {};
  SamplingParams sampling = {};
  std::optional<TokenCounts> counts = {};  // only with penalties
  SequenceId parent = SequenceId::kNone;
  std::int64_t branch_at = 0;
};

class ModelEngineImpl final : public ModelEngine {
 public:
  ModelEngineImpl(std::unique_ptr<Backend> backend, const Checkpoint& checkpoint,
                  DType type, const ModelLimits& limits, EngineInfo info)
      : backend_(std::move(backend)),
        model_(*backend_, checkpoint, type, limits),
        info_(std::move(info)),
        num_parameters_(checkpoint.num_parameters()),
        pool_(info_.num_pages),
        sequences_(static_cast<std::size_t>(limits.num_slots)) {
    for (std::int32_t slot = info_.num_slots - 1; slot >= 0; --slot)
      free_slots_.push_back(slot);
    spans_.reserve(sequences_.size());
    rows_.reserve(kLogitRows);
    sample_requests_.reserve(kLogitRows);
    score_requests_.reserve(kLogitRows);
    backend_->Prepare(limits.max_rows, config().vocab_size);
  }

  const EngineInfo& info() const override { return info_; }
  const ModelConfig& config() const override { return model_.config(); }
  std::int64_t num_parameters() const override { return num_parameters_; }
  std::int64_t cache_bytes_per_token() const override { return model_.cache_row_bytes(); }
  std::int64_t state_bytes_per_sequence() const override { return model_.state_bytes(); }
  EngineUsage usage() const override {
    return {
        .pages_used = pool_.used(),
        .slots_used = info_.num_slots - static_cast<std::int32_t>(free_slots_.size())};
  }

  absl::StatusOr<SequenceId> Open(const SequenceSpec& spec) override {
    return OpenSequence(spec, SequenceId::kNone, 0);
  }
  absl::StatusOr<SequenceId> OpenBranch(SequenceId parent, std::int64_t at,
                                        const SequenceSpec& spec) override {
    GOLDFINCH_CHECK(Get(parent).open && at <= Get(parent).max_tokens);
    return OpenSequence(spec, parent, at);
  }
  void Branch(SequenceId child) override;
  void Close(SequenceId sequence) override;
  absl::Status Forward(std::span<const Span> batch,
                       std::span<SpanResult> results) override;
  void WriteCache(SequenceId id, std::span<const TokenId> tokens,
                  std::span<const std::byte> keys) override {
    Sequence& sequence = Get(id);
    const auto count = static_cast<std::int64_t>(tokens.size());
    GOLDFINCH_CHECK(sequence.open && sequence.length + count <= sequence.max_tokens);
    model_.WriteCache(sequence.pages, sequence.length, tokens, keys);
    sequence.length += count;
  }
  void Save(SequenceId id, SequenceImage& image) override;
  absl::StatusOr<SequenceId> Restore(const SequenceSpec& spec, const SequenceImage& image,
                                     std::span<const TokenId> history) override;

 private:
  absl::Status CheckImage(const SequenceImage& image) const;
  absl::StatusOr<SequenceId> OpenSequence(const SequenceSpec& spec, SequenceId parent,
                                          std::int64_t at);
  Sequence& Get(SequenceId id) { return sequences_[static_cast<std::size_t>(id)]; }
  // model.md: the 2G positions up to the first wanted logits are enough.
  std::int64_t GoldBegin(const Sequence& sequence) const {
    const std::int64_t rows = 2 * std::int64_t{config().num_gold()};
    return std::max<std::int64_t>(0, sequence.first_logits + 1 - rows);
  }
  void Feed(Sequence& sequence, std::span<const TokenId> tokens);
  void SampleSpans(std::span<const Span> batch, std::span<SpanResult> results);
  void ScoreSpan(const Span& span, std::size_t index, SpanResult& result);
  void CopyLogits(const Span& span, std::size_t index);
  // Logits of up to kLogitRows rows of a span, from token `first` on.
  Matrix SpanLogits(std::size_t index, std::int64_t first, std::int64_t count);

  const std::unique_ptr<Backend> backend_;
  Model model_;
  const EngineInfo info_;
  const std::int64_t num_parameters_;
  PagePool pool_;
  std::vector<Sequence> sequences_;
  std::vector<std::int32_t> free_slots_;

  // One Forward.
  std::vector<SpanInput> spans_;
  std::vector<std::int64_t> rows_;
  std::vector<Backend::SampleRequest> sample_requests_;
  std::vector<Backend::ScoreRequest> score_requests_;
};

absl::StatusOr<SequenceId> ModelEngineImpl::OpenSequence(const SequenceSpec& spec,
                                                         SequenceId parent,
                                                         std::int64_t at) {
  GOLDFINCH_CHECK(spec.max_tokens > 0 && spec.first_logits < spec.max_tokens);
  if (free_slots_.empty())
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", info_.num_slots, " state slots are in use"));
  const bool branch = parent != SequenceId::kNone;
  const std::int64_t shared = branch && info_.num_pages > 0 ? at / info_.page_tokens : 0;
  const std::int64_t own = info_.PagesFor(spec.max_tokens) - shared;
  std::vector<std::int32_t> pages;
  if (branch) {
    const std::vector<std::int32_t>& from = Get(parent).pages;
    pages.assign(from.begin(), from.begin() + shared);
  }
  if (!pool_.Allocate(own, pages))
    return absl::ResourceExhaustedError(
        absl::StrCat("the sequence needs ", own, " pages; ",
                     pool_.num_pages() - pool_.used(), " are free"));
  for (std::int64_t i = 0; i < shared; ++i) pool_.Ref(pages[static_cast<std::size_t>(i)]);

  const std::int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  Sequence& sequence = sequences_[static_cast<std::size_t>(slot)];
  sequence = Sequence{.open = true,
                      .max_tokens = spec.max_tokens,
                      .first_logits = spec.first_logits,
                      .pages = std::move(pages),
                      .sampling = spec.sampling,
                      .parent = parent,
                      .branch_at = at};
  if (spec.sampling.HasPenalties()) sequence.counts.emplace(info_.vocab_size);
  if (!branch) model_.ClearSlot(slot);
  return SequenceId{slot};
}

void ModelEngineImpl::Branch(SequenceId child_id) {
  Sequence& child = Get(child_id);
  GOLDFINCH_CHECK(child.open && child.parent != SequenceId::kNone);
  const Sequence& parent = Get(child.parent);
  GOLDFINCH_CHECK(parent.open && parent.length == child.branch_at);
  model_.CopySlot(static_cast<std::int32_t>(child.parent),
                  static_cast<std::int32_t>(child_id));
  if (info_.num_pages > 0 && child.branch_at % info_.page_tokens != 0) {
    const auto partial = static_cast<std::size_t>(child.branch_at / info_.page_tokens);
    model_.CopyPage(parent.pages[partial], child.pages[partial]);
  }
  child.length = child.branch_at;
  if (child.counts.has_value() && parent.counts.has_value()) child.counts = parent.counts;
  child.parent = SequenceId::kNone;
}

void ModelEngineImpl::Close(SequenceId id) {
  Sequence& sequence = Get(id);
  GOLDFINCH_CHECK(sequence.open);
  for (const std::int32_t page : sequence.pages)
    if (pool_.Unref(page)) model_.DropExpanded(page);
  sequence = Sequence{};
  free_slots_.push_back(static_cast<std::int32_t>(id));
}

void ModelEngineImpl::Save(SequenceId id, SequenceImage& image) {
  const Sequence& sequence = Get(id);
  GOLDFINCH_CHECK(sequence.open && sequence.parent == SequenceId::kNone);
  image.length = sequence.length;
  image.num_generated = sequence.num_generated;
  model_.ReadCache(sequence.pages, sequence.length, image.tokens, image.keys);
  model_.ReadState(static_cast<std::int32_t>(id), image.state);
}

absl::Status ModelEngineImpl::CheckImage(const SequenceImage& image) const {
  const auto expect = [](const char* what, std::size_t got,
                         std::int64_t want) -> absl::Status {
    if (static_cast<std::int64_t>(got) == want) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the sequence's ", what, " are ", got, "; this model has ", want));
  };
  if (image.length < 0 || image.num_generated < 0 || image.num_generated > image.length)
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence has ", image.length, " tokens, ", image.num_generated, " sampled"));
  const bool cached = config().num_gold() > 0;
  const std::int64_t tokens = cached ? image.length : 0;
  absl::Status status = expect("tokens", image.tokens.size(), tokens);
  if (status.ok())
    status =
        expect("bytes of keys", image.keys.size(), tokens * model_.stored_key_bytes());
  if (status.ok())
    status = expect("bytes of state", image.state.size(), model_.state_bytes());
  for (std::size_t i = 0; status.ok() && i < image.tokens.size(); ++i)
    if (image.tokens[i] < 0 || image.tokens[i] >= info_.vocab_size)
      status = absl::InvalidArgumentError(
          absl::StrCat("the sequence's token ", i, " is ", image.tokens[i],
                       "; it must be in [0, ", info_.vocab_size, ")"));
  return status;
}

absl::StatusOr<SequenceId> ModelEngineImpl::Restore(const SequenceSpec& spec,
                                                    const SequenceImage& image,
                                                    std::span<const TokenId> history) {
  if (absl::Status status = CheckImage(image); !status.ok()) return status;
  GOLDFINCH_CHECK(image.length <= spec.max_tokens);
  GOLDFINCH_CHECK(!spec.sampling.HasPenalties() ||
                  static_cast<std::int64_t>(history.size()) >= image.length);
  auto id = Open(spec);
  if (!id.ok()) return id;
  Sequence& sequence = Get(*id);
  model_.WriteCache(sequence.pages, 0, image.tokens, image.keys);
  model_.WriteState(static_cast<std::int32_t>(*id), image.state);
  sequence.length = image.length;
  sequence.num_generated = image.num_generated;
  if (sequence.counts.has_value()) {
    const std::int64_t prompt =
        std::min(static_cast<std::int64_t>(history.size()), spec.first_logits + 1);
    sequence.counts->AddPrompt(history.first(static_cast<std::size_t>(prompt)));
    for (const TokenId token : history.subspan(static_cast<std::size_t>(prompt)))
      sequence.counts->AddOutput(token);
  }
  return id;
}

void ModelEngineImpl::Feed(Sequence& sequence, std::span<const TokenId> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (sequence.counts.has_value() && sequence.length <= sequence.first_logits) {
    const std::int64_t prompt =
        std::min(count, sequence.first_logits + 1 - sequence.length);
    sequence.counts->AddPrompt(tokens.first(static_cast<std::size_t>(prompt)));
  }
  sequence.length += count;
}

absl::Status ModelEngineImpl::Forward(std::span<const Span> batch,
                                      std::span<SpanResult> results) {
  GOLDFINCH_CHECK(batch.size() == results.size());
  spans_.clear();
  for (const Span& span : batch) {
    Sequence& sequence = Get(span.sequence);
    const auto count = static_cast<std::int64_t>(span.tokens.size());
    GOLDFINCH_CHECK(sequence.open && sequence.parent == SequenceId::kNone && count > 0 &&
                    sequence.length + count <= sequence.max_tokens);
    spans_.push_back({.slot = static_cast<std::int32_t>(span.sequence),
                      .position = sequence.length,
                      .tokens = span.tokens,
                      .pages = sequence.pages,
                      .gold_begin = GoldBegin(sequence)});
    Feed(sequence, span.tokens);
  }
  backend_->BeginStep();
  model_.Run(spans_);
  SampleSpans(batch, results);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output == SpanOutput::kScore) ScoreSpan(batch[i], i, results[i]);
    if (batch[i].output == SpanOutput::kLogits) CopyLogits(batch[i], i);
  }
  backend_->Synchronize();
  backend_->EndStep();
  return absl::OkStatus();
}

void ModelEngineImpl::SampleSpans(std::span<const Span> batch,
                                  std::span<SpanResult> results) {
  rows_.clear();
  sample_requests_.clear();
  const auto flush = [this] {
    if (!rows_.empty()) backend_->Sample(model_.Logits(rows_), sample_requests_);
    rows_.clear();
    sample_requests_.clear();
  };
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output != SpanOutput::kSample) continue;
    const Sequence& sequence = Get(batch[i].sequence);
    GOLDFINCH_CHECK(sequence.length > sequence.first_logits);
    sample_requests_.push_back(
        {.row = static_cast<std::int64_t>(rows_.size()),
         .params = &sequence.sampling,
         .counts = sequence.counts.has_value() ? &*sequence.counts : nullptr,
         .num_generated = sequence.num_generated,
         .out = &results[i].sample});
    rows_.push_back(
        model_.OutputRow(i, static_cast<std::int64_t>(batch[i].tokens.size()) - 1));
    if (static_cast<std::int64_t>(rows_.size()) == kLogitRows) flush();
  }
  flush();
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].output != SpanOutput::kSample) continue;
    Sequence& sequence = Get(batch[i].sequence);
    ++sequence.num_generated;
    if (sequence.counts.has_value()) sequence.counts->AddOutput(results[i].sample.token);
  }
}

Matrix ModelEngineImpl::SpanLogits(std::size_t index, std::int64_t first,
                                   std::int64_t count) {
  rows_.clear();
  for (std::int64_t i = 0; i < count; ++i)
    rows_.push_back(model_.OutputRow(index, first + i));
  return model_.Logits(rows_);
}

void ModelEngineImpl::ScoreSpan(const Span& span, std::size_t index, SpanResult& result) {
  const auto count =
      static_cast<std::int64_t>(span.tokens.size()) - span.first_output_row;
  GOLDFINCH_CHECK(static_cast<std::int64_t>(span.targets.size()) == count);
  result.scores.resize(span.targets.size());
  for (std::int64_t first = 0; first < count; first += kLogitRows) {
    const std::int64_t rows = std::min(kLogitRows, count - first);
    const Matrix logits = SpanLogits(index, span.first_output_row + first, rows);
    score_requests_.clear();
    for (std::int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<std::size_t>(first + i);
      score_requests_.push_back(
          {.row = i, .target = span.targets[at], .out = &result.scores[at]});
    }
    backend_->Score(logits, score_requests_);
  }
}

void ModelEngineImpl::CopyLogits(const Span& span, std::size_t index) {
  const auto count =
      static_cast<std::int64_t>(span.tokens.size()) - span.first_output_row;
  const std::int64_t vocab = info_.vocab_size;
  GOLDFINCH_CHECK(static_cast<std::int64_t>(span.logits.size()) == count * vocab);
  for (std::int64_t first = 0; first < count; first += kLogitRows) {
    const std::int64_t rows = std::min(kLogitRows, count - first);
    const Matrix logits = SpanLogits(index, span.first_output_row + first, rows);
    backend_->CopyToHost(span.logits.data() + first * vocab, logits.data,
                         rows * vocab * static_cast<std::int64_t>(sizeof(float)));
  }
}

absl::Status CheckOptions(const ModelEngineOptions& options) {
  const auto bounded = [](const char* name, std::int64_t value, std::int64_t low,
                          std::int64_t high) -> absl::Status {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", value, "; it must be in [", low, ", ", high, "]"));
  };
  for (absl::Status status :
       {bounded("threads", options.num_threads, 0, 1024),
        bounded("max_sequences", options.max_sequences, 1, 1 << 20),
        bounded("step_tokens", options.max_step_tokens, 1, 1 << 20),
        bounded("page_tokens", options.page_tokens, 1, kMaxPageTokens),
        bounded("cache_bytes", options.cache_bytes, 1, std::int64_t{1} << 50),
        bounded("expanded_bytes", options.expanded_bytes, 0, std::int64_t{1} << 50)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

DType StoredAs(StorageType storage, DType compute) {
  return storage == StorageType::kInt8 ? DType::kI8 : compute;
}

// Pages and tiles that fit the byte limits.
absl::StatusOr<ModelLimits> Limits(const ModelEngineOptions& options,
                                   const ModelConfig& config, DType type) {
  ModelLimits limits{.max_rows = std::max(options.max_step_tokens, options.max_sequences),
                     .num_slots = options.max_sequences,
                     .page_tokens = options.page_tokens,
                     .max_logit_rows = kLogitRows,
                     .weight_storage = StoredAs(options.weight_storage, type),
                     .cache_storage = StoredAs(options.cache_storage, type),
                     .vocab_table = options.vocab_table};
  if (config.num_gold() == 0) return limits;
  const std::int64_t page_bytes =
      options.page_tokens * GoldCache::RowBytes(config, limits.cache_storage);
  limits.num_pages = std::min<std::int64_t>(options.cache_bytes / page_bytes, 1 << 30);
  if (limits.num_pages < 1)
    return absl::InvalidArgumentError(absl::StrCat("cache_bytes is ", options.cache_bytes,
                                                   "; one page takes ", page_bytes));
  const std::int64_t tile_bytes =
      2 * options.page_tokens * config.n_embd * SizeOf(type) * config.num_gold();
  limits.arena_slots = std::min(options.expanded_bytes / tile_bytes, limits.num_pages);
  return limits;
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
  auto backend = CreateBackend({.cpu_isa = options.cpu_isa,
                                .num_threads = options.num_threads,
                                .pin_threads = options.pin_threads});
  if (!backend.ok()) return backend.status();
  const ComputeType compute = options.compute_type.value_or(
      checkpoint.stored_bf16() ? ComputeType::kBf16 : ComputeType::kF32);
  const DType type = compute == ComputeType::kBf16 ? DType::kBf16 : DType::kF32;
  auto limits = Limits(options, checkpoint.config(), type);
  if (!limits.ok()) return limits.status();
  const char* name = compute == ComputeType::kBf16 ? "bf16" : "f32";
  EngineInfo info{.vocab_size = checkpoint.config().vocab_size,
                  .page_tokens = options.page_tokens,
                  .num_pages = limits->num_pages,
                  .num_slots = options.max_sequences,
                  .max_step_tokens = static_cast<std::int32_t>(limits->max_rows),
                  .compute_dtype = name,
                  .numerics_id = absl::StrCat(
                      (*backend)->numerics(), "-", name,
                      options.weight_storage == StorageType::kInt8 ? "-w8" : "",
                      options.cache_storage == StorageType::kInt8 ? "-c8" : "",
                      // Attention folds a page at a time.
                      "-p", options.page_tokens),
                  .model_fingerprint = checkpoint.fingerprint()};
  try {
    return std::make_unique<ModelEngineImpl>(*std::move(backend), checkpoint, type,
                                             *limits, std::move(info));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "not enough memory for the model; lower cache_bytes, expanded_bytes, "
        "max_sequences or step_tokens");
  }
}

}  // namespace goldfinch
