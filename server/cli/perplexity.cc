#include "server/cli/perplexity.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/model/dtype_names.h"
#include "engine/model_engine.h"
#include "server/cli/input.h"
#include "server/text/tokenizer.h"
#include "server/text/vocabulary.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kStepTokens = 512;

ModelEngineOptions EngineOptions(const PerplexityOptions& options) {
  ModelEngineOptions engine;
  engine.model_dir = options.model_dir;
  engine.backend = {.kind = options.backend,
                    .device = options.device,
                    .cpu_isa = options.cpu_isa,
                    .num_threads = options.threads};
  engine.max_sequences = 1;
  engine.max_step_tokens = kStepTokens;
  engine.compute_type = ParseComputeDtype(options.compute_dtype);
  engine.weight_storage = ParseStorageDtype(options.weight_dtype).value();
  engine.cache_storage = ParseStorageDtype(options.cache_dtype).value();
  return engine;
}

// Sum of the log-probabilities of `tokens` after an end-of-text token.
absl::StatusOr<double> ScoreWindow(Engine& engine, std::span<const TokenId> tokens) {
  std::vector<TokenId> inputs = {kEndOfText};
  inputs.insert(inputs.end(), tokens.begin(), tokens.end() - 1);
  const auto id = engine.Open({.max_tokens = static_cast<std::int64_t>(inputs.size()),
                               .first_logits = 0,
                               .sampling = {}});
  if (!id.ok()) return id.status();
  double sum = 0;
  absl::Status status;
  for (std::size_t begin = 0; status.ok() && begin < inputs.size();
       begin += kStepTokens) {
    const std::size_t count =
        std::min(inputs.size() - begin, static_cast<std::size_t>(kStepTokens));
    Span span;
    span.sequence = *id;
    span.tokens = std::span(inputs).subspan(begin, count);
    span.output = SpanOutput::kScore;
    span.targets = tokens.subspan(begin, count);
    SpanResult result;
    status = engine.Forward(std::span(&span, 1), std::span(&result, 1));
    for (const ScoredToken& token : result.scores) sum += double{token.logprob};
  }
  engine.Close(*id);
  if (!status.ok()) return status;
  return sum;
}

absl::Status Measure(const PerplexityOptions& options, const std::string& text) {
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(options.text_path, " is empty"));
  }
  auto engine = ModelEngine::Create(EngineOptions(options));
  if (!engine.ok()) return engine.status();
  auto vocabulary =
      Vocabulary::Load((std::filesystem::path(options.model_dir) / "vocab.txt").string(),
                       (*engine)->info().vocab_size);
  if (!vocabulary.ok()) return vocabulary.status();
  const Tokenizer tokenizer(**vocabulary);
  std::vector<TokenId> tokens;
  tokenizer.Encode(text, tokens);
  if (options.max_tokens > 0 &&
      static_cast<std::int64_t>(tokens.size()) > options.max_tokens)
    tokens.resize(static_cast<std::size_t>(options.max_tokens));
  const auto bytes = static_cast<double>(tokenizer.Decode(tokens).size());

  const bool shows_progress = isatty(STDERR_FILENO) == 1;
  double sum = 0;
  const auto window = static_cast<std::size_t>(options.window);
  for (std::size_t begin = 0; begin < tokens.size(); begin += window) {
    const std::size_t count = std::min(window, tokens.size() - begin);
    auto part = ScoreWindow(**engine, std::span(tokens).subspan(begin, count));
    if (!part.ok()) return part.status();
    sum += *part;
    if (shows_progress) {
      std::fprintf(stderr, "\r%zu of %zu tokens", begin + count, tokens.size());
    }
  }
  if (shows_progress) std::fprintf(stderr, "\n");
  const double loss = -sum / static_cast<double>(tokens.size());
  if (!std::isfinite(loss))
    return absl::InternalError("the model gives some token no finite log-probability");
  std::printf("%zu tokens, %.0f bytes, %s\n", tokens.size(), bytes,
              (*engine)->info().numerics_id.c_str());
  std::printf("loss %.5f nats a token, perplexity %.3f, %.5f bits a byte\n", loss,
              std::exp(loss), -sum / std::log(2.0) / bytes);
  return absl::OkStatus();
}

}  // namespace

int RunPerplexity(const PerplexityOptions& options) {
  std::string text;
  const int exit_code = ReadText(options.text_path, text);
  if (exit_code != 0) return exit_code;
  const absl::Status status = Measure(options, text);
  if (status.ok()) return 0;
  std::fprintf(stderr, "goldfinch perplexity: %s\n",
               std::string(status.message()).c_str());
  return 1;
}

}  // namespace goldfinch
