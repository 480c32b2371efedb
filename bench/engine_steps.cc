#include "bench/engine_steps.h"

#include <algorithm>
#include <random>
#include <span>

#include "engine/check.h"

namespace goldfinch {
namespace {

std::vector<TokenId> RandomTokens(const EngineInfo& info, std::int64_t count,
                                  unsigned seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  const auto vocab = static_cast<unsigned>(info.vocab_size);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % vocab);
  return tokens;
}

// Of `tokens` tokens, which samples after its first `prompt` + 1.
SequenceSpec SpecOf(std::int64_t tokens, std::int64_t prompt) {
  SamplingParams sampling;
  sampling.temperature = 0;
  return {.max_tokens = tokens, .first_logits = prompt, .sampling = sampling};
}

}  // namespace

double SecondsSince(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

SequenceId OpenFilled(ModelEngine& engine, std::int64_t tokens, std::int64_t context,
                      unsigned seed) {
  const EngineInfo& info = engine.info();
  const std::vector<TokenId> history = RandomTokens(info, context, seed);
  // 0.25 in bf16 and about that in float32, whatever the type.
  std::vector<std::byte> keys(static_cast<std::size_t>(context * info.key_bytes));
  for (std::size_t i = 0; i < keys.size(); ++i)
    keys[i] = i % 2 == 0 ? std::byte{0x80} : std::byte{0x3e};
  const std::vector<std::byte> state(static_cast<std::size_t>(info.state_bytes));
  PrefixImage image;
  image.length = context;
  if (info.num_pages > 0) image.tokens = history;
  image.keys = keys;
  image.state = state;
  const auto prefix = engine.Load(image);
  GOLDFINCH_CHECK(prefix.ok());
  const auto id = engine.OpenFrom(*prefix, SpecOf(tokens, context), history);
  GOLDFINCH_CHECK(id.ok());
  engine.Drop(*prefix);
  return *id;
}

double PrefillOnce(ModelEngine& engine, std::int64_t tokens) {
  const std::vector<TokenId> prompt = RandomTokens(engine.info(), tokens, 1);
  const auto id = engine.Open(SpecOf(tokens, tokens - 1));
  GOLDFINCH_CHECK(id.ok());
  const auto start = BenchClock::now();
  const std::int64_t grid = engine.info().prompt_grid;
  const std::int64_t step = std::max(grid, engine.info().max_step_tokens / grid * grid);
  for (std::int64_t begin = 0, count = 0; begin < tokens; begin += count) {
    const std::int64_t end = std::min(begin + step, tokens);
    count = engine.info().SpanEnd(begin, end, tokens - 1) - begin;
    Span span;
    span.sequence = *id;
    span.tokens = std::span(prompt).subspan(static_cast<std::size_t>(begin),
                                            static_cast<std::size_t>(count));
    if (begin + count == tokens) span.output = SpanOutput::kSample;
    SpanResult result;
    GOLDFINCH_CHECK(engine.Forward(std::span(&span, 1), std::span(&result, 1)).ok());
  }
  const double seconds = SecondsSince(start);
  engine.Close(*id);
  return seconds;
}

void DecodeSteps(ModelEngine& engine, const std::vector<SequenceId>& ids,
                 std::size_t count, std::vector<double>& seconds) {
  std::vector<Span> batch(ids.size());
  const TokenId token = 17;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    batch[i].sequence = ids[i];
    batch[i].tokens = std::span(&token, 1);
    batch[i].output = SpanOutput::kSample;
  }
  std::vector<SpanResult> results[2];
  for (std::vector<SpanResult>& some : results) some.resize(ids.size());
  auto start = BenchClock::now();
  bool is_queued = false;
  for (std::size_t i = 0; i < count; ++i) {
    if (!is_queued) engine.Queue(batch, results[i % 2]);
    is_queued = i + 1 < count && engine.QueueNext(ids, results[(i + 1) % 2]);
    GOLDFINCH_CHECK(engine.Wait().ok());
    seconds.push_back(SecondsSince(start));
    start = BenchClock::now();
  }
}

double DecodeStep(ModelEngine& engine, const std::vector<SequenceId>& ids) {
  std::vector<double> seconds;
  DecodeSteps(engine, ids, 1, seconds);
  return seconds[0];
}

}  // namespace goldfinch
