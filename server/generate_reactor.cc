#include "server/generate_reactor.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/needs.h"
#include "server/status.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

constexpr std::size_t kMaxToldAgainAtOnce = 4 * ResponseBuilder::kMaxTokensPerMessage;

}  // namespace

std::span<const TokenId> PastTurn::generated() const {
  return std::span(kept_->history()).last(static_cast<std::size_t>(turn_->num_generated));
}

std::size_t PastTurn::size() const {
  return generated().size() + (turn_->end.has_value() ? 1 : 0);
}

std::vector<StreamEvent> PastTurn::Events(std::size_t first, std::size_t count) const {
  const std::span<const TokenId> tokens = generated();
  std::vector<StreamEvent> events;
  for (std::size_t i = first; i < std::min(first + count, size()); ++i) {
    if (i == tokens.size()) {
      events.push_back(End());
      break;
    }
    StreamEvent& event = events.emplace_back();
    event.kind = StreamEvent::Kind::kToken;
    if (i < turn_->logprobs.size()) {
      event.sample = turn_->logprobs[i];
    } else {
      event.sample.token = tokens[i];
    }
  }
  return events;
}

StreamEvent PastTurn::End() const {
  const std::int64_t prompt = std::ssize(kept_->history()) - turn_->num_generated;
  StreamEvent event;
  event.kind = StreamEvent::Kind::kFinished;
  event.finish_reason = turn_->end->reason;
  event.stop = turn_->end->match;
  event.usage.prompt_tokens = prompt;
  event.usage.cached_prompt_tokens = prompt;
  event.usage.generated_tokens = turn_->num_generated;
  return event;
}

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    const v1::GenerateRequest& request) {
  auto reactor = std::make_shared<GenerateReactor>(Private(), serving, context);
  reactor->self_ = reactor;
  reactor->Begin(request);
  return reactor.get();
}

GenerateReactor::GenerateReactor(Private, const ServingContext& serving,
                                 grpc::CallbackServerContext* context)
    : serving_(serving),
      context_(context),
      log_("Generate", *context, serving.clock),
      deadline_(DeadlineOf(*context, serving.clock)),
      late_from_(LateFrom(deadline_, serving.clock)) {}

void GenerateReactor::Begin(const v1::GenerateRequest& request) {
  absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, *context_);
  if (!tenant.ok()) return Refuse(tenant.status());
  tenant_ = *std::move(tenant);
  const std::string& session =
      request.has_resume() ? request.resume().session_id() : request.session();
  if (IsSessionId(session)) asked_for_ = session;  // what is none may be any text
  entered_ = serving_.calls.Enter(self_);
  const absl::Status may_begin = MayBegin(serving_, entered_);
  if (!may_begin.ok()) return Refuse(may_begin);
  absl::StatusOr<GenerateCall> call = ValidateGenerate(request, serving_.limits);
  if (!call.ok()) return Refuse(call.status());
  SetTenant(tenant_, call->request);
  if (!call->session.empty()) {
    // Held until the answer is there: gRPC knows of nothing to wait for yet.
    const std::string id = call->session;
    serving_.sessions.Acquire(tenant_->name, id,
                              [self = self_, call = *std::move(call)](auto use) mutable {
                                self->OnSession(std::move(use), std::move(call));
                              });
    return;
  }
  // A single candidate can be resumed if the server has to stop.
  const Use use = call->request.num_candidates == 1 && serving_.sessions.has_store()
                      ? serving_.sessions.Anonymous(tenant_->name)
                      : nullptr;
  call->request.use_prefix_cache = true;
  Turn turn = TurnOf(*call);
  const absl::Status status = Submit(use, *std::move(call), std::move(turn));
  if (!status.ok()) Refuse(status);
}

void GenerateReactor::OnSession(absl::StatusOr<Use> use, GenerateCall call) {
  absl::Status status = use.status();
  if (status.ok()) {
    status = call.resume_after.has_value() ? Resume(*use, *call.resume_after)
                                           : GoOn(*use, std::move(call));
    // At once: who hears of the refusal may call again.
    if (!status.ok()) (*use)->Release();
  }
  if (!status.ok()) Refuse(status);
}

absl::Status GenerateReactor::GoOn(const Use& use, GenerateCall call) {
  const auto history = static_cast<std::int64_t>(use->kept()->history().size());
  const absl::Status status = FitToHistory(history, serving_.limits, call);
  if (!status.ok()) return status;
  GoOnFrom(use->kept(), call.request);
  Turn turn = TurnOf(call);
  return Submit(use, std::move(call), std::move(turn));
}

absl::Status GenerateReactor::Resume(const Use& use, std::int64_t after) {
  if (use->turn() == nullptr) {
    return absl::FailedPreconditionError("the session has no generation to resume");
  }
  const Turn& turn = *use->turn();
  if (after > turn.num_generated) {
    return absl::InvalidArgumentError(absl::StrCat("tokens_received is ", after,
                                                   "; the session has generated ",
                                                   turn.num_generated));
  }
  const std::vector<TokenId>& history = use->kept()->history();
  const auto generated =
      std::span(history).last(static_cast<std::size_t>(turn.num_generated));
  absl::StatusOr<GenerateCall> call = CallOf(turn, generated, serving_.limits);
  if (!call.ok()) return call.status();
  const std::int64_t prompt = std::ssize(history) - turn.num_generated;
  // By subtraction: a snapshot may say anything of max_tokens.
  if (!turn.end.has_value() &&
      turn.max_tokens > serving_.limits.max_context_tokens - prompt) {
    // Another server's may be longer.
    return absl::FailedPreconditionError(absl::StrCat(
        "history, prompt and max_tokens of the session's last generation are ", prompt,
        " + ", turn.max_tokens, " tokens; this server's limit of all together is ",
        serving_.limits.max_context_tokens));
  }
  SetTenant(tenant_, call->request);
  call->request.base = use->kept();
  PastTurn past(use->kept(), use->turn());
  const auto num_known = static_cast<std::size_t>(after);
  if (!turn.end.has_value()) {
    return Submit(use, *std::move(call), turn, std::move(past), num_known);
  }
  // It had ended: there is nothing to run.
  use->Release();
  {
    const MutexLock lock(mu_);
    builder_.emplace(serving_.limits.vocabulary, *call);
    BeginTellingAgain(std::move(past), num_known);
    builder_->set_numerics_changed(use->numerics_changed());
    prompt_tokens_ = prompt;
    had_ended_ = true;
  }
  Advance();
  return absl::OkStatus();
}

// The events of `past` come before what the request generates; the client has the first
// `num_known` of them.
absl::Status GenerateReactor::Submit(const Use& use, GenerateCall call, Turn turn,
                                     std::optional<PastTurn> past,
                                     std::size_t num_known) {
  call.request.deadline = deadline_;
  call.request.arrived = log_.started();
  if (use != nullptr) {
    call.request.on_end = use->OnEnd(std::move(turn));
    call.request.keeps_only_interrupted = use->id().empty();  // no session yet
  }
  std::optional<absl::Status> cancelled;
  std::shared_ptr<TokenStream> stream;
  std::optional<RequestId> id;
  {
    const MutexLock lock(mu_);
    builder_.emplace(serving_.limits.vocabulary, call);
    BeginTellingAgain(std::move(past), num_known);
    if (use != nullptr) builder_->set_numerics_changed(use->numerics_changed());
    tokens_sent_ = static_cast<std::int64_t>(num_known);
    prompt_tokens_ = PromptTokens(call.request);
  }
  absl::StatusOr<Scheduler::Submission> submission =
      serving_.scheduler.Submit(std::move(call.request));
  {
    const MutexLock lock(mu_);
    if (!submission.ok()) return submission.status();  // nothing is told again
    use_ = use;
    id = id_ = submission->id;
    TellRequestId(static_cast<std::uint64_t>(*id), *context_);
    stream = stream_ = submission->stream;
    cancelled = cancelled_;
  }
  if (use != nullptr) use->SetRequest(*id);
  if (cancelled.has_value()) serving_.scheduler.Cancel(*id, *std::move(cancelled));
  ListenTo(stream);
  Advance();  // what is told again
  return absl::OkStatus();
}

void GenerateReactor::ListenTo(const std::shared_ptr<TokenStream>& stream) {
  stream->SetReadyCallback([&delivery = serving_.delivery, weak = weak_from_this()] {
    delivery.Post([weak] {
      if (std::shared_ptr<GenerateReactor> reactor = weak.lock()) reactor->Advance();
    });
  });
}

// Ends a call that has no request. What the scheduler refuses it has counted itself.
void GenerateReactor::Refuse(const absl::Status& status) {
  {
    const MutexLock lock(mu_);
    if (!builder_.has_value()) CountRefusal(serving_, tenant_, status);
    end_ = ToGrpcStatus(status);
  }
  Advance();
}

// Starts the next operation if none is under way.
void GenerateReactor::Advance() {
  const v1::GenerateResponse* message = nullptr;
  bool finish = false;
  grpc::Status status;
  Use park;
  {
    MutexLock lock(mu_);
    // What keeps this call busy advances it afterwards.
    if (finished_ || cutting_off_ || writing_since_.has_value()) return;
    if (next_ == outbox_.size() && !end_.has_value()) Refill();
    if (std::exchange(park_, false)) park = use_;
    if (next_ < outbox_.size()) {
      message = &outbox_[next_];  // stays there until OnWriteDone
      writing_since_ = serving_.clock.Now();
    } else if (end_.has_value()) {
      finish = finished_ = true;
      status = *end_;
    }
  }
  if (park != nullptr) {
    serving_.sessions.ParkInterrupted(
        park, [self = shared_from_this()](const absl::Status& parked) {
          self->OnParked(parked);
        });
  }
  if (message != nullptr) StartWrite(message);
  if (finish) Finish(status);
}

void GenerateReactor::OnParked(const absl::Status& status) {
  {
    const MutexLock lock(mu_);
    parked_ = status;
  }
  Advance();
}

// Takes from the stream only when all that was taken before is written: meanwhile it
// gathers there, and its bound is what slows the sequence of a slow client down.
void GenerateReactor::Refill() {
  TellAgain();
  if (next_ < outbox_.size()) return;
  if (had_ended_) {
    end_ = grpc::Status::OK;
    return;
  }
  if (interrupted_.has_value()) {
    if (!parked_.has_value()) return;
    // Without a snapshot there may be nothing to resume; but a session that is still here
    // has what the call fed.
    end_ = parked_->ok() ? InterruptedStatus(*interrupted_, use_->id(), tokens_sent_)
                         : InDoubtStatus(*interrupted_);
    return;
  }
  if (stream_ == nullptr) return;
  TokenStream::Batch batch = stream_->Take();
  outbox_ = builder_->Build(batch.events);
  next_ = 0;
  NoteEnd(batch.events);
  if (!batch.end.has_value()) return;
  if (use_ != nullptr && use_->interrupted()) {
    interrupted_ = *batch.end;
    park_ = true;
  } else {
    end_ = ToGrpcStatus(*batch.end);
  }
}

void GenerateReactor::BeginTellingAgain(std::optional<PastTurn> past,
                                        std::size_t num_known) {
  if (!past.has_value()) return;
  for (std::size_t i = 0; i < num_known; i += kMaxToldAgainAtOnce) {
    builder_->Skip(past->Events(i, std::min(kMaxToldAgainAtOnce, num_known - i)));
  }
  next_told_again_ = num_known;
  if (num_known < past->size()) told_again_ = std::move(past);
}

// A few messages at a time: of a long generation all of them would take its memory many
// times.
void GenerateReactor::TellAgain() {
  telling_again_ = told_again_.has_value();
  while (next_ == outbox_.size() && told_again_.has_value()) {
    const std::vector<StreamEvent> events =
        told_again_->Events(next_told_again_, kMaxToldAgainAtOnce);
    NoteEnd(events);
    outbox_ = builder_->Build(events);
    next_ = 0;
    next_told_again_ += kMaxToldAgainAtOnce;
    if (next_told_again_ >= told_again_->size()) told_again_.reset();
  }
}

void GenerateReactor::NoteEnd(std::span<const StreamEvent> events) {
  for (const StreamEvent& event : events) {
    if (event.kind == StreamEvent::Kind::kFinished) last_end_ = event;
  }
}

void GenerateReactor::OnWriteDone(bool ok) {
  std::optional<RequestId> cancel;
  absl::Status status;
  {
    MutexLock lock(mu_);
    writing_since_.reset();
    if (ok) tokens_sent_ += outbox_[next_].tokens_size();
    // What the request generates meanwhile waits for this reader, who reads.
    if (ok && telling_again_ && stream_ != nullptr) {
      stream_->NoteReading(serving_.clock.Now());
    }
    ++next_;
    if (!ok) {
      cancel = id_;
      outbox_.clear();
      next_ = 0;
      status = ClientIsGone();
      end_ = ToGrpcStatus(status);
    }
  }
  if (cancel.has_value()) serving_.scheduler.Cancel(*cancel, std::move(status));
  Advance();
}

void GenerateReactor::OnCancel() {
  std::optional<RequestId> cancel;
  absl::Status status;
  {
    const MutexLock lock(mu_);
    status = ClientIsGone();
    cancel = id_;
  }
  if (cancel.has_value()) serving_.scheduler.Cancel(*cancel, std::move(status));
}

// Whoever hears of it first decides: the log has what the metrics have.
absl::Status GenerateReactor::ClientIsGone() {
  if (!cancelled_.has_value()) cancelled_ = ClientGoneStatus(late_from_, serving_.clock);
  return *cancelled_;
}

void GenerateReactor::CutOffIfStuck(TimePoint since) {
  {
    MutexLock lock(mu_);
    if (finished_ || cutting_off_ || !writing_since_.has_value()) return;
    if (*writing_since_ >= since) return;
    cutting_off_ = true;  // no Finish, so no OnDone: the context stays
  }
  context_->TryCancel();  // the write fails, and OnWriteDone ends the call
  {
    MutexLock lock(mu_);
    cutting_off_ = false;
  }
  Advance();  // in the place of an OnWriteDone that came meanwhile
}

void GenerateReactor::OnDone() {
  const std::shared_ptr<GenerateReactor> self = std::move(self_);
  CallLog::End end;
  {
    const MutexLock lock(mu_);
    end.status = *end_;
    end.prompt_tokens = prompt_tokens_;
    if (tenant_ != nullptr) end.tenant = tenant_->name;
    end.session_id = use_ != nullptr ? use_->id() : asked_for_;
    if (id_.has_value()) end.request_id = static_cast<std::uint64_t>(*id_);
    if (builder_.has_value()) end.generated_tokens = builder_->generated_tokens();
    end.finished = last_end_;
  }
  log_.Write(end);
  // The server may go once the call has left.
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
