#include "server/response_builder.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <chrono>

#include "engine/check.h"

namespace goldfinch {
namespace {

void FillDuration(std::chrono::nanoseconds duration, google::protobuf::Duration& out) {
  out = google::protobuf::util::TimeUtil::NanosecondsToDuration(duration.count());
}

}  // namespace

void FillUsage(const RequestUsage& usage, v1::Usage& out) {
  out.set_prompt_tokens(usage.prompt_tokens);
  out.set_cached_prompt_tokens(usage.cached_prompt_tokens);
  out.set_generated_tokens(usage.generated_tokens);
  out.set_scored_tokens(usage.scored_tokens);
  FillDuration(usage.queue_time, *out.mutable_queue_time());
  FillDuration(usage.first_token_time, *out.mutable_first_token_time());
  FillDuration(usage.total_time, *out.mutable_total_time());
}

ResponseBuilder::ResponseBuilder(const Vocabulary& vocabulary, const GenerateCall& call)
    : stop_(call.stop),
      stop_token_ids_(call.request.stop_token_ids),
      with_logprobs_(call.request.sampling.num_logprobs >= 0),
      show_stop_(call.text.stop_text == StopText::kInclude),
      seed_(call.request.sampling.seed),
      candidates_(static_cast<std::size_t>(call.request.num_candidates),
                  Candidate{CandidateText(vocabulary, call.text), std::nullopt, false}),
      open_(candidates_.size(), -1) {}

std::vector<v1::GenerateResponse> ResponseBuilder::Build(
    std::span<const StreamEvent> events) {
  std::vector<v1::GenerateResponse> messages;
  std::fill(open_.begin(), open_.end(), -1);
  for (const StreamEvent& event : events) {
    GOLDFINCH_CHECK(event.candidate >= 0 &&
                    static_cast<std::size_t>(event.candidate) < candidates_.size());
    Candidate& candidate = candidates_[static_cast<std::size_t>(event.candidate)];
    v1::GenerateResponse& message = MessageOf(event.candidate, messages);
    if (event.kind == StreamEvent::Kind::kToken)
      AddToken(event.sample, candidate, message);
    if (event.kind == StreamEvent::Kind::kFinished) AddEnd(event, candidate, message);
  }
  return messages;
}

void ResponseBuilder::Skip(std::span<const StreamEvent> events) {
  // A few messages at a time, which nobody wants.
  constexpr std::size_t kAtOnce = kMaxTokensPerMessage;
  for (; !events.empty(); events = events.subspan(std::min(kAtOnce, events.size()))) {
    Build(events.first(std::min(kAtOnce, events.size())));
  }
  for (Candidate& candidate : candidates_) candidate.started = false;
}

v1::GenerateResponse& ResponseBuilder::MessageOf(
    std::int32_t candidate, std::vector<v1::GenerateResponse>& messages) {
  int& open = open_[static_cast<std::size_t>(candidate)];
  if (open >= 0 &&
      messages[static_cast<std::size_t>(open)].tokens_size() < kMaxTokensPerMessage) {
    return messages[static_cast<std::size_t>(open)];
  }
  open = static_cast<int>(messages.size());
  v1::GenerateResponse& message = messages.emplace_back();
  message.set_candidate(candidate);
  Candidate& state = candidates_[static_cast<std::size_t>(candidate)];
  if (!state.started) message.set_seed(seed_);
  if (!state.started && candidate == 0) message.set_numerics_changed(numerics_changed_);
  state.started = true;
  return message;
}

void ResponseBuilder::AddToken(const SampledToken& sample, Candidate& candidate,
                               v1::GenerateResponse& message) {
  ++generated_tokens_;
  std::string& text = *message.mutable_text();
  if (candidate.undecided.has_value()) candidate.text.Push(*candidate.undecided, text);
  candidate.undecided.reset();
  if (std::binary_search(stop_token_ids_.begin(), stop_token_ids_.end(), sample.token)) {
    candidate.undecided = sample.token;
  } else {
    candidate.text.Push(sample.token, text);
  }
  message.add_tokens(sample.token);
  if (!with_logprobs_) return;
  v1::TokenLogprobs& logprobs = *message.add_logprobs();
  logprobs.set_logprob(sample.logprob);
  for (const TokenLogprob& entry : sample.top) {
    v1::TokenLogprob& top = *logprobs.add_top();
    top.set_token(entry.token);
    top.set_logprob(entry.logprob);
  }
}

void ResponseBuilder::AddEnd(const StreamEvent& event, Candidate& candidate,
                             v1::GenerateResponse& message) {
  std::string& text = *message.mutable_text();
  const bool is_stop_token = event.stop.kind == StopMatch::Kind::kStopToken;
  if (candidate.undecided.has_value() && (show_stop_ || !is_stop_token)) {
    candidate.text.Push(*candidate.undecided, text);
  }
  candidate.undecided.reset();
  candidate.text.Finish(text);

  // A stop token that was shown may have completed a stop string: what ended the
  // candidate does not depend on what is shown.
  const std::optional<int> matched =
      is_stop_token ? std::nullopt : candidate.text.matched_stop();
  const bool stopped = matched.has_value() || event.finish_reason == FinishReason::kStop;
  message.set_finish_reason(stopped ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
  if (matched.has_value()) {
    message.set_matched_stop(stop_[static_cast<std::size_t>(*matched)]);
  } else if (is_stop_token) {
    message.set_matched_stop_token(event.stop.token);
  }
  FillUsage(event.usage, *message.mutable_usage());
}

}  // namespace goldfinch
