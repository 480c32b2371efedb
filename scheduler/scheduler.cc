#include "scheduler/scheduler.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "engine/sync/mutex.h"
#include "scheduler/admission.h"
#include "scheduler/grant.h"
#include "scheduler/inbox.h"
#include "scheduler/needs.h"
#include "scheduler/plan.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/prefix_keeper.h"
#include "scheduler/running.h"

namespace goldfinch {
namespace {

// What a step may copy of kept prefixes while others wait for it: a few milliseconds.
constexpr std::int64_t kCopyBytesPerStep = 64 << 20;
// While nothing runs that would wait; what comes meanwhile does, for so much.
constexpr std::int64_t kIdleCopyBytesPerStep = 256 << 20;

absl::Status ShutdownStatus() {
  return absl::UnavailableError("the server is shutting down");
}

}  // namespace

class Scheduler::Impl {
 public:
  Impl(Engine& engine, const SchedulerOptions& options, const Clock& clock,
       SchedulerObserver& observer);

  absl::StatusOr<Submission> Submit(Request request);
  void Cancel(RequestId id) { inbox_->Cancel(id); }
  void Interrupt(RequestId id) { inbox_->Interrupt(id); }
  void InterruptAll() { inbox_->InterruptAll(); }
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
  void EndById(RequestId id, const absl::Status& status, RunningRequest::Leaving leaving,
               TimePoint now);
  void RunTasks(std::int64_t leave_bytes);
  void DropLate(TimePoint now);
  void AdmitWaiting(TimePoint now);
  bool AdmitOne(Accepted& accepted, TimePoint now);
  bool BuildBatch();
  void RunBatch();
  void Publish(TimePoint now);

  absl::Status LateStatus(const RunningRequest& running, TimePoint now) const;
  void EndWaiting(Accepted accepted, const absl::Status& status, TimePoint now);
  void EndRunning(Running running, const absl::Status& status,
                  RunningRequest::Leaving leaving, TimePoint now);
  void EndAllRunning(const absl::Status& status, RunningRequest::Leaving leaving,
                     TimePoint now);
  void EndAllWaiting(const absl::Status& status, TimePoint now);
  void ReportLevels();
  std::optional<TimePoint> NextTimeout() const;

  Engine& engine_;
  const SchedulerOptions options_;
  const Clock& clock_;
  SchedulerObserver& observer_;
  const std::int64_t step_tokens_;
  // Shared: the streams wake it, and a reader may keep its stream after the scheduler.
  const std::shared_ptr<Inbox> inbox_;

  // Owned by the step thread.
  PrefixCache cache_;
  PrefixKeeper keeper_;
  const RunningContext context_{engine_, keeper_, cache_};
  std::vector<std::function<void()>> tasks_;
  std::vector<Accepted> waiting_;
  std::vector<Running> running_;  // in order of admission
  std::uint64_t turns_ = 0;       // spans run so far
  bool copying_ = false;          // admission goes on making room in the next step
  // The step's batch; kept between steps for their storage.
  std::vector<PlanSequence> sequences_;
  std::vector<RunningRequest::Member> members_;  // parallel to sequences_
  std::vector<PlannedSpan> plan_;
  std::vector<Span> batch_;          // parallel to plan_
  std::vector<SpanResult> results_;  // as many or more

  Mutex thread_mu_;  // also: one Shutdown at a time
  std::thread thread_ ABSL_GUARDED_BY(thread_mu_);
};

Scheduler::Impl::Impl(Engine& engine, const SchedulerOptions& options, const Clock& clock,
                      SchedulerObserver& observer)
    : engine_(engine),
      options_(options),
      clock_(clock),
      observer_(observer),
      step_tokens_(
          std::min<std::int64_t>(options.step_tokens, engine.info().max_step_tokens)),
      inbox_(std::make_shared<Inbox>(Inbox::Limits{
          .requests = options.max_queued_requests, .tokens = options.max_queued_tokens})),
      cache_(options.prefix_cache_bytes),
      keeper_(engine, [this](const KeptPrefix& prefix) { cache_.Forget(prefix); }) {
  GOLDFINCH_CHECK(step_tokens_ >= 1);
}

absl::StatusOr<Scheduler::Submission> Scheduler::Impl::Submit(Request request) {
  absl::StatusOr<Submission> submission = Accept(std::move(request));
  if (!submission.ok()) observer_.OnRefused(submission.status());
  return submission;
}

absl::StatusOr<Scheduler::Submission> Scheduler::Impl::Accept(Request request) {
  const TimePoint now = clock_.Now();
  absl::StatusOr<RequestNeeds> needs =
      NeedsOf(request, engine_.info(), options_.max_context_tokens);
  if (!needs.ok()) return needs.status();
  if (request.deadline && *request.deadline <= now) {
    return absl::DeadlineExceededError("the deadline had passed on arrival");
  }
  auto accepted = std::make_unique<AcceptedRequest>();
  accepted->request = std::move(request);
  accepted->needs = *needs;
  accepted->submitted = now;
  // One token of every candidate fits an empty stream, whatever the option says.
  accepted->stream =
      std::make_shared<TokenStream>(std::max(options_.stream_buffer_tokens, needs->slots),
                                    [inbox = inbox_] { inbox->Wake(); });
  Submission submission{.id = {}, .stream = accepted->stream};
  absl::StatusOr<RequestId> id = inbox_->Add(std::move(accepted));
  if (!id.ok()) return id.status();
  submission.id = *id;
  return submission;
}

void Scheduler::Impl::Start() {
  MutexLock lock(thread_mu_);
  GOLDFINCH_CHECK(!thread_.joinable());
  thread_ = std::thread([this] { RunUntilClosed(); });
}

void Scheduler::Impl::RunUntilClosed() {
  while (!inbox_->closed()) {
    if (!Step()) inbox_->Wait(NextTimeout());
  }
}

void Scheduler::Impl::Shutdown() {
  inbox_->Close();
  MutexLock lock(thread_mu_);
  if (thread_.joinable()) thread_.join();
  // The step thread is gone: from here this thread is the one that steps.
  const TimePoint now = clock_.Now();
  keeper_.BeginStep(std::numeric_limits<std::int64_t>::max());
  TakeInbox(now);
  const absl::Status status = ShutdownStatus();
  EndAllRunning(status, RunningRequest::Leaving::kInterrupted, now);
  EndAllWaiting(status, now);
  RunTasks(/*leave_bytes=*/0);
  ReportLevels();
}

bool Scheduler::Impl::Step() {
  const TimePoint now = clock_.Now();
  const std::int64_t may_copy =
      running_.empty() ? kIdleCopyBytesPerStep : kCopyBytesPerStep;
  keeper_.BeginStep(may_copy);
  copying_ = false;
  TakeInbox(now);
  DropLate(now);
  // Half is left to whoever waits for memory.
  RunTasks(waiting_.empty() ? 0 : may_copy / 2);
  AdmitWaiting(now);
  const bool runs = BuildBatch();
  if (runs) RunBatch();
  ReportLevels();
  return runs || copying_ || !tasks_.empty();
}

void Scheduler::Impl::TakeInbox(TimePoint now) {
  Inbox::Contents contents = inbox_->TakeAll();
  std::ranges::move(contents.submitted, std::back_inserter(waiting_));
  std::ranges::move(contents.tasks, std::back_inserter(tasks_));
  const absl::Status cancelled = absl::CancelledError("the request was cancelled");
  for (const RequestId id : contents.cancelled) {
    EndById(id, cancelled, RunningRequest::Leaving::kEnded, now);
  }
  for (const RequestId id : contents.interrupted) {
    EndById(id, ShutdownStatus(), RunningRequest::Leaving::kInterrupted, now);
  }
  if (!contents.interrupt_all) return;
  EndAllRunning(ShutdownStatus(), RunningRequest::Leaving::kInterrupted, now);
  EndAllWaiting(ShutdownStatus(), now);
}

void Scheduler::Impl::EndById(RequestId id, const absl::Status& status,
                              RunningRequest::Leaving leaving, TimePoint now) {
  if (const auto it = std::ranges::find(waiting_, id, [](auto& w) { return w->id; });
      it != waiting_.end()) {
    EndWaiting(std::move(*it), status, now);
    waiting_.erase(it);
  }
  if (const auto it =
          std::ranges::find(running_, id, [](auto& r) { return r->accepted().id; });
      it != running_.end()) {
    EndRunning(std::move(*it), status, leaving, now);
    running_.erase(it);
  }
}

// Copies for others, as many as the step has time for.
void Scheduler::Impl::RunTasks(std::int64_t leave_bytes) {
  std::size_t done = 0;
  while (done < tasks_.size() && keeper_.may_copy() > leave_bytes) tasks_[done++]();
  tasks_.erase(tasks_.begin(), tasks_.begin() + static_cast<std::ptrdiff_t>(done));
}

void Scheduler::Impl::GetImage(std::shared_ptr<KeptPrefix> prefix, ImageCallback done) {
  const bool posted =
      inbox_->Post([this, prefix, done] { done(keeper_.ImageOf(*prefix)); });
  if (!posted) done(nullptr);
}

void Scheduler::Impl::MoveToHost(std::shared_ptr<KeptPrefix> prefix) {
  inbox_->Post([this, prefix = std::move(prefix)] {
    cache_.Forget(*prefix);
    keeper_.MoveToHost(*prefix);
  });
}

// Ends what is past its deadline, and what nobody reads; before admission, so that the
// memory serves this very step.
void Scheduler::Impl::DropLate(TimePoint now) {
  for (Accepted& waiting : waiting_) {
    if (!waiting->request.deadline || *waiting->request.deadline > now) continue;
    EndWaiting(std::move(waiting),
               absl::DeadlineExceededError("the deadline passed in the queue"), now);
  }
  std::erase(waiting_, nullptr);
  for (Running& running : running_) {
    running->UpdatePaused();
    const absl::Status status = LateStatus(*running, now);
    if (!status.ok()) {
      EndRunning(std::move(running), status, RunningRequest::Leaving::kEnded, now);
    }
  }
  std::erase(running_, nullptr);
}

absl::Status Scheduler::Impl::LateStatus(const RunningRequest& running,
                                         TimePoint now) const {
  const auto& deadline = running.accepted().request.deadline;
  if (deadline && *deadline <= now) {
    return absl::DeadlineExceededError("the deadline passed while the request ran");
  }
  if (!running.paused()) return absl::OkStatus();
  const std::optional<TimePoint> since = running.stream().waiting_since();
  if (!since || now - *since < options_.slow_reader) return absl::OkStatus();
  const double seconds = std::chrono::duration<double>(now - *since).count();
  const double limit = std::chrono::duration<double>(options_.slow_reader).count();
  return absl::AbortedError(absl::StrCat("the stream was not read for ", seconds,
                                         " seconds; the limit is ", limit));
}

void Scheduler::Impl::AdmitWaiting(TimePoint now) {
  if (waiting_.empty() || engine_.usage().slots_used == engine_.info().num_slots) return;
  std::vector<WaitingRequest> order;
  order.reserve(waiting_.size());
  for (const Accepted& waiting : waiting_) {
    order.push_back({.priority = waiting->request.priority,
                     .arrival = static_cast<std::uint64_t>(waiting->id)});
  }
  Admit(order, [&](std::size_t i) { return AdmitOne(waiting_[i], now); });
  std::erase(waiting_, nullptr);
  for (Running& running : running_) {
    if (!running->finished()) continue;  // nothing of its prompt was left to run
    EndRunning(std::move(running), absl::OkStatus(), RunningRequest::Leaving::kEnded,
               now);
  }
  std::erase(running_, nullptr);
}

// False when there is no memory for it now: it stays where it is. It only stays while
// something runs whose end will free memory; else it would wait for ever.
bool Scheduler::Impl::AdmitOne(Accepted& accepted, TimePoint now) {
  PrefixLookup outcome = PrefixLookup::kNone;
  AdmittedFrom from =
      FindBase(context_, *accepted, options_.prefix_interval_tokens, outcome);
  const Grant grant = MakeRoom(context_, *accepted, from);
  copying_ = copying_ || grant == Grant::kCopying;
  if (grant != Grant::kGranted) return false;
  absl::StatusOr<std::vector<SequenceId>> sequences =
      OpenSequences(context_, *accepted, from);
  if (!sequences.ok()) {
    observer_.OnEngineError(sequences.status());
    if (absl::IsResourceExhausted(sequences.status()) && !running_.empty()) return false;
    EndWaiting(std::move(accepted),
               absl::InternalError("the request could not be given its memory"), now);
    return true;
  }
  inbox_->LeftQueue(std::ssize(accepted->request.prompt));
  if (outcome != PrefixLookup::kNone) observer_.OnPrefixLookup(outcome);
  running_.push_back(std::make_unique<RunningRequest>(context_, std::move(accepted),
                                                      std::move(from), *sequences, now));
  return true;
}

bool Scheduler::Impl::BuildBatch() {
  sequences_.clear();
  members_.clear();
  batch_.clear();
  for (const Running& running : running_) running->AppendTo(sequences_, members_);
  plan_ = PlanStep(sequences_, step_tokens_);
  for (const PlannedSpan& span : plan_) {
    const RunningRequest::Member& member = members_[span.sequence];
    batch_.push_back(member.request->MakeSpan(member.candidate, span.tokens));
  }
  if (results_.size() < batch_.size()) results_.resize(batch_.size());
  return !batch_.empty();
}

void Scheduler::Impl::RunBatch() {
  const TimePoint started = clock_.Now();
  const absl::Status status =
      engine_.Forward(batch_, std::span(results_).first(batch_.size()));
  const TimePoint now = clock_.Now();
  if (!status.ok()) {
    observer_.OnEngineError(status);
    EndAllRunning(absl::InternalError("the device failed while the request ran"),
                  RunningRequest::Leaving::kLost, now);
    return;
  }
  StepReport report{.duration = now - started};
  report.sequences = std::ssize(batch_);
  for (const PlannedSpan& span : plan_) {
    (sequences_[span.sequence].prompt_left == 0 ? report.decode_tokens
                                                : report.prompt_tokens) += span.tokens;
  }
  observer_.OnStep(report);
  Publish(now);
}

void Scheduler::Impl::Publish(TimePoint now) {
  for (std::size_t i = 0; i < plan_.size(); ++i) {
    const RunningRequest::Member& member = members_[plan_[i].sequence];
    member.request->TakeResult(member.candidate, plan_[i].tokens, results_[i],
                               {.observer = observer_, .number = ++turns_, .now = now});
  }
  for (Running& running : running_) {
    if (!running->finished()) continue;
    EndRunning(std::move(running), absl::OkStatus(), RunningRequest::Leaving::kEnded,
               now);
  }
  std::erase(running_, nullptr);
}

// A request is reported before its stream ends: who sees the end finds it counted.
void Scheduler::Impl::EndWaiting(Accepted accepted, const absl::Status& status,
                                 TimePoint now) {
  inbox_->LeftQueue(std::ssize(accepted->request.prompt));
  RequestReport report;
  report.kind = accepted->request.kind;
  report.status = status;
  report.usage.prompt_tokens = std::ssize(accepted->request.prompt);
  report.usage.queue_time = now - accepted->submitted;
  report.usage.total_time = report.usage.queue_time;
  observer_.OnFinished(report);
  if (accepted->request.on_end) {
    RequestEnd end;
    end.status = status;
    end.num_generated = accepted->request.num_generated;
    accepted->request.on_end(std::move(end));
  }
  accepted->stream->End(status);
}

void Scheduler::Impl::EndRunning(Running running, const absl::Status& status,
                                 RunningRequest::Leaving leaving, TimePoint now) {
  running->Leave(status, leaving);
  observer_.OnFinished(running->Report(status, now));
  running->stream().End(status);
}

void Scheduler::Impl::EndAllRunning(const absl::Status& status,
                                    RunningRequest::Leaving leaving, TimePoint now) {
  for (Running& running : std::exchange(running_, {})) {
    EndRunning(std::move(running), status, leaving, now);
  }
}

void Scheduler::Impl::EndAllWaiting(const absl::Status& status, TimePoint now) {
  for (Accepted& accepted : std::exchange(waiting_, {})) {
    EndWaiting(std::move(accepted), status, now);
  }
}

void Scheduler::Impl::ReportLevels() {
  SchedulerLevels levels;
  levels.running_requests = std::ssize(running_);
  for (const Running& running : running_) {
    levels.running_sequences += running->num_open_sequences();
    levels.paused_requests += running->paused() ? 1 : 0;
  }
  levels.waiting_requests = std::ssize(waiting_);
  for (const Accepted& waiting : waiting_) {
    levels.waiting_tokens += std::ssize(waiting->request.prompt);
  }
  levels.prefixes_on_device = keeper_.num_on_device();
  levels.prefix_cache_entries = cache_.num_entries();
  levels.prefix_cache_bytes = cache_.bytes();
  levels.prefix_cache_evictions = cache_.num_evicted();
  levels.engine = engine_.usage();
  observer_.OnLevels(levels);
}

// The earliest time at which DropLate would end something.
std::optional<TimePoint> Scheduler::Impl::NextTimeout() const {
  std::optional<TimePoint> next;
  const auto consider = [&next](std::optional<TimePoint> time) {
    if (time && (!next || *time < *next)) next = time;
  };
  for (const Accepted& waiting : waiting_) consider(waiting->request.deadline);
  for (const Running& running : running_) {
    consider(running->accepted().request.deadline);
    const std::optional<TimePoint> since = running->stream().waiting_since();
    if (running->paused() && since) consider(*since + options_.slow_reader);
  }
  return next;
}

Scheduler::Scheduler(Engine& engine, const SchedulerOptions& options, const Clock& clock,
                     SchedulerObserver& observer)
    : impl_(std::make_unique<Impl>(engine, options, clock, observer)) {}

Scheduler::~Scheduler() { impl_->Shutdown(); }

absl::StatusOr<Scheduler::Submission> Scheduler::Submit(Request request) {
  return impl_->Submit(std::move(request));
}

void Scheduler::Cancel(RequestId id) { impl_->Cancel(id); }

void Scheduler::Interrupt(RequestId id) { impl_->Interrupt(id); }

void Scheduler::InterruptAll() { impl_->InterruptAll(); }

void Scheduler::GetImage(std::shared_ptr<KeptPrefix> prefix, ImageCallback done) {
  impl_->GetImage(std::move(prefix), std::move(done));
}

void Scheduler::MoveToHost(std::shared_ptr<KeptPrefix> prefix) {
  impl_->MoveToHost(std::move(prefix));
}

void Scheduler::Start() { impl_->Start(); }

void Scheduler::Shutdown() { impl_->Shutdown(); }

bool Scheduler::Step() { return impl_->Step(); }

}  // namespace goldfinch
