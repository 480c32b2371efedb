#include "tests/engine/forward/engine_harness.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "engine/check.h"
#include "tests/emulation/emulated_backend.h"
#include "tests/engine/model/random_model.h"

namespace goldfinch {
namespace {

ModelConfig Base() {
  ModelConfig config = SmallestConfig();
  config.n_layer = 6;
  config.n_embd = config.dim_att = 64;
  config.dim_ffn = 96;
  config.vocab_size = 48;
  config.inv_other_layer_ratio = 3;
  config.kv_cache_compression_ratio = 16;
  return config;
}

}  // namespace

std::vector<FamilyMember> Family() {
  std::vector<FamilyMember> family;
  family.push_back({"paper", Base()});

  ModelConfig config = Base();
  config.n_layer = 9;  // G = 3: where an off-by-one in the last-2G rule shows
  config.rope = Rope{.base = 10000, .rescale = 2.0, .rebase = 1.5};
  family.push_back({"three_gold_rope", config});

  config = Base();
  config.n_layer = 8;
  config.inv_other_layer_ratio = 2;        // G = 4
  config.kv_cache_compression_ratio = 64;  // one number a token
  family.push_back({"four_gold_tiny_keys", config});

  config = Base();
  config.n_embd = config.dim_att = 192;
  config.kv_cache_compression_ratio = 64;  // three numbers a token: odd inputs
  config.n_layer = 3;
  config.use_v2 = false;
  config.dim_ffn = 251;  // no multiple of anything
  family.push_back({"odd_keys_no_v2", config});

  config = Base();
  config.kv_cache_compression_ratio = 1;
  config.use_one_minus_w = false;
  config.n_layer = 2;
  config.inv_other_layer_ratio = 2;
  family.push_back({"uncompressed_no_one_minus_w", config});

  config = Base();
  config.tmix = TimeMix::kFinch;
  config.n_layer = 4;
  family.push_back({"finch_below_gold", config});

  config = Base();
  config.tmix = TimeMix::kFinch;
  config.gold = false;
  config.n_layer = 3;
  config.dim_att = 128;  // differs from D, which pure Finch may
  family.push_back({"finch_only", config});

  config = Base();
  config.gold = false;
  config.n_layer = 2;
  family.push_back({"finch_c2_only", config});
  return family;
}

const ModelConfig& FamilyConfig(const std::string& name) {
  static const std::vector<FamilyMember> family = Family();
  const auto found =
      std::find_if(family.begin(), family.end(),
                   [&name](const FamilyMember& member) { return member.name == name; });
  GOLDFINCH_CHECK(found != family.end());
  return found->config;
}

ModelFolder::ModelFolder(const ModelConfig& config, std::uint64_t seed) {
  WriteModel(folder_.path(), config, RandomTensors(config, seed));
}

namespace {

absl::StatusOr<std::unique_ptr<ModelEngine>> CreateEngine(
    const ModelEngineOptions& options) {
  if (options.backend.kind != "cuda_emulated") return ModelEngine::Create(options);
  auto checkpoint = Checkpoint::Load(options.model_dir);
  if (!checkpoint.ok()) return checkpoint.status();
  CudaBackendOptions device = cuda_emulated::kTightOptions;
  device.graphs = options.backend.cuda_graphs;
  device.overlap = options.backend.cuda_overlap;
  device.cublas = options.backend.cublas;
  device.batch_invariant = options.backend.batch_invariant;
  auto backend = cuda_emulated::CreateCudaBackend(device);
  if (!backend.ok()) return backend.status();
  return ModelEngine::Create(options, *checkpoint, *std::move(backend));
}

}  // namespace

std::unique_ptr<ModelEngine> MakeEngine(
    const std::string& model_dir, ComputeType type,
    const std::function<void(ModelEngineOptions&)>& change) {
  ModelEngineOptions options;
  options.model_dir = model_dir;
  options.compute_type = type;
  // One: tests run side by side, and threads that wait for each other would starve.
  options.backend.num_threads = 1;
  options.cache_bytes = 4 << 20;
  options.expanded_bytes = 16 << 20;
  options.max_sequences = 8;
  options.max_step_tokens = 1300;
  if (change) change(options);
  auto engine = CreateEngine(options);
  if (!engine.ok())
    std::fprintf(stderr, "%s\n", std::string(engine.status().message()).c_str());
  GOLDFINCH_CHECK(engine.ok());
  return *std::move(engine);
}

std::vector<TokenId> RandomTokens(std::int64_t count, std::int32_t vocab_size,
                                  std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  for (TokenId& token : tokens)
    token = static_cast<TokenId>(random() % static_cast<std::uint64_t>(vocab_size));
  return tokens;
}

SequenceId OpenSequence(Engine& engine, std::int64_t max_tokens,
                        std::int64_t first_logits, const SamplingParams& sampling) {
  auto id = engine.Open(
      {.max_tokens = max_tokens, .first_logits = first_logits, .sampling = sampling});
  GOLDFINCH_CHECK(id.ok());
  return *id;
}

Span LogitsSpan(SequenceId id, std::span<const TokenId> tokens, std::int64_t first_row,
                std::vector<float>& logits, std::int32_t vocab_size) {
  logits.resize((tokens.size() - static_cast<std::size_t>(first_row)) *
                static_cast<std::size_t>(vocab_size));
  Span span;
  span.sequence = id;
  span.tokens = tokens;
  span.output = SpanOutput::kLogits;
  span.first_output_row = first_row;
  span.logits = logits;
  return span;
}

std::vector<SpanResult> Forward(Engine& engine, std::span<const Span> batch) {
  std::vector<SpanResult> results(batch.size());
  const absl::Status status = engine.Forward(batch, results);
  GOLDFINCH_CHECK(status.ok());
  return results;
}

std::vector<float> FeedInChunks(Engine& engine, std::span<const TokenId> tokens,
                                std::span<const std::int64_t> chunks,
                                std::int64_t first_logits) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const SequenceId id = OpenSequence(engine, count, first_logits);
  std::vector<float> all;
  std::size_t next = 0;
  for (std::int64_t begin = 0; begin < count;) {
    const std::int64_t asked = chunks[std::min(next++, chunks.size() - 1)];
    const std::int64_t chunk =
        engine.info().SpanEnd(begin, std::min(begin + asked, count), first_logits) -
        begin;
    const auto part =
        tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(chunk));
    Span span;
    span.sequence = id;
    span.tokens = part;
    std::vector<float> logits;
    if (begin + chunk > first_logits)
      span = LogitsSpan(id, part, std::max<std::int64_t>(0, first_logits - begin), logits,
                        engine.info().vocab_size);
    Forward(engine, std::span(&span, 1));
    all.insert(all.end(), logits.begin(), logits.end());
    begin += chunk;
  }
  engine.Close(id);
  return all;
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace goldfinch
