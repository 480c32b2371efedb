#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/check.h"
#include "scheduler/needs.h"
#include "scheduler/scheduler_impl.h"

namespace goldfinch {
namespace {

// What a step may copy of kept prefixes while others wait for it: a few milliseconds.
constexpr std::int64_t kCopyBytesPerStep = 64 << 20;
// While nothing runs that would wait; what comes meanwhile does, for so much.
constexpr std::int64_t kIdleCopyBytesPerStep = 256 << 20;

absl::Status LateWhileItRan() {
  return absl::DeadlineExceededError("the deadline passed while the request ran");
}

absl::Status CheckPolicy(const Request& request, const RequestNeeds& needs,
                         const TenantPolicy& policy) {
  const bool scores = request.kind == RequestKind::kScore;
  const std::int64_t tokens = scores ? needs.sequence_tokens : needs.prompt_tokens;
  if (tokens > policy.max_prompt_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(scores ? "context and continuation have " : "prompt has ", tokens,
                     scores ? " tokens without the last one" : " tokens",
                     "; this tenant's limit is ", policy.max_prompt_tokens));
  }
  if (request.priority > policy.max_priority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", request.priority,
                                                   "; this tenant's limit is ",
                                                   policy.max_priority));
  }
  return absl::OkStatus();
}

}  // namespace

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
      keeper_(
          engine, [this](const KeptPrefix& prefix) { cache_.Forget(prefix); },
          [inbox = inbox_] { inbox->WakeIfIdle(); }),
      pacer_(step_tokens_, options.step_time),
      tenants_(engine.info().num_slots, engine.info().num_pages) {
  GOLDFINCH_CHECK(step_tokens_ >= 1);
}

absl::StatusOr<Scheduler::Submission> Scheduler::Impl::Submit(Request request) {
  const std::shared_ptr<TenantMeter> meter = request.meter;
  absl::StatusOr<Submission> submission = Accept(std::move(request));
  if (submission.ok()) return submission;
  observer_.OnRefused(submission.status());
  if (meter != nullptr) ++meter->refused;
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
  if (request.policy != nullptr) accepted->policy = *request.policy;
  absl::Status allowed = CheckPolicy(request, *needs, accepted->policy);
  if (!allowed.ok()) return allowed;
  accepted->request = std::move(request);
  accepted->needs = *needs;
  accepted->submitted = now;
  accepted->arrived = std::min(accepted->request.arrived.value_or(now), now);
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
  const absl::Status status = ShuttingDown();
  EndAllRunning(status, RunningRequest::Leaving::kInterrupted, now);
  EndAllWaiting(status, RunningRequest::Leaving::kInterrupted, now);
  RunTasks(/*leave_bytes=*/0);
  ReportLevels();
}

bool Scheduler::Impl::Step() {
  const TimePoint now = clock_.Now();
  const std::int64_t copy_bytes =
      running_.empty() ? kIdleCopyBytesPerStep : kCopyBytesPerStep;
  keeper_.BeginStep(copy_bytes);
  copying_ = false;
  ++step_;
  TakeInbox(now);
  DropLate(now);
  // Half is left to whoever waits for memory, however large the copies of others were.
  RunTasks(tenants_.empty() ? 0 : copy_bytes / 2);
  keeper_.LeaveCopyBytes(copy_bytes / 2);
  AdmitWaiting(now);
  const bool runs = BuildBatch();
  // Should the device hang in the first step, something is seen to run.
  if (runs && !reported_running_) ReportLevels();
  if (runs) RunBatch();
  ReportLevels();
  return runs || copying_ || !tasks_.empty();
}

void Scheduler::Impl::TakeInbox(TimePoint now) {
  Inbox::Contents contents = inbox_->TakeAll();
  for (Accepted& accepted : contents.submitted) {
    Queue({.fresh = std::move(accepted), .aside = nullptr});
  }
  std::ranges::move(contents.tasks, std::back_inserter(tasks_));
  for (const auto& [id, status] : contents.cancelled) {
    EndById(id, status, RunningRequest::Leaving::kEnded, now);
  }
  for (const auto& [id, status] : contents.interrupted) {
    EndById(id, status, RunningRequest::Leaving::kInterrupted, now);
  }
  if (!contents.interrupt_all) return;
  EndAllRunning(ShuttingDown(), RunningRequest::Leaving::kInterrupted, now);
  EndAllWaiting(ShuttingDown(), RunningRequest::Leaving::kInterrupted, now);
}

void Scheduler::Impl::Queue(Waiting waiting) {
  const TimePoint latest = LatestStart(waiting);
  tenants_.Add(std::move(waiting), latest);
}

bool Scheduler::Impl::EndById(RequestId id, const absl::Status& status,
                              RunningRequest::Leaving leaving, TimePoint now) {
  if (std::optional<Waiting> waiting = tenants_.Take(id)) {
    EndWaiting(*std::move(waiting), status, leaving, now);
    return true;
  }
  const auto it =
      std::ranges::find(running_, id, [](auto& r) { return r->accepted().id; });
  if (it == running_.end()) return false;
  EndRunning(std::move(*it), status, leaving, now);
  running_.erase(it);
  return true;
}

// Copies for others, as many as the step has time for.
void Scheduler::Impl::RunTasks(std::int64_t leave_bytes) {
  std::size_t done = 0;
  while (done < tasks_.size() && keeper_.copy_bytes_left() > leave_bytes) {
    tasks_[done++]();
  }
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
  for (Waiting& waiting : tenants_.TakeLate(now)) {
    const absl::Status status = LateStatus(waiting, now);
    EndWaiting(std::move(waiting), status, RunningRequest::Leaving::kEnded, now);
  }
  for (Running& running : running_) {
    running->UpdatePaused();
    const absl::Status status = LateStatus(*running, now);
    if (!status.ok()) {
      EndRunning(std::move(running), status, RunningRequest::Leaving::kEnded, now);
    }
  }
  std::erase(running_, nullptr);
}

// When a waiting request is ended: at its deadline, or because it never began to run.
TimePoint Scheduler::Impl::LatestStart(const Waiting& waiting) const {
  const AcceptedRequest& accepted = waiting.accepted();
  const TimePoint deadline = accepted.request.deadline.value_or(TimePoint::max());
  if (waiting.aside != nullptr) return deadline;
  return std::min(deadline, accepted.submitted + options_.max_queue_time);
}

absl::Status Scheduler::Impl::LateStatus(const Waiting& waiting, TimePoint now) const {
  const auto& deadline = waiting.accepted().request.deadline;
  if (deadline && *deadline <= now) {
    return waiting.aside != nullptr
               ? LateWhileItRan()
               : absl::DeadlineExceededError("the deadline passed in the queue");
  }
  using Seconds = std::chrono::duration<double>;
  return absl::ResourceExhaustedError(
      absl::StrCat("the request waited for ", Seconds(options_.max_queue_time).count(),
                   " seconds, which is the limit"));
}

absl::Status Scheduler::Impl::LateStatus(const RunningRequest& running,
                                         TimePoint now) const {
  const auto& deadline = running.accepted().request.deadline;
  if (deadline && *deadline <= now) {
    return LateWhileItRan();
  }
  if (!running.paused()) return absl::OkStatus();
  const std::optional<TimePoint> since = running.stream().waiting_since();
  if (!since || now - *since < options_.slow_reader) return absl::OkStatus();
  const double seconds = std::chrono::duration<double>(now - *since).count();
  const double limit = std::chrono::duration<double>(options_.slow_reader).count();
  return absl::AbortedError(absl::StrCat("the stream was not read for ", seconds,
                                         " seconds; the limit is ", limit));
}

// A request is reported before its stream ends: who sees the end finds it counted.
void Scheduler::Impl::EndFresh(Accepted accepted, const absl::Status& status,
                               TimePoint now) {
  inbox_->LeftQueue(*accepted, Inbox::Left::kUnserved);
  RequestReport report;
  report.kind = accepted->request.kind;
  report.status = status;
  report.usage.prompt_tokens = accepted->needs.prompt_tokens;
  report.usage.queue_time = now - accepted->arrived;
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

void Scheduler::Impl::EndWaiting(Waiting waiting, const absl::Status& status,
                                 RunningRequest::Leaving leaving, TimePoint now) {
  if (waiting.fresh != nullptr) {
    EndFresh(std::move(waiting.fresh), status, now);
  } else {
    End(*waiting.aside, status, leaving, now);
  }
}

void Scheduler::Impl::EndRunning(Running running, const absl::Status& status,
                                 RunningRequest::Leaving leaving, TimePoint now) {
  tenants_.Stop(running->accepted());
  End(*running, status, leaving, now);
}

void Scheduler::Impl::EndFinished(TimePoint now) {
  for (Running& running : running_) {
    if (!running->finished()) continue;
    EndRunning(std::move(running), absl::OkStatus(), RunningRequest::Leaving::kEnded,
               now);
  }
  std::erase(running_, nullptr);
}

void Scheduler::Impl::End(RunningRequest& request, const absl::Status& status,
                          RunningRequest::Leaving leaving, TimePoint now) {
  request.Leave(status, leaving);
  observer_.OnFinished(request.Report(status, now));
  request.stream().End(status);
}

void Scheduler::Impl::EndAllRunning(const absl::Status& status,
                                    RunningRequest::Leaving leaving, TimePoint now) {
  for (Running& running : std::exchange(running_, {})) {
    EndRunning(std::move(running), status, leaving, now);
  }
}

void Scheduler::Impl::EndAllWaiting(const absl::Status& status,
                                    RunningRequest::Leaving leaving, TimePoint now) {
  for (Waiting& waiting : tenants_.TakeAll()) {
    EndWaiting(std::move(waiting), status, leaving, now);
  }
}

void Scheduler::Impl::ReportLevels() {
  SchedulerLevels levels;
  levels.running_requests = std::ssize(running_);
  for (const Running& running : running_) {
    levels.running_sequences += running->num_open_sequences();
    levels.paused_requests += running->paused() ? 1 : 0;
  }
  levels.waiting_sequences = out_of_turn_;
  levels.waiting_requests = tenants_.num_fresh();
  levels.waiting_tokens = tenants_.fresh_tokens();
  levels.aside_requests = tenants_.num_aside();
  levels.aside_bytes = tenants_.aside_bytes();
  levels.put_aside = tenants_.num_put_aside();
  tenants_.Report();
  levels.prefixes_on_device = keeper_.num_on_device();
  levels.prefix_cache_entries = cache_.num_entries();
  levels.prefix_cache_bytes = cache_.bytes();
  levels.prefix_cache_evictions = cache_.num_evicted();
  levels.prefix_cache_forgotten = cache_.num_forgotten();
  levels.engine = engine_.usage();
  reported_running_ = levels.running_requests > 0;
  observer_.OnLevels(levels);
}

// The earliest time at which DropLate would end something.
std::optional<TimePoint> Scheduler::Impl::NextTimeout() const {
  std::optional<TimePoint> next;
  const auto consider = [&next](std::optional<TimePoint> time) {
    if (time && (!next || *time < *next)) next = time;
  };
  consider(tenants_.next_late());
  for (const Running& running : running_) {
    consider(running->accepted().request.deadline);
    if (!running->paused()) continue;
    const std::optional<TimePoint> since = running->stream().waiting_since();
    if (since) consider(*since + options_.slow_reader);
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

void Scheduler::Cancel(RequestId id, absl::Status status) {
  impl_->Cancel(id, std::move(status));
}

void Scheduler::Interrupt(RequestId id, absl::Status status) {
  impl_->Interrupt(id, std::move(status));
}

void Scheduler::InterruptAll() { impl_->InterruptAll(); }

void Scheduler::ListRequests(RequestFilter filter, InfoCallback done) {
  impl_->ListRequests(std::move(filter), std::move(done));
}

void Scheduler::CancelIfThere(RequestId id, absl::Status status,
                              std::function<void(bool)> done) {
  impl_->CancelIfThere(id, std::move(status), std::move(done));
}

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
