#include "scheduler/running.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "engine/check.h"

namespace goldfinch {
namespace {

SequenceSpec SpecOf(const AcceptedRequest& accepted, std::int32_t candidate) {
  const Request& request = accepted.request;
  SequenceSpec spec;
  spec.max_tokens = accepted.needs.sequence_tokens;
  spec.first_logits = std::ssize(request.prompt) - 1;
  if (request.kind == RequestKind::kScore) return spec;
  spec.sampling = request.sampling;
  spec.sampling.candidate = static_cast<std::uint32_t>(candidate);
  std::vector<TokenId>& banned = spec.sampling.banned_before_min_tokens;
  banned.clear();
  if (request.sampling.min_tokens > 0) {
    banned = request.stop_token_ids;
    if (!request.ignore_eos) banned.push_back(kEndOfText);
  }
  return spec;
}

// Tokens the parent feeds before anything decodes (see the header).
std::int64_t PrefillOf(const AcceptedRequest& accepted) {
  const Request& request = accepted.request;
  if (request.kind == RequestKind::kScore) return accepted.needs.sequence_tokens;
  const std::int64_t prompt = std::ssize(request.prompt);
  return request.num_candidates == 1 ? prompt : prompt - 1;
}

}  // namespace

absl::StatusOr<std::vector<SequenceId>> OpenSequences(Engine& engine,
                                                      const AcceptedRequest& accepted) {
  const std::int64_t branch_at = std::ssize(accepted.request.prompt) - 1;
  std::vector<SequenceId> open;
  for (std::int32_t i = 0; i < accepted.needs.slots; ++i) {
    const SequenceSpec spec = SpecOf(accepted, i);
    absl::StatusOr<SequenceId> sequence =
        i == 0 ? engine.Open(spec) : engine.OpenBranch(open.front(), branch_at, spec);
    if (!sequence.ok()) {
      for (; !open.empty(); open.pop_back()) engine.Close(open.back());
      return sequence.status();
    }
    open.push_back(*sequence);
  }
  return open;
}

RunningRequest::RunningRequest(Engine& engine, std::unique_ptr<AcceptedRequest> accepted,
                               const std::vector<SequenceId>& sequences, TimePoint now)
    : engine_(engine),
      accepted_(std::move(accepted)),
      prompt_tokens_(std::ssize(accepted_->request.prompt)),
      admitted_(now),
      prefill_(PrefillOf(*accepted_)),
      candidates_(sequences.size()),
      unfinished_(std::ssize(sequences)) {
  Request& request = accepted_->request;
  fed_tokens_ = std::move(request.prompt);
  if (request.kind == RequestKind::kScore) {
    fed_tokens_.insert(fed_tokens_.end(), request.continuation.begin(),
                       request.continuation.end() - 1);
    scores_.reserve(request.continuation.size());
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    candidates_[i].sequence = sequences[i];
    if (request.make_stop_condition) candidates_[i].stop = request.make_stop_condition();
  }
  if (!Prefilling()) FinishPrefill();
}

RunningRequest::~RunningRequest() { Close(); }

void RunningRequest::UpdatePaused() {
  paused_ = !stream().HasRoom(Prefilling() ? 1 : unfinished_);
}

void RunningRequest::AppendTo(std::vector<PlanSequence>& sequences,
                              std::vector<Member>& members) {
  PlanSequence sequence{.priority = accepted_->request.priority, .paused = paused_};
  if (Prefilling()) {
    sequence.prompt_left = prefill_ - fed_;
    sequences.push_back(sequence);
    members.push_back({.request = this, .candidate = 0});
    return;
  }
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    if (candidates_[i].finished) continue;
    // A candidate's own run of the last prompt token still is prompt work: else a flow
    // of one-token prompts would bring decoders without passing the token budget.
    sequence.prompt_left = candidates_[i].generated == 0 ? 1 : 0;
    sequence.last_turn = candidates_[i].last_turn;
    sequences.push_back(sequence);
    members.push_back({.request = this, .candidate = static_cast<std::int32_t>(i)});
  }
}

Span RunningRequest::MakeSpan(std::int32_t candidate, std::int64_t tokens) const {
  if (Prefilling()) return PrefillSpan(tokens);
  const Candidate& decoding = candidates_[static_cast<std::size_t>(candidate)];
  Span span;
  span.sequence = decoding.sequence;
  span.tokens = std::span(&decoding.next, 1);
  span.output = SpanOutput::kSample;
  return span;
}

Span RunningRequest::PrefillSpan(std::int64_t tokens) const {
  const std::int64_t end = fed_ + tokens;
  Span span;
  span.sequence = candidates_.front().sequence;
  span.tokens =
      std::span(fed_tokens_)
          .subspan(static_cast<std::size_t>(fed_), static_cast<std::size_t>(tokens));
  const std::int64_t first_logits = prompt_tokens_ - 1;
  if (end <= first_logits) return span;  // nothing but the state
  if (accepted_->request.kind == RequestKind::kGenerate) {
    span.output = SpanOutput::kSample;
    return span;
  }
  const std::int64_t first = std::max(fed_, first_logits);
  span.output = SpanOutput::kScore;
  span.first_output_row = first - fed_;
  span.targets = std::span(accepted_->request.continuation)
                     .subspan(static_cast<std::size_t>(first - first_logits),
                              static_cast<std::size_t>(end - first));
  return span;
}

void RunningRequest::TakeResult(std::int32_t candidate, std::int64_t tokens,
                                SpanResult& result, const Turn& turn) {
  if (!Prefilling()) {
    TakeToken(candidate, std::move(result.sample), turn);
    return;
  }
  fed_ += tokens;
  if (accepted_->request.kind == RequestKind::kScore) {
    TakeScores(result, turn);
  } else if (!Prefilling()) {
    FinishPrefill();
    if (fed_ == prompt_tokens_) TakeToken(0, std::move(result.sample), turn);
  }
}

// From here on candidates decode: they have their copy of the parent's state, and the
// token they feed next.
void RunningRequest::FinishPrefill() {
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    if (i > 0) engine_.Branch(candidates_[i].sequence);
    candidates_[i].next = fed_tokens_.back();
  }
}

void RunningRequest::TakeToken(std::int32_t index, SampledToken sample,
                               const Turn& turn) {
  Candidate& candidate = candidates_[static_cast<std::size_t>(index)];
  ++candidate.generated;
  candidate.next = sample.token;
  candidate.last_turn = turn.number;
  NoteToken(candidate, turn);
  const std::optional<Finish> finish = FinishOf(candidate, sample.token);
  if (finish) {
    // Before its events: who has seen the end may count on the memory.
    CloseSequence(candidate);
    candidate.finished = true;
    --unfinished_;
    if (index == 0) first_reason_ = finish->reason;
  }
  StreamEvent token;
  token.kind = StreamEvent::Kind::kToken;
  token.candidate = index;
  token.sample = std::move(sample);
  stream().Push(std::move(token), turn.now);
  if (!finish) return;
  StreamEvent end;
  end.kind = StreamEvent::Kind::kFinished;
  end.candidate = index;
  end.finish_reason = finish->reason;
  end.stop = finish->match;
  end.usage = Usage(candidate.generated, turn.now);
  stream().Push(std::move(end), turn.now);
}

void RunningRequest::TakeScores(SpanResult& result, const Turn& turn) {
  scores_.insert(scores_.end(), result.scores.begin(), result.scores.end());
  if (Prefilling()) return;
  GOLDFINCH_CHECK(scores_.size() == accepted_->request.continuation.size());
  first_token_ = turn.now;
  CloseSequence(candidates_.front());
  candidates_.front().finished = true;
  unfinished_ = 0;
  StreamEvent event;
  event.kind = StreamEvent::Kind::kScores;
  event.scores = std::move(scores_);
  event.usage = Usage(/*generated=*/0, turn.now);
  stream().Push(std::move(event), turn.now);
}

void RunningRequest::NoteToken(Candidate& candidate, const Turn& turn) {
  if (!first_token_) {
    first_token_ = turn.now;
    turn.observer.OnFirstToken(turn.now - accepted_->submitted);
  }
  if (candidate.generated > 1) {
    turn.observer.OnInterToken(turn.now - candidate.last_token);
  }
  candidate.last_token = turn.now;
}

std::optional<RunningRequest::Finish> RunningRequest::FinishOf(Candidate& candidate,
                                                               TokenId token) const {
  using Kind = StopMatch::Kind;
  const Request& request = accepted_->request;
  // Pushed always: it keeps state over all tokens.
  const int stop_string = candidate.stop ? candidate.stop->Push(token) : -1;
  if (candidate.generated > request.sampling.min_tokens) {
    if (token == kEndOfText && !request.ignore_eos) {
      return Finish{.reason = FinishReason::kStop, .match = {.kind = Kind::kEos}};
    }
    if (std::ranges::binary_search(request.stop_token_ids, token)) {
      return Finish{.reason = FinishReason::kStop,
                    .match = {.kind = Kind::kStopToken, .token = token}};
    }
    if (stop_string >= 0) {
      return Finish{.reason = FinishReason::kStop,
                    .match = {.kind = Kind::kStopString, .index = stop_string}};
    }
  }
  if (candidate.generated == request.max_tokens) {
    return Finish{.reason = FinishReason::kLength, .match = {}};
  }
  return std::nullopt;
}

std::int64_t RunningRequest::num_open_sequences() const {
  return std::ranges::count_if(
      candidates_, [](const Candidate& c) { return c.sequence != SequenceId::kNone; });
}

void RunningRequest::CloseSequence(Candidate& candidate) {
  if (candidate.sequence == SequenceId::kNone) return;
  engine_.Close(std::exchange(candidate.sequence, SequenceId::kNone));
}

// Branches before their parent, which they may not have been copied from yet.
void RunningRequest::Close() {
  for (auto it = candidates_.rbegin(); it != candidates_.rend(); ++it) CloseSequence(*it);
}

RequestUsage RunningRequest::Usage(std::int64_t generated, TimePoint now) const {
  RequestUsage usage;
  usage.prompt_tokens = prompt_tokens_;
  usage.generated_tokens = generated;
  usage.queue_time = admitted_ - accepted_->submitted;
  if (first_token_) usage.first_token_time = *first_token_ - accepted_->submitted;
  usage.total_time = now - accepted_->submitted;
  return usage;
}

RequestReport RunningRequest::Report(absl::Status status, TimePoint now) const {
  std::int64_t generated = 0;
  for (const Candidate& candidate : candidates_) generated += candidate.generated;
  RequestReport report;
  report.kind = accepted_->request.kind;
  report.status = std::move(status);
  report.finish_reason = first_reason_;
  report.usage = Usage(generated, now);
  if (first_token_) report.prefill_time = *first_token_ - admitted_;
  return report;
}

}  // namespace goldfinch
