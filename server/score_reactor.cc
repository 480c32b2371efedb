#include "server/score_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/response_builder.h"
#include "server/status.h"

namespace goldfinch {

grpc::ServerUnaryReactor* ScoreReactor::Start(const ServingContext& serving,
                                              grpc::CallbackServerContext* context,
                                              const v1::ScoreRequest& request,
                                              v1::ScoreResponse* response) {
  auto reactor = std::make_shared<ScoreReactor>(Private(), serving, response);
  reactor->self_ = reactor;
  const absl::Status status = reactor->Submit(request, *context);
  if (!status.ok()) reactor->Finish(ToGrpcStatus(status));
  return reactor.get();
}

ScoreReactor::ScoreReactor(Private, const ServingContext& serving,
                           v1::ScoreResponse* response)
    : serving_(serving), response_(response) {}

absl::Status ScoreReactor::Submit(const v1::ScoreRequest& request,
                                  const grpc::CallbackServerContext& context) {
  const absl::StatusOr<TenantPtr> tenant = Authenticate(serving_, context);
  if (!tenant.ok()) {
    serving_.observer.OnRefused(tenant.status());
    return tenant.status();
  }
  entered_ = serving_.calls.Enter(self_);
  absl::StatusOr<Request> valid =
      entered_ ? ValidateScore(request, serving_.limits) : DrainingStatus();
  if (!valid.ok()) {
    serving_.observer.OnRefused(valid.status());
    return valid.status();
  }
  continuation_ = valid->continuation;
  valid->deadline = DeadlineOf(context, serving_.clock);
  SetTenant(*tenant, *valid);
  valid->use_prefix_cache = true;
  absl::StatusOr<Scheduler::Submission> submission =
      serving_.scheduler.Submit(*std::move(valid));
  if (!submission.ok()) return submission.status();
  id_ = submission->id;
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
    if (event.kind == StreamEvent::Kind::kScores) Fill(event);
  }
  if (!batch.end.has_value()) return;
  finished_ = true;
  const grpc::Status status = ToGrpcStatus(*batch.end);
  LogInfo(absl::StrCat("score ", static_cast<std::uint64_t>(*id_), ": ",
                       CodeName(status.error_code()), ", ", continuation_.size(),
                       " scored tokens"));
  Finish(status);
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
  if (id_.has_value()) serving_.scheduler.Cancel(*id_);
}

void ScoreReactor::OnDone() {
  const std::shared_ptr<ScoreReactor> self = std::move(self_);
  if (entered_) serving_.calls.Leave(self);
}

}  // namespace goldfinch
