#include "scheduler/running.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "engine/check.h"
#include "scheduler/tenant_accounts.h"

namespace goldfinch {
namespace {

// Places for tokens that are generated, had at once; a vector that is full doubles.
constexpr std::int64_t kGeneratedAhead = 4096;

// What the parent feeds, but for what it generates: the base's history, the prompt, and
// when scoring the continuation without its last token.
std::vector<TokenId> ContextOf(const Request& request) {
  std::span<const TokenId> history, scored;
  if (request.base != nullptr) history = request.base->history();
  if (request.kind == RequestKind::kScore) {
    scored = std::span(request.continuation).first(request.continuation.size() - 1);
  }
  const bool alone =
      request.kind == RequestKind::kGenerate && request.num_candidates == 1;
  const std::int64_t generated =
      alone ? std::clamp<std::int64_t>(request.max_tokens - request.num_generated, 0,
                                       kGeneratedAhead)
            : 0;
  std::vector<TokenId> context;
  context.reserve(history.size() + request.prompt.size() + scored.size() +
                  static_cast<std::size_t>(generated));
  context.insert(context.end(), history.begin(), history.end());
  context.insert(context.end(), request.prompt.begin(), request.prompt.end());
  context.insert(context.end(), scored.begin(), scored.end());
  return context;
}

// Tokens the parent feeds before anything decodes (see the header).
std::int64_t PrefillOf(const AcceptedRequest& accepted) {
  const Request& request = accepted.request;
  const std::int64_t prompt = accepted.needs.prompt_tokens;
  if (request.kind == RequestKind::kScore) return accepted.needs.sequence_tokens;
  if (request.kind == RequestKind::kPrefill) return prompt - 1;
  return request.num_candidates == 1 ? prompt + request.num_generated : prompt - 1;
}

absl::StatusOr<SequenceId> OpenParent(const RunningContext& context,
                                      const AcceptedRequest& accepted,
                                      const AdmittedFrom& from) {
  const SequenceSpec spec = SequenceSpecOf(accepted, from.keep_at, 0);
  return OpenOn(context, from.base.get(), spec,
                accepted.request.base == nullptr ? accepted.request.prompt
                                                 : accepted.request.base->history());
}

}  // namespace

SequenceSpec SequenceSpecOf(const AcceptedRequest& accepted,
                            std::span<const std::int64_t> keep_at,
                            std::int32_t candidate) {
  const Request& request = accepted.request;
  SequenceSpec spec;
  spec.max_tokens = accepted.needs.sequence_tokens;
  spec.first_logits = accepted.needs.prompt_tokens - 1;
  if (candidate == 0) spec.keep_at.assign(keep_at.begin(), keep_at.end());
  if (request.kind != RequestKind::kGenerate) return spec;
  spec.num_generated = request.num_generated;
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

absl::StatusOr<SequenceId> OpenOn(const RunningContext& context, KeptPrefix* base,
                                  const SequenceSpec& spec,
                                  std::span<const TokenId> tokens) {
  if (base == nullptr || base->length() == 0) return context.engine.Open(spec);
  // With the token that was sampled last and not fed, when a generation goes on.
  const std::int64_t known = base->length() + (spec.num_generated > 0 ? 1 : 0);
  return context.keeper.OpenFrom(*base, spec,
                                 tokens.first(static_cast<std::size_t>(known)));
}

absl::StatusOr<std::vector<SequenceId>> OpenSequences(const RunningContext& context,
                                                      const AcceptedRequest& accepted,
                                                      const AdmittedFrom& from) {
  const std::int64_t branch_at = accepted.needs.prompt_tokens - 1;
  std::vector<SequenceId> open;
  for (std::int32_t i = 0; i < accepted.needs.slots; ++i) {
    absl::StatusOr<SequenceId> sequence =
        i == 0 ? OpenParent(context, accepted, from)
               : context.engine.OpenBranch(open.front(), branch_at,
                                           SequenceSpecOf(accepted, from.keep_at, i));
    if (!sequence.ok()) {
      for (; !open.empty(); open.pop_back()) context.engine.Close(open.back());
      return sequence.status();
    }
    open.push_back(*sequence);
  }
  return open;
}

RunningRequest::RunningRequest(const RunningContext& context,
                               std::unique_ptr<AcceptedRequest> accepted,
                               const AdmittedFrom& from,
                               const std::vector<SequenceId>& sequences, TimePoint now)
    : context_(context),
      engine_(context.engine),
      accepted_(std::move(accepted)),
      keep_at_(from.keep_at),
      origin_(from.base == nullptr ? KeptPrefix::Origin::kComputedHere
                                   : from.base->origin()),
      cached_tokens_(from.base == nullptr ? 0 : from.base->length()),
      prompt_tokens_(accepted_->needs.prompt_tokens),
      admitted_(now),
      fed_tokens_(ContextOf(accepted_->request)),
      last_entry_(from.base == nullptr ? PrefixCache::kNone
                                       : context.cache.HandleOf(*from.base)),
      prefill_(PrefillOf(*accepted_)),
      fed_(cached_tokens_),
      candidates_(sequences.size()),
      unfinished_(std::ssize(sequences)) {
  const Request& request = accepted_->request;
  if (request.kind == RequestKind::kScore) scores_.reserve(request.continuation.size());
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    candidates_[i].sequence = sequences[i];
    candidates_[i].generated = request.num_generated;
    if (request.make_stop_condition) candidates_[i].stop = request.make_stop_condition();
  }
  if (!Prefilling()) FinishPrefill(now);
}

RunningRequest::~RunningRequest() { Close(); }

void RunningRequest::UpdatePaused() {
  paused_ = !stream().HasRoom(Prefilling() ? 1 : unfinished_);
}

bool RunningRequest::EndsWithNext(std::int32_t candidate) const {
  return candidates_[static_cast<std::size_t>(candidate)].generated + 1 ==
         accepted_->request.max_tokens;
}

bool RunningRequest::HasRoomAhead() const { return stream().Fits(2 * unfinished_); }

void RunningRequest::AppendTo(std::vector<PlanSequence>& sequences,
                              std::vector<Member>& members) {
  PlanSequence sequence{.service = accepted_->account->counter.service,
                        .priority = accepted_->request.priority,
                        .paused = paused_};
  if (Prefilling()) {
    sequence.prompt_left = FeedUntil() - fed_;
    sequence.position = fed_;
    sequences.push_back(sequence);
    members.push_back({.request = this, .candidate = 0});
    return;
  }
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    if (candidates_[i].finished) continue;
    // A candidate's own run of the last prompt token still is prompt work: else a flow
    // of one-token prompts would bring decoders without passing the token budget.
    sequence.prompt_left = candidates_[i].generated == 0 ? 1 : 0;  // never resumed ones
    sequence.last_turn = candidates_[i].last_turn;
    sequence.pages = engine_.info().PagesFor(prompt_tokens_ + candidates_[i].generated);
    sequence.place_left = candidates_[i].place_left;
    sequences.push_back(sequence);
    members.push_back({.request = this, .candidate = static_cast<std::int32_t>(i)});
  }
}

// No span reaches across a place where a prefix is to be kept, or where what is prompt to
// the engine ends.
std::int64_t RunningRequest::FeedUntil() const {
  const auto next = std::ranges::upper_bound(keep_at_, fed_);
  const std::int64_t end = next == keep_at_.end() ? prefill_ : std::min(*next, prefill_);
  return engine_.info().SpanEnd(fed_, end, prompt_tokens_ - 1);
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

bool RunningRequest::Prepare(std::int32_t index, std::int64_t tokens, std::uint64_t step,
                             std::int64_t& left) {
  Candidate& candidate = candidates_[static_cast<std::size_t>(index)];
  // What was attended to in the last step is there.
  if (Prefilling() || candidate.ran_in + 1 != step) {
    const Preparation done = engine_.Prepare(candidate.sequence, tokens, left);
    left -= done.expanded;
    candidate.prepared += done.expanded;
    // What others took the place of again and again is done without.
    const std::int64_t enough = 2 * accepted_->needs.sequence_tokens;
    if (!done.ready && candidate.prepared < enough) return false;
  }
  candidate.ran_in = step;
  candidate.prepared = 0;
  return true;
}

Span RunningRequest::PrefillSpan(std::int64_t tokens) const {
  const std::int64_t end = fed_ + tokens;
  Span span;
  span.sequence = candidates_.front().sequence;
  span.tokens =
      std::span(fed_tokens_)
          .subspan(static_cast<std::size_t>(fed_), static_cast<std::size_t>(tokens));
  const std::int64_t first_logits = prompt_tokens_ - 1;
  if (accepted_->request.kind == RequestKind::kGenerate) {
    // A resumed generation has logits before its last token, which nobody wants again.
    if (end == prefill_ && end > first_logits) span.output = SpanOutput::kSample;
    return span;
  }
  if (end <= first_logits) return span;  // nothing but the state
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
  // What is nothing but a prompt is kept at its end anyway.
  const bool ends = accepted_->request.kind == RequestKind::kPrefill && !Prefilling();
  if (!ends && std::ranges::binary_search(keep_at_, fed_)) KeepForCache(fed_);
  if (accepted_->request.kind == RequestKind::kScore) {
    TakeScores(result, turn);
  } else if (!Prefilling()) {
    FinishPrefill(turn.now);
    if (fed_ < prompt_tokens_) return;  // several candidates, or nothing but the prompt
    if (UsesCache()) KeepForCache(fed_);
    TakeToken(0, std::move(result.sample), turn);
  }
}

// From here on candidates decode: they have their copy of the parent's state, and the
// token they feed next.
void RunningRequest::FinishPrefill(TimePoint now) {
  if (accepted_->request.kind == RequestKind::kPrefill) {
    candidates_.front().finished = true;
    unfinished_ = 0;
    StreamEvent event;
    event.kind = StreamEvent::Kind::kFilled;
    event.usage = Usage(/*generated=*/0, now);
    stream().Push(std::move(event), now);
    return;
  }
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
  candidate.place_left = std::max<std::int64_t>(0, candidate.place_left - 1);
  NoteToken(candidate, turn);
  if (candidates_.size() == 1) {
    fed_tokens_.push_back(sample.token);
    if (accepted_->request.on_end && accepted_->request.sampling.num_logprobs >= 0)
      sampled_.push_back(sample);
  } else {
    candidate.tokens.push_back(sample.token);
  }
  const std::optional<Finish> finish = FinishOf(candidate, sample.token);
  if (finish) {
    if (index == 0) {
      first_reason_ = finish->reason;
      first_match_ = finish->match;
    }
    candidate.finished = true;
    --unfinished_;
    // Before its events: who has seen the end may count on the memory, and may call
    // again.
    if (candidates_.size() == 1) Leave(absl::OkStatus(), Leaving::kEnded);
    CloseSequence(candidate);
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
    turn.observer.OnFirstToken(turn.now - accepted_->arrived);
  }
  if (candidate.generated > accepted_->request.num_generated + 1) {
    turn.observer.OnInterToken(turn.now - candidate.last_token);
  } else {
    candidate.first_token = turn.now;
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

bool RunningRequest::UsesCache() const {
  return accepted_->request.use_prefix_cache && context_.cache.enabled();
}

// Whether any prompt that begins with the first `length` tokens could go on from what
// they have become, with the bits of feeding it whole.
bool RunningRequest::CanBeCached(std::int64_t length) const {
  if (!context_.cache.enabled() || length < PrefixCache::kMinTokens) return false;
  if (origin_ != KeptPrefix::Origin::kComputedHere) return false;
  const std::int64_t grid = engine_.info().prompt_grid;
  return grid == 1 || (length % grid == 0 && length < prompt_tokens_ &&
                       accepted_->request.base == nullptr);
}

// The sequence holds `length` tokens now, and anything can go on from there.
void RunningRequest::KeepForCache(std::int64_t length) {
  if (!CanBeCached(length)) return;
  const auto tokens = std::span(fed_tokens_).first(static_cast<std::size_t>(length));
  const std::string& tenant = accepted_->request.tenant;
  // Before a state is copied.
  PrefixCache::Handle entry = context_.cache.Refresh(tenant, tokens, last_entry_);
  if (entry == PrefixCache::kNone) {
    auto kept = context_.keeper.Keep(candidates_.front().sequence, length,
                                     /*history=*/{}, origin_);
    entry = context_.cache.Insert(tenant, tokens, std::move(kept), last_entry_);
  }
  if (entry != PrefixCache::kNone) last_entry_ = entry;
}

// Copied only if there is room in it that would be kept, and that nobody counts.
std::vector<TokenId> RunningRequest::TakeFedTokens() {
  const std::size_t size = fed_tokens_.size();
  if (fed_tokens_.capacity() - size > size / 16) return fed_tokens_;
  return std::move(fed_tokens_);
}

// The whole sequence as it is, with the tokens that are still to be fed.
std::shared_ptr<KeptPrefix> RunningRequest::KeepAll() {
  const Candidate& candidate = candidates_.front();
  const std::int64_t length = Decodes() ? std::ssize(fed_tokens_) - 1 : fed_;
  if (length == 0) return KeptPrefix::Make(TakeFedTokens(), nullptr);
  auto kept =
      aside_ ? candidate.aside
             : context_.keeper.Keep(candidate.sequence, length, TakeFedTokens(), origin_);
  // In the midst of a prompt GOLD layers have not run on what others would need.
  const bool complete =
      Decodes() || (accepted_->request.kind == RequestKind::kPrefill && !Prefilling());
  if (complete && CanBeCached(length)) {
    const auto tokens =
        std::span(kept->history()).first(static_cast<std::size_t>(length));
    context_.cache.Insert(accepted_->request.tenant, tokens, kept, last_entry_);
  }
  return kept;
}

void RunningRequest::Leave(const absl::Status& status, Leaving leaving) {
  const Request& request = accepted_->request;
  const Candidate& first = candidates_.front();
  const bool has_more = request.kind == RequestKind::kPrefill
                            ? finished()
                            : first.generated > request.num_generated;
  const bool keeps = has_more || leaving == Leaving::kInterrupted;
  if (!end_told_ && candidates_.size() == 1 && request.kind != RequestKind::kScore &&
      (aside_ || first.sequence != SequenceId::kNone) && leaving != Leaving::kLost) {
    const bool wanted = request.on_end && (!request.keeps_only_interrupted ||
                                           leaving == Leaving::kInterrupted);
    if ((wanted && keeps) || (aside_ && UsesCache() && has_more)) {
      kept_ = KeepAll();
    } else if (UsesCache() && has_more) {
      KeepForCache(std::ssize(fed_tokens_) - 1);
    }
  }
  TellEnd(status, leaving == Leaving::kInterrupted);
  Close();
}

void RunningRequest::TellEnd(absl::Status status, bool interrupted) {
  if (std::exchange(end_told_, true) || !accepted_->request.on_end) return;
  RequestEnd end;
  end.status = std::move(status);
  end.kept = std::move(kept_);
  end.interrupted = interrupted;
  end.num_generated = candidates_.front().generated;
  end.sampled = std::move(sampled_);
  end.finish_reason = first_reason_;
  end.stop = first_match_;
  accepted_->request.on_end(std::move(end));
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

// The token at a position scores the one after it, the last one of the prompt the first.
std::int64_t RunningRequest::NumScored() const {
  if (accepted_->request.kind != RequestKind::kScore) return 0;
  return std::max<std::int64_t>(fed_ - (prompt_tokens_ - 1), 0);
}

RequestUsage RunningRequest::Usage(std::int64_t generated, TimePoint now) const {
  RequestUsage usage;
  usage.prompt_tokens = prompt_tokens_;
  usage.cached_prompt_tokens = std::min(cached_tokens_, prompt_tokens_);
  usage.generated_tokens = generated;
  usage.scored_tokens = NumScored();
  usage.queue_time = admitted_ - accepted_->arrived;
  if (first_token_) usage.first_token_time = *first_token_ - accepted_->arrived;
  usage.total_time = now - accepted_->arrived;
  return usage;
}

RequestInfo RunningRequest::Info(TimePoint now) const {
  RequestInfo info = InfoOf(*accepted_, now);
  info.state = aside_         ? RequestState::kAside
               : paused_      ? RequestState::kPaused
               : Prefilling() ? RequestState::kPrompt
                              : RequestState::kDecoding;
  // The last token of a prompt is fed with the first step that samples.
  info.fed_tokens = Decodes() ? prompt_tokens_ : std::min(fed_, prompt_tokens_);
  info.generated_tokens = 0;
  for (const Candidate& candidate : candidates_) {
    info.generated_tokens += candidate.generated;
  }
  return info;
}

RequestReport RunningRequest::Report(absl::Status status, TimePoint now) const {
  std::int64_t generated = 0, followed = 0;
  std::chrono::nanoseconds decoding{0};
  for (const Candidate& candidate : candidates_) {
    const std::int64_t tokens = candidate.generated - accepted_->request.num_generated;
    generated += tokens;
    if (tokens < 2) continue;
    followed += tokens - 1;
    decoding += candidate.last_token - candidate.first_token;
  }
  RequestReport report;
  if (followed > 0) report.time_per_token = decoding / followed;
  report.kind = accepted_->request.kind;
  report.status = std::move(status);
  report.finish_reason = first_reason_;
  report.usage = Usage(generated, now);
  report.read_prompt_tokens = first_token_ || report.status.ok()
                                  ? prompt_tokens_
                                  : std::min(fed_, prompt_tokens_);
  const bool is_prompt = report.kind == RequestKind::kPrefill && report.status.ok();
  if (first_token_ || is_prompt) {
    report.prefill_time = first_token_.value_or(now) - admitted_;
  }
  return report;
}

}  // namespace goldfinch
