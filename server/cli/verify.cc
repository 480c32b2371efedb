#include "server/cli/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/dtype_names.h"
#include "engine/model/safetensors.h"
#include "engine/model_engine.h"

namespace goldfinch {
namespace {

// expected.safetensors; see tests/golden/README.md.
struct Expected {
  std::vector<TokenId> tokens;
  std::vector<float> logits;  // [tokens, V]
  std::vector<TokenId> greedy;
  std::vector<float> greedy_margin;
  std::vector<TokenId> long_tokens;
  std::vector<float> long_last_logits;  // [last, V]
};

absl::StatusOr<const StoredTensor*> FindTensor(const SafetensorsFile& file,
                                               const char* name, StoredType type) {
  const StoredTensor* tensor = file.Find(name);
  if (tensor == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("expected file has no ", name));
  if (tensor->type != type)
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", StoredTypeName(tensor->type), "; it must be ",
                     StoredTypeName(type)));
  return tensor;
}

absl::Status ReadTokens(const SafetensorsFile& file, const char* name,
                        std::int32_t vocab_size, std::vector<TokenId>& out) {
  auto tensor = FindTensor(file, name, StoredType::kI32);
  if (!tensor.ok()) return tensor.status();
  out.resize(static_cast<std::size_t>((*tensor)->num_elements()));
  CopyToI32(**tensor, out);
  if (out.empty()) return absl::InvalidArgumentError(absl::StrCat(name, " is empty"));
  for (const TokenId token : out)
    if (token < 0 || token >= vocab_size)
      return absl::InvalidArgumentError(
          absl::StrCat(name, " has token ", token, "; the vocabulary has ", vocab_size));
  return absl::OkStatus();
}

absl::Status ReadFloats(const SafetensorsFile& file, const char* name,
                        std::vector<float>& out) {
  auto tensor = FindTensor(file, name, StoredType::kF32);
  if (!tensor.ok()) return tensor.status();
  out.resize(static_cast<std::size_t>((*tensor)->num_elements()));
  CopyToF32(**tensor, out);
  return absl::OkStatus();
}

absl::StatusOr<Expected> ReadExpected(const std::string& path, std::int32_t vocab_size) {
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  Expected e;
  for (absl::Status status :
       {ReadTokens(**file, "tokens", vocab_size, e.tokens),
        ReadFloats(**file, "logits", e.logits),
        ReadTokens(**file, "greedy", vocab_size, e.greedy),
        ReadFloats(**file, "greedy_margin", e.greedy_margin),
        ReadTokens(**file, "long_tokens", vocab_size, e.long_tokens),
        ReadFloats(**file, "long_last_logits", e.long_last_logits)})
    if (!status.ok()) return status;
  const auto vocab = static_cast<std::size_t>(vocab_size);
  if (e.logits.size() != e.tokens.size() * vocab)
    return absl::InvalidArgumentError("logits and tokens disagree in length");
  if (e.greedy.size() != e.greedy_margin.size())
    return absl::InvalidArgumentError("greedy and greedy_margin disagree in length");
  if (e.long_last_logits.size() % vocab != 0 ||
      e.long_last_logits.size() > e.long_tokens.size() * vocab)
    return absl::InvalidArgumentError("long_last_logits and long_tokens disagree");
  return e;
}

// Runs the checked sequence, with `batch` - 1 others of random tokens and random chunks
// in the same steps.
class Verifier {
 public:
  Verifier(Engine& engine, const VerifyOptions& options)
      : engine_(engine), options_(options), random_(20240712) {}

  // Logits after every prompt token, then along the expected greedy tokens.
  absl::Status CheckPrompt(const Expected& e);
  // Logits after the last tokens of the long prompt only.
  absl::Status CheckLongPrompt(const Expected& e);

  double max_error() const { return max_error_; }
  int agreed() const { return agreed_; }
  int checked() const { return checked_; }
  int wrong_beyond(double tolerance) const {
    return static_cast<int>(
        std::count_if(wrong_margins_.begin(), wrong_margins_.end(),
                      [tolerance](double margin) { return margin > tolerance; }));
  }

 private:
  struct Other {
    SequenceId id = SequenceId::kNone;
    std::int64_t left = 0;
    std::int64_t prompt_left = 0;  // no span reaches across its end
    std::vector<TokenId> tokens;
  };

  // Feeds `tokens`; wants the logits of those from index `first_output` on.
  absl::Status Feed(SequenceId id, std::span<const TokenId> tokens,
                    std::size_t first_output, std::span<float> logits);
  absl::Status Step(const Span& span);
  absl::Status AddOtherSpan(Other& other, std::int64_t& room);
  absl::StatusOr<SequenceId> Open(std::size_t tokens, std::size_t first_logits);
  void CloseOthers();
  void Compare(std::span<const float> actual, std::span<const float> expected);

  Engine& engine_;
  const VerifyOptions& options_;
  std::mt19937 random_;
  std::vector<Other> others_;
  std::vector<Span> batch_;
  std::vector<SpanResult> results_;
  double max_error_ = 0;
  int agreed_ = 0;
  int checked_ = 0;
  std::vector<double> wrong_margins_;
};

absl::StatusOr<SequenceId> Verifier::Open(std::size_t tokens, std::size_t first_logits) {
  return engine_.Open({.max_tokens = static_cast<std::int64_t>(tokens),
                       .first_logits = static_cast<std::int64_t>(first_logits),
                       .sampling = {}});
}

void Verifier::CloseOthers() {
  for (Other& other : others_)
    if (other.id != SequenceId::kNone) engine_.Close(other.id);
  others_.clear();
}

absl::Status Verifier::AddOtherSpan(Other& other, std::int64_t& room) {
  constexpr std::int64_t kOtherTokens = 160;
  if (other.left == 0) {
    if (other.id != SequenceId::kNone) engine_.Close(other.id);
    other.id = SequenceId::kNone;
    const auto first_logits = static_cast<std::int64_t>(random_() % kOtherTokens);
    auto id = Open(kOtherTokens, static_cast<std::size_t>(first_logits));
    if (!id.ok()) return id.status();
    other.id = *id;
    other.left = kOtherTokens;
    other.prompt_left = first_logits;
  }
  std::int64_t most = std::min({std::int64_t{24}, other.left, room});
  if (other.prompt_left > 0) most = std::min(most, other.prompt_left);
  const std::int64_t count =
      1 + static_cast<std::int64_t>(random_()) % std::max<std::int64_t>(1, most);
  other.tokens.clear();
  for (std::int64_t i = 0; i < std::min(count, most); ++i)
    other.tokens.push_back(static_cast<TokenId>(
        random_() % static_cast<unsigned>(engine_.info().vocab_size)));
  other.left -= static_cast<std::int64_t>(other.tokens.size());
  other.prompt_left -= static_cast<std::int64_t>(other.tokens.size());
  room -= static_cast<std::int64_t>(other.tokens.size());
  Span span;
  span.sequence = other.id;
  span.tokens = other.tokens;
  // The checked span stands in the middle, so rows come before and after it.
  batch_.insert(batch_.begin() + static_cast<std::ptrdiff_t>(batch_.size() / 2), span);
  return absl::OkStatus();
}

absl::Status Verifier::Step(const Span& span) {
  batch_.assign(1, span);
  others_.resize(static_cast<std::size_t>(options_.batch - 1));
  std::int64_t room =
      engine_.info().max_step_tokens - static_cast<std::int64_t>(span.tokens.size());
  for (Other& other : others_) {
    if (room <= 0) break;
    if (absl::Status status = AddOtherSpan(other, room); !status.ok()) return status;
  }
  results_.resize(batch_.size());
  return engine_.Forward(batch_, results_);
}

absl::Status Verifier::Feed(SequenceId id, std::span<const TokenId> tokens,
                            std::size_t first_output, std::span<float> logits) {
  const auto vocab = static_cast<std::size_t>(engine_.info().vocab_size);
  // Leaves every other sequence a row of each step.
  const auto most = static_cast<std::size_t>(engine_.info().max_step_tokens -
                                             (options_.batch - 1) * 24);
  const std::size_t chunk = options_.chunk > 0
                                ? std::min(most, static_cast<std::size_t>(options_.chunk))
                                : most;
  for (std::size_t begin = 0, count = 0; begin < tokens.size(); begin += count) {
    count = static_cast<std::size_t>(engine_.info().SpanEnd(
                static_cast<std::int64_t>(begin),
                static_cast<std::int64_t>(std::min(begin + chunk, tokens.size())),
                static_cast<std::int64_t>(first_output))) -
            begin;
    Span span;
    span.sequence = id;
    span.tokens = tokens.subspan(begin, count);
    if (begin + count > first_output) {
      const std::size_t first = std::max(begin, first_output);
      span.output = SpanOutput::kLogits;
      span.first_output_row = static_cast<std::int64_t>(first - begin);
      span.logits =
          logits.subspan((first - first_output) * vocab, (begin + count - first) * vocab);
    }
    if (absl::Status status = Step(span); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void Verifier::Compare(std::span<const float> actual, std::span<const float> expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(double{actual[i]} - double{expected[i]});
    // A NaN compares false with everything: it must count as the largest error.
    if (!(error <= max_error_))
      max_error_ = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
}

absl::Status Verifier::CheckPrompt(const Expected& e) {
  const auto vocab = static_cast<std::size_t>(engine_.info().vocab_size);
  auto id = Open(e.tokens.size() + e.greedy.size(), 0);
  if (!id.ok()) return id.status();
  std::vector<float> logits(e.logits.size());
  absl::Status status = Feed(*id, e.tokens, 0, logits);
  Compare(logits, e.logits);
  std::vector<float> last(logits.end() - static_cast<std::ptrdiff_t>(vocab),
                          logits.end());
  for (std::size_t i = 0; status.ok() && i < e.greedy.size(); ++i) {
    const auto chosen =
        static_cast<TokenId>(std::max_element(last.begin(), last.end()) - last.begin());
    ++checked_;
    if (chosen == e.greedy[i])
      ++agreed_;
    else
      wrong_margins_.push_back(e.greedy_margin[i]);
    status = Feed(*id, std::span(e.greedy).subspan(i, 1), 0, last);
  }
  engine_.Close(*id);
  CloseOthers();
  return status;
}

absl::Status Verifier::CheckLongPrompt(const Expected& e) {
  const auto vocab = static_cast<std::size_t>(engine_.info().vocab_size);
  const std::size_t first = e.long_tokens.size() - e.long_last_logits.size() / vocab;
  auto id = Open(e.long_tokens.size(), first);
  if (!id.ok()) return id.status();
  std::vector<float> logits(e.long_last_logits.size());
  const absl::Status status = Feed(*id, e.long_tokens, first, logits);
  Compare(logits, e.long_last_logits);
  engine_.Close(*id);
  CloseOthers();
  return status;
}

absl::StatusOr<ModelEngineOptions> EngineOptions(const VerifyOptions& options) {
  ModelEngineOptions engine;
  engine.model_dir = options.model_dir;
  engine.backend = {.kind = options.backend,
                    .device = options.device,
                    .cpu_isa = options.cpu_isa,
                    .num_threads = options.threads};
  engine.compute_type = ParseComputeDtype(options.compute_dtype);
  if (!engine.compute_type.has_value() && !options.compute_dtype.empty())
    return absl::InvalidArgumentError(
        absl::StrCat("compute_dtype is ", options.compute_dtype, "; it must be ",
                     absl::StrJoin(ComputeDtypes(), " or ")));
  engine.max_sequences = options.batch;
  // The longest prompt of a case in one step, beside a few rows of every other sequence.
  engine.max_step_tokens = 2048 + (options.batch - 1) * 24;
  return engine;
}

absl::StatusOr<int> Verify(const VerifyOptions& options) {
  auto engine_options = EngineOptions(options);
  if (!engine_options.ok()) return engine_options.status();
  auto engine = ModelEngine::Create(*engine_options);
  if (!engine.ok()) return engine.status();
  auto expected = ReadExpected(options.expected_path, (*engine)->info().vocab_size);
  if (!expected.ok()) return expected.status();

  Verifier verifier(**engine, options);
  if (absl::Status status = verifier.CheckPrompt(*expected); !status.ok()) return status;
  if (absl::Status status = verifier.CheckLongPrompt(*expected); !status.ok())
    return status;

  const double tolerance =
      ParseComputeDtype((*engine)->info().compute_dtype) == ComputeType::kF32 ? 2e-3
                                                                              : 3e-2;
  std::printf("max_abs_error %.3e (tolerance %.0e, %s)\n", verifier.max_error(),
              tolerance, (*engine)->info().numerics_id.c_str());
  std::printf("greedy_agreement %d/%d\n", verifier.agreed(), verifier.checked());
  const int wrong = verifier.wrong_beyond(tolerance);
  if (wrong > 0)
    std::fprintf(
        stderr, "goldfinch verify: %d tokens differ by more than the tolerance\n", wrong);
  if (verifier.max_error() > tolerance)
    std::fprintf(stderr, "goldfinch verify: the error is above the tolerance\n");
  return wrong > 0 || verifier.max_error() > tolerance ? 1 : 0;
}

}  // namespace

int RunVerify(const VerifyOptions& options) {
  const absl::StatusOr<int> result = Verify(options);
  if (result.ok()) return *result;
  std::fprintf(stderr, "goldfinch verify: %s\n",
               std::string(result.status().message()).c_str());
  return 1;
}

}  // namespace goldfinch
