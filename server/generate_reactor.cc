#include "server/generate_reactor.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/status.h"

namespace goldfinch {

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateReactor::Start(
    const ServingContext& serving, grpc::CallbackServerContext* context,
    const v1::GenerateRequest& request) {
  auto reactor = std::make_shared<GenerateReactor>(Private(), serving, context);
  reactor->self_ = reactor;
  const absl::Status status = reactor->Submit(request);
  if (!status.ok()) {
    {
      MutexLock lock(reactor->mu_);
      reactor->end_ = ToGrpcStatus(status);
    }
    reactor->Advance();
  }
  return reactor.get();
}

GenerateReactor::GenerateReactor(Private, const ServingContext& serving,
                                 grpc::CallbackServerContext* context)
    : serving_(serving), context_(context) {}

absl::Status GenerateReactor::Submit(const v1::GenerateRequest& request) {
  entered_ = serving_.calls.Enter(self_);
  absl::StatusOr<GenerateCall> call =
      entered_ ? ValidateGenerate(request, serving_.limits) : DrainingStatus();
  if (!call.ok()) {
    serving_.observer.OnRefused(call.status());
    return call.status();
  }
  prompt_tokens_ = static_cast<std::int64_t>(call->request.prompt.size());
  call->request.deadline = DeadlineOf(*context_, serving_.clock);
  {
    MutexLock lock(mu_);
    builder_.emplace(serving_.limits.vocabulary, *call);
  }
  absl::StatusOr<Scheduler::Submission> submission =
      serving_.scheduler.Submit(std::move(call->request));
  if (!submission.ok()) return submission.status();
  id_ = submission->id;
  stream_ = submission->stream;
  stream_->SetReadyCallback([&delivery = serving_.delivery, weak = weak_from_this()] {
    delivery.Post([weak] {
      if (std::shared_ptr<GenerateReactor> reactor = weak.lock()) reactor->Advance();
    });
  });
  return absl::OkStatus();
}

// Starts the next operation if none is under way.
void GenerateReactor::Advance() {
  const v1::GenerateResponse* message = nullptr;
  grpc::Status status;
  {
    MutexLock lock(mu_);
    // What keeps this call busy advances it afterwards.
    if (finished_ || cutting_off_ || writing_since_.has_value()) return;
    if (next_ == outbox_.size() && !end_.has_value()) Refill();
    if (next_ < outbox_.size()) {
      message = &outbox_[next_];  // stays there until OnWriteDone
      writing_since_ = serving_.clock.Now();
    } else if (end_.has_value()) {
      finished_ = true;
      status = *end_;
    } else {
      return;
    }
  }
  if (message != nullptr) {
    StartWrite(message);
  } else {
    Finish(status);
  }
}

// Takes from the stream only when all that was taken before is written: meanwhile it
// gathers there, and its bound is what slows the sequence of a slow client down.
void GenerateReactor::Refill() {
  TokenStream::Batch batch = stream_->Take();
  outbox_ = builder_->Build(batch.events);
  next_ = 0;
  if (batch.end.has_value()) end_ = ToGrpcStatus(*batch.end);
}

void GenerateReactor::OnWriteDone(bool ok) {
  if (!ok) serving_.scheduler.Cancel(*id_);
  {
    MutexLock lock(mu_);
    writing_since_.reset();
    ++next_;
    if (!ok) {
      outbox_.clear();
      next_ = 0;
      end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone");
    }
  }
  Advance();
}

void GenerateReactor::OnCancel() {
  if (id_.has_value()) serving_.scheduler.Cancel(*id_);
}

void GenerateReactor::CutOffIfStuck(TimePoint since) {
  {
    MutexLock lock(mu_);
    if (finished_ || !writing_since_.has_value() || *writing_since_ >= since) return;
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
  if (entered_) serving_.calls.Leave(self);
  MutexLock lock(mu_);
  const std::string name =
      id_.has_value() ? absl::StrCat(static_cast<std::uint64_t>(*id_)) : "refused";
  LogInfo(absl::StrCat("generate ", name, ": ", CodeName(end_->error_code()), ", ",
                       prompt_tokens_, " prompt tokens, ",
                       builder_.has_value() ? builder_->generated_tokens() : 0,
                       " generated tokens"));
}

}  // namespace goldfinch
