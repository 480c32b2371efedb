#include "sessions/snapshot_turn.h"

#include <algorithm>
#include <span>
#include <string>

#include "engine/check.h"
#include "scheduler/request_limits.h"

namespace goldfinch {
namespace {

// Numbers of the format. They are not those of the enumerations, whose order is free.
std::uint8_t NumberOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return 0;
    case FinishReason::kLength:
      return 1;
  }
  GOLDFINCH_CHECK(false);
  return 0;
}

std::uint8_t NumberOf(StopMatch::Kind kind) {
  switch (kind) {
    case StopMatch::Kind::kNone:
      return 0;
    case StopMatch::Kind::kEos:
      return 1;
    case StopMatch::Kind::kStopToken:
      return 2;
    case StopMatch::Kind::kStopString:
      return 3;
  }
  GOLDFINCH_CHECK(false);
  return 0;
}

FinishReason ReadReason(ByteReader& in) {
  constexpr FinishReason kReasons[] = {FinishReason::kStop, FinishReason::kLength};
  const auto number = in.Int<std::uint8_t>();
  if (number >= std::size(kReasons)) in.Fail();
  return in.ok() ? kReasons[number] : FinishReason::kStop;
}

StopMatch::Kind ReadKind(ByteReader& in) {
  using Kind = StopMatch::Kind;
  constexpr Kind kKinds[] = {Kind::kNone, Kind::kEos, Kind::kStopToken,
                             Kind::kStopString};
  const auto number = in.Int<std::uint8_t>();
  if (number >= std::size(kKinds)) in.Fail();
  return in.ok() ? kKinds[number] : Kind::kNone;
}

void WriteSampling(const SamplingParams& sampling, ByteWriter& out) {
  out.Float(sampling.temperature);
  out.Float(sampling.top_p);
  out.Int(sampling.top_k);
  out.Float(sampling.min_p);
  out.Float(sampling.repetition_penalty);
  out.Float(sampling.frequency_penalty);
  out.Float(sampling.presence_penalty);
  out.Int(sampling.seed);
  out.Int(sampling.candidate);
  out.Int(sampling.min_tokens);
  out.Ints(sampling.banned_before_min_tokens);
  out.Int(std::uint64_t{sampling.logit_bias.size()});
  for (const auto& [token, bias] : sampling.logit_bias) {
    out.Int(token);
    out.Float(bias);
  }
  out.Int(sampling.num_logprobs);
}

TokenId ReadToken(ByteReader& in) {
  const auto token = in.Int<TokenId>();
  if (token < 0) in.Fail();
  return token;
}

// A count of no more than `limit`, of elements of `min_bytes` or more.
std::uint64_t ReadCountUpTo(std::uint64_t limit, std::uint64_t min_bytes,
                            ByteReader& in) {
  const std::uint64_t count = in.Count(min_bytes);
  if (count > limit) in.Fail();
  return in.ok() ? count : 0;
}

std::vector<TokenId> ReadTokensUpTo(std::uint64_t limit, ByteReader& in) {
  auto tokens = in.Ints<TokenId>(ReadCountUpTo(limit, sizeof(TokenId), in));
  if (std::any_of(tokens.begin(), tokens.end(), [](TokenId id) { return id < 0; })) {
    in.Fail();
  }
  return tokens;
}

// Of what counts something.
std::int64_t ReadCount(ByteReader& in) {
  const auto count = in.Int<std::int64_t>();
  if (count < 0) in.Fail();
  return count;
}

SamplingParams ReadSampling(ByteReader& in) {
  SamplingParams sampling;
  sampling.temperature = in.Float();
  sampling.top_p = in.Float();
  sampling.top_k = in.Int<std::int32_t>();
  sampling.min_p = in.Float();
  sampling.repetition_penalty = in.Float();
  sampling.frequency_penalty = in.Float();
  sampling.presence_penalty = in.Float();
  sampling.seed = in.Int<std::uint64_t>();
  sampling.candidate = in.Int<std::uint32_t>();
  sampling.min_tokens = in.Int<std::int64_t>();
  // They follow from the stop tokens whenever the generation runs.
  sampling.banned_before_min_tokens = ReadTokensUpTo(0, in);
  sampling.logit_bias.resize(
      ReadCountUpTo(kMaxLogitBiases, sizeof(TokenId) + sizeof(float), in));
  for (auto& [token, bias] : sampling.logit_bias) {
    token = ReadToken(in);
    bias = in.Float();
  }
  sampling.num_logprobs = in.Int<std::int32_t>();
  if (sampling.num_logprobs < -1 || sampling.num_logprobs > kMaxLogprobs) in.Fail();
  return sampling;
}

void WriteLogprobs(const std::vector<SampledToken>& logprobs, ByteWriter& out) {
  out.Int(std::uint64_t{logprobs.size()});
  for (const SampledToken& sampled : logprobs) {
    out.Int(sampled.token);
    out.Float(sampled.logprob);
    out.Int(std::uint64_t{sampled.top.size()});
    for (const TokenLogprob& top : sampled.top) {
      out.Int(top.token);
      out.Float(top.logprob);
    }
  }
}

std::vector<std::string> ReadStops(ByteReader& in) {
  std::vector<std::string> stops(ReadCountUpTo(kMaxStops, sizeof(std::uint64_t), in));
  for (std::string& stop : stops) {
    stop = in.String();
    if (stop.empty() || stop.size() > kMaxStopBytes) in.Fail();
  }
  return stops;
}

// One for each of the tokens `generated`, of the very same token, with up to `max_top`
// others.
std::vector<SampledToken> ReadLogprobs(std::span<const TokenId> generated,
                                       std::int32_t max_top, ByteReader& in) {
  constexpr std::uint64_t kPairBytes = sizeof(TokenId) + sizeof(float);
  const std::uint64_t count = in.Count(kPairBytes + sizeof(std::uint64_t));
  if (count != generated.size()) in.Fail();
  std::vector<SampledToken> logprobs(in.ok() ? count : 0);
  const auto max = static_cast<std::uint64_t>(std::max(0, max_top));
  const TokenId* token = generated.data();
  for (SampledToken& sampled : logprobs) {
    sampled.token = in.Int<TokenId>();
    if (sampled.token != *token++) in.Fail();
    sampled.logprob = in.Float();
    sampled.top.resize(ReadCountUpTo(max, kPairBytes, in));
    for (TokenLogprob& top : sampled.top) {
      top.token = ReadToken(in);
      top.logprob = in.Float();
    }
  }
  return logprobs;
}

std::optional<Turn::End> ReadEnd(std::size_t num_stop_strings, ByteReader& in) {
  if (!in.Bool()) return std::nullopt;
  Turn::End end;
  end.reason = ReadReason(in);
  end.match.kind = ReadKind(in);
  end.match.token = ReadToken(in);
  end.match.index = in.Int<std::int32_t>();
  const bool is_string = end.match.kind == StopMatch::Kind::kStopString;
  if (end.match.index < (is_string ? 0 : -1) ||
      end.match.index >= static_cast<std::int64_t>(num_stop_strings)) {
    in.Fail();
  }
  return end;
}

}  // namespace

std::int64_t Turn::host_bytes() const {
  const auto top =
      sizeof(TokenLogprob) * static_cast<std::size_t>(std::max(0, sampling.num_logprobs));
  std::size_t bytes = logprobs.size() * (sizeof(SampledToken) + top);
  bytes += stop_token_ids.size() * sizeof(TokenId);
  bytes += sampling.banned_before_min_tokens.size() * sizeof(TokenId);
  bytes += sampling.logit_bias.size() * sizeof(sampling.logit_bias[0]);
  for (const std::string& text : stop) bytes += sizeof text + text.size();
  return static_cast<std::int64_t>(bytes);
}

void WriteTurn(const Turn& turn, ByteWriter& out) {
  out.Int(turn.max_tokens);
  WriteSampling(turn.sampling, out);
  out.Int(std::uint64_t{turn.stop.size()});
  for (const std::string& stop : turn.stop) out.String(stop);
  out.Ints(turn.stop_token_ids);
  out.Bool(turn.include_stop);
  out.Bool(turn.ignore_eos);
  out.Int(turn.priority);
  out.Int(turn.num_generated);
  WriteLogprobs(turn.logprobs, out);
  out.Bool(turn.end.has_value());
  if (!turn.end.has_value()) return;
  out.Int(NumberOf(turn.end->reason));
  out.Int(NumberOf(turn.end->match.kind));
  out.Int(turn.end->match.token);
  out.Int(turn.end->match.index);
}

Turn ReadTurn(const std::vector<TokenId>& history, ByteReader& in) {
  Turn turn;
  turn.max_tokens = ReadCount(in);
  turn.sampling = ReadSampling(in);
  turn.stop = ReadStops(in);
  turn.stop_token_ids = ReadTokensUpTo(kMaxStopTokens, in);
  if (!std::is_sorted(turn.stop_token_ids.begin(), turn.stop_token_ids.end())) in.Fail();
  turn.include_stop = in.Bool();
  turn.ignore_eos = in.Bool();
  turn.priority = in.Int<std::int32_t>();
  turn.num_generated = ReadCount(in);
  // There was a prompt before them.
  if (turn.num_generated > 0 &&
      turn.num_generated >= static_cast<std::int64_t>(history.size())) {
    in.Fail();
  }
  if (!in.ok()) return turn;
  const std::int32_t num_logprobs = turn.sampling.num_logprobs;
  const auto num_logged =
      num_logprobs < 0 ? 0 : static_cast<std::size_t>(turn.num_generated);
  turn.logprobs = ReadLogprobs(std::span(history).last(num_logged), num_logprobs, in);
  turn.end = ReadEnd(turn.stop.size(), in);
  return turn;
}

}  // namespace goldfinch
