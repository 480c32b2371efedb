// Scheduler's insides: scheduler.cc steps, scheduler_admission.cc decides who has memory,
// scheduler_run.cc runs the engine, scheduler_inspect.cc tells what there is.
//
// Threads: the public part by any, but Step; the rest is of the step thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "scheduler/inbox.h"
#include "scheduler/plan.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/prefix_keeper.h"
#include "scheduler/running.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_pacer.h"
#include "scheduler/tenant_accounts.h"

namespace goldfinch {

class Scheduler::Impl {
 public:
  Impl(Engine& engine, const SchedulerOptions& options, const Clock& clock,
       SchedulerObserver& observer);

  absl::StatusOr<Submission> Submit(Request request);
  void Cancel(RequestId id, absl::Status status) {
    inbox_->Cancel(id, std::move(status));
  }
  void Interrupt(RequestId id, absl::Status status) {
    inbox_->Interrupt(id, std::move(status));
  }
  void InterruptAll() { inbox_->InterruptAll(); }
  void ListRequests(RequestFilter filter, InfoCallback done);
  void CancelIfThere(RequestId id, absl::Status status, std::function<void(bool)> done);
  void GetImage(std::shared_ptr<KeptPrefix> prefix, ImageCallback done);
  void MoveToHost(std::shared_ptr<KeptPrefix> prefix);
  void Start();
  void Shutdown();
  bool Step();

 private:
  using Accepted = std::unique_ptr<AcceptedRequest>;
  using Running = std::unique_ptr<RunningRequest>;

  absl::StatusOr<Submission> Accept(Request request);
  void RunUntilClosed();

  // The parts of a step, in order.
  void TakeInbox(TimePoint now);
  void Queue(Waiting waiting);
  // False when there is none.
  bool EndById(RequestId id, const absl::Status& status, RunningRequest::Leaving leaving,
               TimePoint now);
  void RunTasks(std::int64_t leave_bytes);
  std::vector<RequestInfo> InfosOf(const RequestFilter& filter) const;
  void DropLate(TimePoint now);
  void AdmitWaiting(TimePoint now);
  bool BuildBatch();
  std::size_t CountExpandable(std::span<const std::size_t> sequences);
  void PrepareBatch();
  void RunBatch();

  // A step of the engine, and whose its results are. Of a step that runs ahead, some may
  // have ended since.
  struct EngineStep {
    struct Part {
      RunningRequest::Member member;
      std::int64_t tokens;
      bool prompt;
      bool samples;
      std::size_t result;
    };
    std::vector<Part> parts;
    std::vector<SpanResult> results;  // as many as it was queued with, or more
  };
  // Most steps of the engine, this one the first, before there is something to decide.
  int MostSteps(const EngineStep& first) const;
  bool MayRunAhead(bool has_ended) const;
  bool QueueNext(const EngineStep& step, EngineStep& next);
  void Report(const EngineStep& step, std::chrono::nanoseconds duration);
  void Charge(const EngineStep& step, TimePoint now);
  // `next` is what has been queued behind it, if anything.
  void Publish(EngineStep& step, EngineStep* next, TimePoint now);

  // Of admission.
  enum class Admission { kDone, kNoRoom, kLater };
  Admission AdmitFirst(TenantAccount& account, TimePoint now);
  Admission AdmitFresh(TenantAccount& account, Waiting& first, TimePoint now);
  Admission AdmitAside(TenantAccount& account, RunningRequest& aside, TimePoint now);
  Admission NotOpened(TenantAccount& account, const absl::Status& status, TimePoint now);
  bool PutAsideFor(TenantAccount& newcomer);
  std::vector<std::size_t> ThoseWhoYield(TenantAccount& newcomer);
  std::optional<std::size_t> NextToYield(const TenantAccount& newcomer,
                                         std::span<const std::size_t> yielding,
                                         std::int64_t bytes) const;

  TimePoint LatestStart(const Waiting& waiting) const;
  absl::Status LateStatus(const Waiting& waiting, TimePoint now) const;
  absl::Status LateStatus(const RunningRequest& running, TimePoint now) const;
  void EndWaiting(Waiting waiting, const absl::Status& status,
                  RunningRequest::Leaving leaving, TimePoint now);
  void EndFresh(Accepted accepted, const absl::Status& status, TimePoint now);
  void End(RunningRequest& request, const absl::Status& status,
           RunningRequest::Leaving leaving, TimePoint now);
  void EndRunning(Running running, const absl::Status& status,
                  RunningRequest::Leaving leaving, TimePoint now);
  void EndFinished(TimePoint now);
  void EndAllRunning(const absl::Status& status, RunningRequest::Leaving leaving,
                     TimePoint now);
  void EndAllWaiting(const absl::Status& status, RunningRequest::Leaving leaving,
                     TimePoint now);
  void ReportLevels();
  std::optional<TimePoint> NextTimeout() const;

  Engine& engine_;
  const SchedulerOptions options_;
  const Clock& clock_;
  SchedulerObserver& observer_;
  const std::int64_t step_tokens_;
  // Shared: streams and kept prefixes wake it, and may outlive the scheduler.
  const std::shared_ptr<Inbox> inbox_;

  // Owned by the step thread.
  PrefixCache cache_;
  PrefixKeeper keeper_;
  const RunningContext context_{engine_, keeper_, cache_};
  std::vector<std::function<void()>> tasks_;
  StepPacer pacer_;
  TenantAccounts tenants_;         // and what waits
  std::vector<Running> running_;   // in order of admission
  std::uint64_t step_ = 0;         // steps so far
  std::uint64_t engine_step_ = 0;  // steps of the engine so far
  std::uint64_t turns_ = 0;        // spans run so far
  bool reported_running_ = false;  // the last levels told of running requests
  bool copying_ = false;           // admission goes on making room in the next step
  // The step's batch; kept between steps for their storage.
  std::vector<PlanSequence> sequences_;
  std::vector<RunningRequest::Member> members_;  // parallel to sequences_
  std::vector<SequenceId> decoding_;             // who asks for room to be expanded
  std::vector<PlannedSpan> plan_;
  std::int64_t out_of_turn_ = 0;  // decoding sequences that the plan has no turn for
  std::vector<Span> batch_;  // parallel to plan_
  EngineStep engine_steps_[2];
  std::vector<SequenceId> ahead_;  // of a step that runs ahead
  std::vector<Inbox::GeneratedTokens> generated_;

  Mutex thread_mu_;  // also: one Shutdown at a time
  std::thread thread_ ABSL_GUARDED_BY(thread_mu_);
};

}  // namespace goldfinch
