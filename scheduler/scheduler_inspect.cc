#include <algorithm>
#include <utility>
#include <vector>

#include "scheduler/scheduler_impl.h"

namespace goldfinch {

RequestInfo InfoOf(const AcceptedRequest& accepted, TimePoint now) {
  const Request& request = accepted.request;
  RequestInfo info;
  info.id = accepted.id;
  info.tenant = request.tenant;
  info.kind = request.kind;
  info.priority = request.priority;
  info.num_candidates = request.num_candidates;
  info.prompt_tokens = accepted.needs.prompt_tokens;
  info.generated_tokens = request.num_generated;
  info.max_tokens = request.kind == RequestKind::kGenerate ? request.max_tokens : 0;
  info.age = now - accepted.arrived;
  return info;
}

void Scheduler::Impl::ListRequests(RequestFilter filter, InfoCallback done) {
  const bool posted =
      inbox_->Post([this, filter = std::move(filter), done] { done(InfosOf(filter)); });
  if (!posted) done({});
}

std::vector<RequestInfo> Scheduler::Impl::InfosOf(const RequestFilter& filter) const {
  const TimePoint now = clock_.Now();
  std::vector<RequestInfo> infos;
  const auto add = [&](const AcceptedRequest& accepted, const RunningRequest* running) {
    if (accepted.id <= filter.after) return;
    if (!filter.tenant.empty() && accepted.request.tenant != filter.tenant) return;
    infos.push_back(running != nullptr ? running->Info(now) : InfoOf(accepted, now));
  };
  for (const Running& running : running_) add(running->accepted(), running.get());
  tenants_.ForEachWaiting(
      [&](const Waiting& waiting) { add(waiting.accepted(), waiting.aside.get()); });
  std::ranges::sort(infos, {}, &RequestInfo::id);
  if (infos.size() > filter.limit) infos.resize(filter.limit);
  return infos;
}

void Scheduler::Impl::CancelIfThere(RequestId id, absl::Status status,
                                    std::function<void(bool)> done) {
  const bool posted = inbox_->Post([this, id, status = std::move(status), done] {
    done(EndById(id, status, RunningRequest::Leaving::kEnded, clock_.Now()));
  });
  if (!posted) done(false);
}

}  // namespace goldfinch
