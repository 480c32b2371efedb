#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/scheduler_impl.h"

namespace goldfinch {
namespace {

// Tokens of pasts that a step may expand, for each that it may feed. To feed one costs
// ten times as much and more (docs/performance.md), so a step stays about as long as it
// would be.
constexpr std::int64_t kExpandedPerToken = 8;

// Steps of the engine in one of the scheduler's where it runs ahead; and while somebody
// waits, whose claims are looked at in between.
constexpr int kMaxSteps = 16, kMaxStepsWithQueue = 4;

}  // namespace

bool Scheduler::Impl::BuildBatch() {
  sequences_.clear();
  members_.clear();
  batch_.clear();
  for (const Running& running : running_) running->AppendTo(sequences_, members_);
  plan_ = PlanStep(sequences_,
                   {.tokens = step_tokens_,
                    .prompt_tokens = pacer_.prompt_tokens(),
                    .grid = engine_.info().prompt_grid,
                    .expanded_pages = engine_.info().expanded_pages},
                   [this](std::span<const std::size_t> sequences) {
                     return CountExpandable(sequences);
                   });
  out_of_turn_ = std::ranges::count_if(sequences_, [](const PlanSequence& sequence) {
    return sequence.prompt_left == 0 && !sequence.paused;
  });
  for (const PlannedSpan& span : plan_) {
    if (sequences_[span.sequence].prompt_left == 0) --out_of_turn_;
    if (!span.gets_place) continue;
    const RunningRequest::Member& member = members_[span.sequence];
    member.request->GivePlace(member.candidate, kTurnTokens);
  }
  return !plan_.empty();
}

std::size_t Scheduler::Impl::CountExpandable(std::span<const std::size_t> sequences) {
  decoding_.clear();
  for (const std::size_t i : sequences) {
    decoding_.push_back(members_[i].request->sequence(members_[i].candidate));
  }
  return engine_.ReserveExpanded(decoding_);
}

// Leaves out of the plan what this step has no time to prepare; its turn comes.
void Scheduler::Impl::PrepareBatch() {
  const bool others_decode = sequences_[plan_.front().sequence].prompt_left == 0;
  std::int64_t left =
      kExpandedPerToken * (others_decode ? pacer_.prompt_tokens() : step_tokens_);
  EngineStep& step = engine_steps_[0];
  step.parts.clear();
  for (const PlannedSpan& span : plan_) {
    const RunningRequest::Member& member = members_[span.sequence];
    if (!member.request->Prepare(member.candidate, span.tokens, step_, left)) continue;
    batch_.push_back(member.request->MakeSpan(member.candidate, span.tokens));
    step.parts.push_back({.member = member,
                          .tokens = span.tokens,
                          .prompt = sequences_[span.sequence].prompt_left > 0,
                          .samples = batch_.back().output == SpanOutput::kSample,
                          .result = batch_.size() - 1});
  }
  if (step.results.size() < batch_.size()) step.results.resize(batch_.size());
}

// While the engine runs one step, the next is queued, as long as there is nothing to
// decide: then what they produce is published, and the next but one is queued, while the
// engine runs on. Nothing is in flight when this returns.
void Scheduler::Impl::RunBatch() {
  TimePoint started = clock_.Now();
  PrepareBatch();
  if (!batch_.empty()) {
    engine_.Queue(batch_, std::span(engine_steps_[0].results).first(batch_.size()));
  }
  const int most = MostSteps(engine_steps_[0]);
  const std::size_t parts = engine_steps_[0].parts.size();
  for (int i = 0;; ++i) {
    EngineStep& step = engine_steps_[i % 2];
    EngineStep& next = engine_steps_[(i + 1) % 2];
    const bool ahead =
        i + 1 < most && MayRunAhead(step.parts.size() < parts) && QueueNext(step, next);
    ++engine_step_;
    const absl::Status status = batch_.empty() ? absl::OkStatus() : engine_.Wait();
    const TimePoint now = clock_.Now();
    if (!status.ok()) {
      observer_.OnEngineError(status);
      EndAllRunning(absl::InternalError("the device failed while the request ran"),
                    RunningRequest::Leaving::kLost, now);
      return;
    }
    Report(step, now - started);
    started = now;
    Charge(step, now);
    Publish(step, ahead ? &next : nullptr, now);
    if (!ahead) return;
  }
}

void Scheduler::Impl::Report(const EngineStep& step, std::chrono::nanoseconds duration) {
  StepReport report{.duration = duration};
  report.sequences = std::ssize(step.parts);
  for (const EngineStep::Part& part : step.parts) {
    (part.prompt ? report.prompt_tokens : report.decode_tokens) += part.tokens;
  }
  pacer_.Note(report.prompt_tokens, report.duration);
  observer_.OnStep(report);
}

// The next step is this one again, with everybody's next token, if all that can run are
// in it and go on decoding.
int Scheduler::Impl::MostSteps(const EngineStep& first) const {
  if (!engine_.info().runs_ahead || copying_ ||
      std::ssize(first.parts) !=
          std::ranges::count(sequences_, false, &PlanSequence::paused) ||
      !std::ranges::all_of(first.parts, [](const EngineStep::Part& part) {
        return part.samples && !part.prompt;
      })) {
    return 1;
  }
  return tenants_.empty() ? kMaxSteps : kMaxStepsWithQueue;
}

// Whether nobody has anything for the step thread to do; memory that somebody had is for
// those who wait.
bool Scheduler::Impl::MayRunAhead(bool has_ended) const {
  if (!tasks_.empty() || inbox_->HasNews() || (has_ended && !tenants_.empty())) {
    return false;
  }
  const std::optional<TimePoint> timeout = NextTimeout();
  return !timeout || *timeout > clock_.Now();
}

// False, with nothing queued, if nobody goes on or somebody's reader is behind.
bool Scheduler::Impl::QueueNext(const EngineStep& step, EngineStep& next) {
  next.parts.clear();
  ahead_.clear();
  for (const EngineStep::Part& part : step.parts) {
    const RunningRequest& request = *part.member.request;
    if (!request.HasRoomAhead()) return false;
    if (request.EndsWithNext(part.member.candidate)) continue;
    next.parts.push_back(part);
    next.parts.back().result = ahead_.size();
    ahead_.push_back(request.sequence(part.member.candidate));
  }
  if (next.results.size() < ahead_.size()) next.results.resize(ahead_.size());
  return engine_.QueueNext(ahead_, std::span(next.results).first(ahead_.size()));
}

// Before the results are told: whose request has ended is no longer asked.
void Scheduler::Impl::Charge(const EngineStep& step, TimePoint now) {
  for (const EngineStep::Part& part : step.parts) {
    const AcceptedRequest& accepted = part.member.request->accepted();
    if (part.prompt) tenants_.ChargePrompt(accepted, part.tokens);
    if (part.samples) tenants_.ChargeGenerated(accepted);
  }
  generated_.clear();
  for (TenantAccount* account : tenants_.active()) {
    if (account->generated == 0) continue;
    generated_.push_back(
        {.tenant = &account->name, .tokens = std::exchange(account->generated, 0)});
  }
  if (!generated_.empty()) inbox_->Generated(generated_, now);
}

void Scheduler::Impl::Publish(EngineStep& step, EngineStep* next, TimePoint now) {
  for (const EngineStep::Part& part : step.parts) {
    part.member.request->TakeResult(
        part.member.candidate, part.tokens, step.results[part.result],
        {.observer = observer_, .number = ++turns_, .now = now});
  }
  // Those go no further, whatever has been queued for them.
  if (next != nullptr) {
    std::erase_if(next->parts, [](const EngineStep::Part& part) {
      return part.member.request->sequence(part.member.candidate) == SequenceId::kNone;
    });
  }
  EndFinished(now);
}

}  // namespace goldfinch
