#include "server/validation.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/request_limits.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

// Of a message of an answer at most: a v1.TokenScore, whose id has up to four bytes, with
// its tag and length; the sums and the v1.Usage of a ScoreResponse.
constexpr std::int64_t kMaxTokenScoreBytes = 2 + 5 + 5 + 2;
constexpr std::int64_t kMaxUsageBytes = 256;

template <typename Value, typename Low, typename High>
absl::Status OutOfRange(absl::string_view name, Value value, absl::string_view open,
                        Low low, High high) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be in ", open, low, ", ", high, "]"));
}

// In as many digits as tell it from its neighbours: one just beyond a bound does not look
// like the bound.
std::string Digits(float value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

// Both tests are written so that a NaN fails them.
absl::Status InRange(absl::string_view name, float value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(name, Digits(value), "[", low, high);
}

absl::Status AboveZero(absl::string_view name, float value, double high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return OutOfRange(name, Digits(value), "(", 0, high);
}

absl::Status IntInRange(absl::string_view name, std::int64_t value, std::int64_t low,
                        std::int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(name, value, "[", low, high);
}

absl::Status AtMost(absl::string_view name, std::int64_t count, std::int64_t limit) {
  if (count <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has ", count, " entries; the limit is ", limit));
}

absl::Status TokenInVocabulary(absl::string_view name, std::int64_t id,
                               const Vocabulary& vocabulary) {
  return IntInRange(name, id, 0, vocabulary.size() - 1);
}

absl::Status FirstError(std::initializer_list<absl::Status> statuses) {
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::uint64_t RandomSeed() {
  std::random_device random;
  return (std::uint64_t{random()} << 32) | random();
}

absl::Status ReadNumbers(const v1::SamplingParams& in, SamplingParams& out) {
  out.temperature = in.has_temperature() ? in.temperature() : 1.0f;
  out.top_p = in.has_top_p() ? in.top_p() : 1.0f;
  out.top_k = in.top_k() == -1 ? 0 : in.top_k();
  out.min_p = in.min_p();
  out.repetition_penalty = in.has_repetition_penalty() ? in.repetition_penalty() : 1.0f;
  out.frequency_penalty = in.frequency_penalty();
  out.presence_penalty = in.presence_penalty();
  out.seed = in.has_seed() ? in.seed() : RandomSeed();
  if (out.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", out.top_k, "; it must be -1 or more"));
  }
  return FirstError({
      InRange("temperature", out.temperature, 0, kMaxTemperature),
      AboveZero("top_p", out.top_p, 1),
      InRange("min_p", out.min_p, 0, 1),
      AboveZero("repetition_penalty", out.repetition_penalty, kMaxPenalty),
      InRange("frequency_penalty", out.frequency_penalty, -kMaxPenalty, kMaxPenalty),
      InRange("presence_penalty", out.presence_penalty, -kMaxPenalty, kMaxPenalty),
  });
}

absl::Status ReadLogprobs(const v1::SamplingParams& in, const Vocabulary& vocabulary,
                          SamplingParams& out) {
  if (!in.has_logprobs()) return absl::OkStatus();
  // A vocabulary smaller than the number asked for is given whole.
  out.num_logprobs =
      static_cast<std::int32_t>(std::min<std::int64_t>(in.logprobs(), vocabulary.size()));
  return IntInRange("logprobs", in.logprobs(), 0, kMaxLogprobs);
}

absl::Status ReadLogitBias(const v1::SamplingParams& in, const Vocabulary& vocabulary,
                           SamplingParams& out) {
  absl::Status status = AtMost(
      "logit_bias", static_cast<std::int64_t>(in.logit_bias().size()), kMaxLogitBiases);
  if (!status.ok()) return status;
  for (const auto& [token, bias] : in.logit_bias()) {
    status = FirstError({TokenInVocabulary("logit_bias token", token, vocabulary),
                         InRange(absl::StrCat("logit_bias of token ", token), bias,
                                 -kMaxLogitBias, kMaxLogitBias)});
    if (!status.ok()) return status;
    out.logit_bias.emplace_back(token, bias);
  }
  // The map's own order is not one.
  std::sort(out.logit_bias.begin(), out.logit_bias.end());
  return absl::OkStatus();
}

absl::Status ReadStops(const v1::SamplingParams& in, const Vocabulary& vocabulary,
                       GenerateCall& call) {
  absl::Status status =
      FirstError({AtMost("stop", in.stop_size(), kMaxStops),
                  AtMost("stop_token_ids", in.stop_token_ids_size(), kMaxStopTokens)});
  if (!status.ok()) return status;
  for (int i = 0; i < in.stop_size(); ++i) {
    const std::size_t size = in.stop(i).size();
    if (size >= 1 && size <= kMaxStopBytes) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "stop[", i, "] has ", size, " bytes; it must have 1 to ", kMaxStopBytes));
  }
  status = ValidateTokens("stop_token_ids", in.stop_token_ids(), vocabulary);
  if (!status.ok()) return status;

  std::vector<TokenId>& tokens = call.request.stop_token_ids;
  tokens.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  call.stop.assign(in.stop().begin(), in.stop().end());
  absl::StatusOr<std::shared_ptr<const StopStrings>> stops =
      StopStrings::Create(call.stop);
  if (!stops.ok()) return stops.status();
  call.text.stops = *std::move(stops);
  call.text.stop_text =
      in.include_stop_str_in_output() ? StopText::kInclude : StopText::kExclude;
  return absl::OkStatus();
}

absl::Status ReadPrompt(const v1::GenerateRequest& in, const ServingLimits& limits,
                        Request& out) {
  const bool goes_on = !in.session().empty();
  if (!goes_on && !in.has_text() && !in.has_tokens()) {
    return absl::InvalidArgumentError("no input is set; set text or tokens");
  }
  absl::StatusOr<std::vector<TokenId>> prompt =
      ReadTokens("tokens", in.has_text() ? &in.text() : nullptr,
                 in.has_tokens() ? &in.tokens() : nullptr, limits);
  if (!prompt.ok()) return prompt.status();
  out.prompt = *std::move(prompt);
  const bool given = in.has_text() || in.has_tokens();
  if (given && out.prompt.empty()) {
    return absl::InvalidArgumentError("prompt has 0 tokens; it must have at least 1");
  }
  const auto size = static_cast<std::int64_t>(out.prompt.size());
  if (size > limits.max_context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt has ", size, " tokens; the limit is ", limits.max_context_tokens));
  }
  return absl::OkStatus();
}

// After the prompt is known: an unset max_tokens takes no more than the context leaves.
absl::Status ReadTokenCounts(const v1::SamplingParams& in, const ServingLimits& limits,
                             GenerateCall& call) {
  const auto prompt = static_cast<std::int64_t>(call.request.prompt.size());
  const std::int64_t left = limits.max_context_tokens - prompt;
  const std::int64_t max_tokens =
      in.has_max_tokens()
          ? in.max_tokens()
          : std::clamp<std::int64_t>(
                std::max<std::int64_t>(limits.default_max_tokens, in.min_tokens()), 1,
                std::max<std::int64_t>(left, 1));
  absl::Status status =
      FirstError({IntInRange("max_tokens", max_tokens, 1, limits.max_context_tokens),
                  IntInRange("min_tokens", in.min_tokens(), 0, max_tokens)});
  if (!status.ok()) return status;
  if (max_tokens > left) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt and max_tokens are ", prompt, " + ", max_tokens,
        " tokens; the limit of both together is ", limits.max_context_tokens));
  }
  call.sets_max_tokens = in.has_max_tokens();
  call.request.max_tokens = max_tokens;
  call.request.sampling.min_tokens = in.min_tokens();
  call.text.min_tokens = in.min_tokens();
  return absl::OkStatus();
}

absl::Status ReadSampling(const v1::SamplingParams& in, const ServingLimits& limits,
                          GenerateCall& call) {
  SamplingParams& out = call.request.sampling;
  call.request.num_candidates = in.has_n() ? in.n() : 1;
  call.request.ignore_eos = in.ignore_eos();
  // One after another: the lists are only walked when they are short enough.
  absl::Status status = IntInRange("n", call.request.num_candidates, 1, kMaxCandidates);
  if (status.ok()) status = ReadNumbers(in, out);
  if (status.ok()) status = ReadLogprobs(in, limits.vocabulary, out);
  if (status.ok()) status = ReadLogitBias(in, limits.vocabulary, out);
  if (status.ok()) status = ReadStops(in, limits.vocabulary, call);
  return status;
}

// Stop strings are looked for in tokens after `generated`, which came before: of a call
// that is resumed, which has one candidate. Read here, since they may be many and the
// step thread asks for the condition.
void SetStopCondition(std::span<const TokenId> generated, const ServingLimits& limits,
                      GenerateCall& call) {
  if (call.stop.empty()) return;
  if (generated.empty()) {
    call.request.make_stop_condition = [&vocabulary = limits.vocabulary,
                                        text = call.text] {
      return MakeStopCondition(vocabulary, text);
    };
    return;
  }
  std::unique_ptr<StopCondition> condition =
      MakeStopCondition(limits.vocabulary, call.text);
  for (const TokenId token : generated) condition->Push(token);
  call.request.make_stop_condition =
      [once = std::make_shared<std::unique_ptr<StopCondition>>(std::move(condition))] {
        return std::move(*once);
      };
}

absl::Status ReadResume(const v1::GenerateRequest& in, GenerateCall& call) {
  if (!in.session().empty() || in.has_sampling() || in.priority() != 0) {
    return absl::InvalidArgumentError(
        "session, sampling and priority must be unset with resume");
  }
  call.session = in.resume().session_id();
  call.resume_after = in.resume().tokens_received();
  // An empty one too: that is how a call without a session is told from others.
  absl::Status status = CheckSessionId(call.session);
  if (!status.ok() || *call.resume_after >= 0) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("tokens_received is ", *call.resume_after, "; it must be 0 or more"));
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> ReadTokens(absl::string_view name,
                                                const std::string* text,
                                                const v1::TokenIds* ids,
                                                const ServingLimits& limits) {
  std::vector<TokenId> tokens;
  if (text != nullptr) limits.tokenizer.Encode(*text, tokens);
  if (ids != nullptr) {
    absl::Status status = ValidateTokens(name, ids->ids(), limits.vocabulary);
    if (!status.ok()) return status;
    tokens.assign(ids->ids().begin(), ids->ids().end());
  }
  return tokens;
}

absl::StatusOr<std::size_t> ReadPageSize(std::int32_t page_size, std::int32_t unset,
                                         std::int32_t max) {
  const std::int32_t size = page_size == 0 ? unset : page_size;
  if (size < 1 || size > max) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size is ", size, "; it must be in [1, ", max, "], or 0"));
  }
  return static_cast<std::size_t>(size);
}

absl::Status BadPageToken() {
  return absl::InvalidArgumentError(
      "page_token must be the next_page_token of another answer");
}

absl::Status ValidateAnswerBytes(std::int64_t bytes, const ServingLimits& limits) {
  if (bytes <= limits.max_message_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the answer would have ", bytes,
                                                 " bytes; the limit is ",
                                                 limits.max_message_bytes));
}

absl::Status ValidatePriority(std::int32_t priority) {
  return IntInRange("priority", priority, -kMaxPriority, kMaxPriority);
}

absl::Status ValidateTokens(absl::string_view name,
                            const google::protobuf::RepeatedField<std::int32_t>& ids,
                            const Vocabulary& vocabulary) {
  for (int i = 0; i < ids.size(); ++i) {
    if (!vocabulary.Contains(ids[i])) {
      return TokenInVocabulary(absl::StrCat(name, "[", i, "]"), ids[i], vocabulary);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GenerateCall> ValidateGenerate(const v1::GenerateRequest& request,
                                              const ServingLimits& limits) {
  GenerateCall call;
  if (request.has_resume()) {
    absl::Status status = ReadResume(request, call);
    if (!status.ok()) return status;
    return call;
  }
  call.session = request.session();
  call.request.kind = RequestKind::kGenerate;
  call.request.priority = request.priority();
  absl::Status status = ValidatePriority(request.priority());
  if (status.ok()) status = ReadSampling(request.sampling(), limits, call);
  if (status.ok()) status = ReadPrompt(request, limits, call.request);
  if (status.ok()) status = ReadTokenCounts(request.sampling(), limits, call);
  if (status.ok() && !call.session.empty() && call.request.num_candidates > 1) {
    status = absl::InvalidArgumentError(absl::StrCat("n is ", call.request.num_candidates,
                                                     "; it must be 1 with a session"));
  }
  if (!status.ok()) return status;
  SetStopCondition({}, limits, call);
  return call;
}

absl::Status FitToHistory(std::int64_t history_tokens, const ServingLimits& limits,
                          GenerateCall& call) {
  const std::int64_t prompt =
      history_tokens + static_cast<std::int64_t>(call.request.prompt.size());
  if (prompt == 0) {
    return absl::InvalidArgumentError(
        "the session is empty and no input is set; set text or tokens");
  }
  const std::int64_t left = limits.max_context_tokens - prompt;
  if (!call.sets_max_tokens) {
    call.request.max_tokens =
        std::max<std::int64_t>(std::min(call.request.max_tokens, left),
                               std::max<std::int64_t>(call.text.min_tokens, 1));
  }
  if (call.request.max_tokens <= left) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("history, prompt and max_tokens are ", history_tokens, " + ",
                   call.request.prompt.size(), " + ", call.request.max_tokens,
                   " tokens; the limit of all together is ", limits.max_context_tokens));
}

Turn TurnOf(const GenerateCall& call) {
  Turn turn;
  turn.max_tokens = call.request.max_tokens;
  turn.sampling = call.request.sampling;
  turn.stop = call.stop;
  turn.stop_token_ids = call.request.stop_token_ids;
  turn.include_stop = call.text.stop_text == StopText::kInclude;
  turn.ignore_eos = call.request.ignore_eos;
  turn.priority = call.request.priority;
  turn.num_generated = call.request.num_generated;
  return turn;
}

// By way of the message it came from, so that the same bounds hold, but for the context:
// it may have been made where that is longer.
absl::StatusOr<GenerateCall> CallOf(const Turn& turn, std::span<const TokenId> generated,
                                    const ServingLimits& limits) {
  v1::SamplingParams in;
  in.set_max_tokens(turn.max_tokens);
  in.set_min_tokens(turn.sampling.min_tokens);
  in.set_temperature(turn.sampling.temperature);
  in.set_top_p(turn.sampling.top_p);
  in.set_top_k(turn.sampling.top_k);
  in.set_min_p(turn.sampling.min_p);
  in.set_repetition_penalty(turn.sampling.repetition_penalty);
  in.set_frequency_penalty(turn.sampling.frequency_penalty);
  in.set_presence_penalty(turn.sampling.presence_penalty);
  in.set_seed(turn.sampling.seed);
  for (const std::string& stop : turn.stop) in.add_stop(stop);
  in.mutable_stop_token_ids()->Add(turn.stop_token_ids.begin(),
                                   turn.stop_token_ids.end());
  in.set_include_stop_str_in_output(turn.include_stop);
  in.set_ignore_eos(turn.ignore_eos);
  for (const auto& [token, bias] : turn.sampling.logit_bias) {
    (*in.mutable_logit_bias())[token] = bias;
  }
  if (turn.sampling.num_logprobs >= 0) in.set_logprobs(turn.sampling.num_logprobs);

  GenerateCall call;
  call.request.kind = RequestKind::kGenerate;
  call.request.priority = turn.priority;
  absl::Status status = ValidatePriority(turn.priority);
  if (status.ok()) status = ReadSampling(in, limits, call);
  ServingLimits longer = limits;
  longer.max_context_tokens = std::max(limits.max_context_tokens, turn.max_tokens);
  if (status.ok()) status = ReadTokenCounts(in, longer, call);
  const bool fits = turn.num_generated <= turn.max_tokens &&
                    (turn.end.has_value() || turn.num_generated < turn.max_tokens);
  if (!status.ok() || !fits) {
    return absl::DataLossError("the session's last generation cannot be read");
  }
  call.request.num_generated = turn.num_generated;
  SetStopCondition(generated, limits, call);
  return call;
}

absl::StatusOr<Request> ValidateScore(const v1::ScoreRequest& request,
                                      const ServingLimits& limits) {
  absl::Status status = ValidatePriority(request.priority());
  if (!status.ok()) return status;
  if (!request.has_continuation_text() && !request.has_continuation_tokens()) {
    return absl::InvalidArgumentError(
        "no continuation is set; set continuation_text or continuation_tokens");
  }
  absl::StatusOr<std::vector<TokenId>> context = ReadTokens(
      "context_tokens", request.has_context_text() ? &request.context_text() : nullptr,
      request.has_context_tokens() ? &request.context_tokens() : nullptr, limits);
  if (!context.ok()) return context.status();
  absl::StatusOr<std::vector<TokenId>> continuation = ReadTokens(
      "continuation_tokens",
      request.has_continuation_text() ? &request.continuation_text() : nullptr,
      request.has_continuation_tokens() ? &request.continuation_tokens() : nullptr,
      limits);
  if (!continuation.ok()) return continuation.status();
  if (continuation->empty()) {
    return absl::InvalidArgumentError(
        "continuation has 0 tokens; it must have at least 1");
  }
  Request result;
  result.kind = RequestKind::kScore;
  result.priority = request.priority();
  result.prompt = *std::move(context);
  if (result.prompt.empty()) result.prompt.push_back(kEndOfText);
  result.continuation = *std::move(continuation);
  // Known before it is computed.
  status = ValidateAnswerBytes(
      std::ssize(result.continuation) * kMaxTokenScoreBytes + kMaxUsageBytes, limits);
  if (!status.ok()) return status;
  const auto total =
      static_cast<std::int64_t>(result.prompt.size() + result.continuation.size());
  if (total > limits.max_context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("context and continuation have ",
                                                   total, " tokens; the limit is ",
                                                   limits.max_context_tokens));
  }
  return result;
}

}  // namespace goldfinch
