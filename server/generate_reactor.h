// One Generate call: finds its session, if it names one, submits its request, and carries
// the request's events from its TokenStream to the client, one write in flight, whatever
// is there in each.
//
// Five threads meet here: the handler's (Start), the sessions' (OnSession, when one had
// to be fetched, and OnParked), the delivery thread (Advance, when events are ready), the
// sweep's (CutOffIfStuck) and gRPC's (OnWriteDone, OnCancel, at once with each other, and
// OnDone, after all of them). Why it is safe:
// - What is shared is guarded by mu_, and no gRPC operation is started under it: gRPC
//   may run the handler of another call on the way out of any operation, and that
//   handler takes locks of its own. The decision is made under mu_ (writing_since_,
//   finished_), the operation follows outside; no second one can slip in between.
// - Finish is the last operation, once: finished_ is set with the decision. gRPC calls
//   OnDone only after it, so no operation meets a call that is done. The sweep, whose
//   TryCancel is outside that order, holds Finish back while it works (cutting_off_).
// - The reactor owns itself (self_) until OnDone, the one place that lets go. What the
//   delivery thread was given is a weak pointer: work that comes later finds nothing,
//   work under way keeps the object alive and finds finished_ set.
// - A client that goes away only sets the scheduler in motion (Cancel): the stream's end
//   then finishes the call in the ordinary way. A write that fails is the exception,
//   because no later write can succeed.
//
// A request that was interrupted because the server has to stop is parked before the call
// ends, so that the status can name what to resume.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/sync/mutex.h"
#include "goldfinch/v1/generation_service.pb.h"
#include "scheduler/scheduler.h"
#include "server/call_log.h"
#include "server/open_calls.h"
#include "server/response_builder.h"
#include "server/serving_context.h"

namespace goldfinch {

// What a session's history says of its last generation, as events: of all its tokens, and
// how it ended if it did. They are made as they are told: an event takes thirty times
// what its token does.
class PastTurn {
 public:
  PastTurn(std::shared_ptr<const KeptPrefix> kept, std::shared_ptr<const Turn> turn)
      : kept_(std::move(kept)), turn_(std::move(turn)) {}

  std::size_t size() const;
  // Up to `count` of them, from `first` on.
  std::vector<StreamEvent> Events(std::size_t first, std::size_t count) const;

 private:
  std::span<const TokenId> generated() const;
  StreamEvent End() const;

  std::shared_ptr<const KeptPrefix> kept_;
  std::shared_ptr<const Turn> turn_;
};

class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public OpenCall,
                              public std::enable_shared_from_this<GenerateReactor> {
  struct Private {};  // made by Start only

 public:
  // Validates and submits `request`. A call that is refused is a reactor too, one that
  // finishes at once.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(
      const ServingContext& serving, grpc::CallbackServerContext* context,
      const v1::GenerateRequest& request);

  GenerateReactor(Private, const ServingContext& serving,
                  grpc::CallbackServerContext* context);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void CutOffIfStuck(TimePoint since) override;

 private:
  using Use = std::shared_ptr<SessionUse>;

  void Begin(const v1::GenerateRequest& request);
  void OnSession(absl::StatusOr<Use> use, GenerateCall call);
  absl::Status GoOn(const Use& use, GenerateCall call);
  absl::Status Resume(const Use& use, std::int64_t after);
  absl::Status Submit(const Use& use, GenerateCall call, Turn turn,
                      std::optional<PastTurn> past = {}, std::size_t num_known = 0);
  void ListenTo(const std::shared_ptr<TokenStream>& stream);
  void Refuse(const absl::Status& status);
  void OnParked(const absl::Status& status);
  void Advance();
  void Refill() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BeginTellingAgain(std::optional<PastTurn> past, std::size_t num_known)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TellAgain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void NoteEnd(std::span<const StreamEvent> events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ClientIsGone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ServingContext& serving_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<GenerateReactor> self_;  // from Start until OnDone
  TenantPtr tenant_;                       // set by Start; null: refused
  bool entered_ = false;                   // likewise
  std::string asked_for_;                  // the session; likewise
  const CallLog log_;
  const std::optional<TimePoint> deadline_;
  const std::optional<TimePoint> late_from_;

  mutable Mutex mu_;
  // The client is gone, and what the call ends with for it.
  std::optional<absl::Status> cancelled_ ABSL_GUARDED_BY(mu_);
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mu_);  // none: not submitted
  std::shared_ptr<TokenStream> stream_ ABSL_GUARDED_BY(mu_);
  Use use_ ABSL_GUARDED_BY(mu_);
  std::int64_t prompt_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<ResponseBuilder> builder_ ABSL_GUARDED_BY(mu_);
  std::optional<StreamEvent> last_end_ ABSL_GUARDED_BY(mu_);  // of a candidate
  // Of a resume: from next_told_again_ on, events the client has yet to be told before
  // what the request generates.
  std::optional<PastTurn> told_again_ ABSL_GUARDED_BY(mu_);
  std::size_t next_told_again_ ABSL_GUARDED_BY(mu_) = 0;
  bool telling_again_ ABSL_GUARDED_BY(mu_) = false;  // such messages are being written
  bool had_ended_ ABSL_GUARDED_BY(mu_) = false;  // and there is no request
  // Messages from next_ on are still to be written; the one at next_ is in flight when
  // writing_since_ is set.
  std::vector<v1::GenerateResponse> outbox_ ABSL_GUARDED_BY(mu_);
  std::size_t next_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<TimePoint> writing_since_ ABSL_GUARDED_BY(mu_);
  std::int64_t tokens_sent_ ABSL_GUARDED_BY(mu_) = 0;  // resumed ones included
  // The request was interrupted; what is left is being parked.
  std::optional<absl::Status> interrupted_ ABSL_GUARDED_BY(mu_);
  bool park_ ABSL_GUARDED_BY(mu_) = false;  // that is still to be begun
  // How that went; once all is written it tells how the call ends.
  std::optional<absl::Status> parked_ ABSL_GUARDED_BY(mu_);
  // How the call will end, once that is known.
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool cutting_off_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace goldfinch
