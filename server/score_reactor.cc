#include "server/score_reactor.h"

#include <iterator>
#include <utility>

#include "server/response_builder.h"
#include "server/status.h"

namespace goldfinch {

grpc::ServerUnaryReactor* ScoreReactor::Start(const ServingContext& serving,
                                              grpc::CallbackServerContext* context,
                                              const v1::ScoreRequest& request,
                                              v1::ScoreResponse* response) {
  auto reactor = std::make_shared<ScoreReactor>(Private(), serving, context, response);
  reactor->self_ = reactor;
  const absl::Status status = reactor->Submit(request, *context);
  if (!status.ok()) reactor->End(status);
  return reactor.get();
}

ScoreReactor::ScoreReactor(Private, const ServingContext& serving,
                           grpc::CallbackServerContext* context,
                           v1::ScoreResponse* response)
    : serving_(serving),
      response_(response),
      unread_(*context),
      log_("Score", *context, serving.clock) {}

absl::Status ScoreReactor::Submit(const v1::ScoreRequest& request,
                                  grpc::CallbackServerContext& context) {
  const absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, context);
  if (!tenant.ok()) {
    CountRefusal(serving_, nullptr, tenant.status());
    return tenant.status();
  }
  log_end_.tenant = (*tenant)->name;
  entered_ = serving_.calls.Enter(self_);
  const absl::Status may_begin = MayBegin(serving_, entered_);
  absl::StatusOr<Request> valid =
      may_begin.ok() ? ValidateScore(request, serving_.limits) : may_begin;
  if (!valid.ok()) {
    CountRefusal(serving_, *tenant, valid.status());
    return valid.status();
  }
  continuation_ = valid->continuation;
  valid->deadline = DeadlineOf(context, serving_.clock);
  valid->arrived = log_.started();
  late_from_ = LateFrom(valid->deadline, serving_.clock);
  SetTenant(*tenant, *valid);
  log_end_.prompt_tokens = std::ssize(valid->prompt);
  log_end_.scored_tokens = std::ssize(continuation_);
  valid->use_prefix_cache = true;
  absl::StatusOr<Scheduler::Submission> submission =
      serving_.scheduler.Submit(*std::move(valid));
  if (!submission.ok()) return submission.status();
  id_ = submission->id;
  TellRequestId(static_cast<std::uint64_t>(*id_), context);
  log_end_.request_id = static_cast<std::uint64_t>(*id_);
  stream_ = submission->stream;
  stream_->SetReadyCallback([&delivery = serving_.delivery, weak = weak_from_this()] {
    delivery.Post([weak] {
      if (std::shared_ptr<ScoreReactor> reactor = weak.lock()) reactor->Advance();
    });
  });
  return absl::OkStatus();
}

void ScoreReactor::Advance() {
  if (finished_) return;
  const TokenStream::Batch batch = stream_->Take();
  for (const StreamEvent& event : batch.events) {
    if (event.kind != StreamEvent::Kind::kScores) continue;
    Fill(event);
    log_end_.finished = event;
  }
  if (!batch.end.has_value()) return;
  finished_ = true;
  End(*batch.end);
}

void ScoreReactor::End(absl::Status status) {
  if (status.ok()) {
    status = unread_.Begin(*response_, serving_.transfers, log_end_.tenant,
                           serving_.clock.Now());
  }
  const grpc::Status end = ToGrpcStatus(status);
  log_end_.status = end;
  Finish(end);
}

void ScoreReactor::Fill(const StreamEvent& event) {
  double total = 0;
  bool is_greedy = true;
  for (std::size_t i = 0; i < event.scores.size() && i < continuation_.size(); ++i) {
    v1::TokenScore& token = *response_->add_tokens();
    token.set_token(continuation_[i]);
    token.set_logprob(event.scores[i].logprob);
    token.set_is_greedy(event.scores[i].is_greedy);
    total += event.scores[i].logprob;
    is_greedy = is_greedy && event.scores[i].is_greedy;
  }
  response_->set_total_logprob(total);
  response_->set_is_greedy(is_greedy);
  FillUsage(event.usage, *response_->mutable_usage());
}

void ScoreReactor::OnCancel() {
  if (!id_.has_value()) return;
  serving_.scheduler.Cancel(*id_, ClientGoneStatus(late_from_, serving_.clock));
}

void ScoreReactor::OnDone() {
  const std::shared_ptr<ScoreReactor> self = std::move(self_);
  log_.Write(log_end_);  // the server may go once the call has left
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
