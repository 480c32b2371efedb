#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/create_backend.h"
#include "engine/check.h"
#include "engine/model/dtype_names.h"
#include "engine/model_engine_impl.h"
#include "engine/model_limits.h"

namespace goldfinch {

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
  CopyPastCaches(state->span().data(), image.state.data(), image.state.size());
  prefix.state = std::move(state);
  model_.WriteCache(prefix.pages, image.tokens, image.keys);
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
  if (!status.ok()) return status;
  // The sign of `bits` is that of a token, or of what is left above one: a loop without a
  // way out, several tokens an instruction.
  const auto last = static_cast<std::uint32_t>(info_.vocab_size - 1);
  const auto beyond = [last](TokenId token) {
    const auto id = static_cast<std::uint32_t>(token);
    return id | (last - id);
  };
  constexpr std::uint32_t kSign = 0x80000000u;
  std::uint32_t bits = 0;
  for (const TokenId token : image.tokens) bits |= beyond(token);
  if ((bits & kSign) == 0) return absl::OkStatus();
  const auto first = std::ranges::find_if(
      image.tokens, [&](TokenId token) { return (beyond(token) & kSign) != 0; });
  return absl::InvalidArgumentError(
      absl::StrCat("the sequence's token ", first - image.tokens.begin(), " is ", *first,
                   "; it must be in [0, ", info_.vocab_size, ")"));
}

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
    auto backend = CreateBackend(options.backend);
    if (!backend.ok()) return backend.status();
    return Create(options, checkpoint, *std::move(backend));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("not enough memory for the backend");
  }
}

namespace {

std::string StoredDtype(StorageType type, const char* compute_dtype) {
  return type == StorageType::kCompute ? compute_dtype : DtypeName(type);
}

// What the numerics id says behind the backend's part.
std::string NumericsSuffix(const ModelEngineOptions& options, const char* compute_dtype) {
  const char* weights = options.weight_storage == StorageType::kInt8  ? "-w8"
                        : options.weight_storage == StorageType::kFp8 ? "-wf8"
                                                                      : "";
  const char* cache = options.cache_storage == StorageType::kInt8 ? "-c8" : "";
  // Attention folds a page at a time.
  return absl::StrCat("-", compute_dtype, weights, cache, "-p", options.page_tokens);
}

}  // namespace

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
  const char* name = DtypeName(compute);
  EngineInfo info{.vocab_size = checkpoint.config().vocab_size,
                  .page_tokens = options.page_tokens,
                  .num_slots = options.max_sequences,
                  .step_tokens = sized.max_step_tokens,
                  .max_step_tokens = static_cast<std::int32_t>(limits->max_rows),
                  .prompt_grid = static_cast<std::int32_t>(backend->prompt_grid()),
                  .runs_ahead = options.run_ahead && backend->runs_ahead(),
                  .compute_dtype = name,
                  .weight_dtype = StoredDtype(options.weight_storage, name),
                  .cache_dtype = StoredDtype(options.cache_storage, name),
                  .numerics_id = NumericsSuffix(options, name),
                  .model_fingerprint = checkpoint.fingerprint()};
  limits->max_rows += info.prompt_grid - 1;
  limits->max_logit_rows =
      std::min(std::max<std::int64_t>(kMinLogitRows, options.max_sequences),
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
  } catch (const DeviceFault& fault) {
    return fault.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "not enough memory for the model; lower cache_bytes, expanded_bytes, "
        "max_sequences or step_tokens");
  }
}

}  // namespace goldfinch
