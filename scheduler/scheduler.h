// Continuous batching: one thread repeats Step() over all the requests there are.
//
// A step: take the inbox (submissions, cancellations) and drop what is past its
// deadline; admit waiting requests whose slots and pages fit; plan (every decoding
// sequence first, then prompt chunks under the token budget; see plan.h); run a step of
// the engine, or, while there is nothing to decide, some, one queued behind the other;
// publish the tokens. A request takes at admission every slot and page it can ever need,
// so memory runs out only there and nothing is ever recomputed. Pages of kept prefixes
// (kept_prefix.h) count as free: what was used longest ago is copied to host memory, or
// forgotten if only the prefix cache had it, before the grant.
//
// Invariants: an accepted request's stream gets exactly one End. Publishing never
// blocks: a request whose stream is full is left out of the step, and ended with ABORTED
// when its reader has taken nothing for `slow_reader`. A device fault ends the requests
// that were running, with INTERNAL, and no others. A request's memory is free, and its
// end reported to the observer, before its stream ends.
//
// Threads: all but Step by any thread (Shutdown not inside a stream's callback: it waits
// for the step thread). Step by one thread: either the one Start()
// makes, or, in tests, the caller's (then Start is never called).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "scheduler/clock.h"
#include "scheduler/observer.h"
#include "scheduler/request.h"
#include "scheduler/request_info.h"
#include "scheduler/token_stream.h"

namespace goldfinch {

struct SchedulerOptions {
  std::int64_t step_tokens = 512;  // token budget of one step
  // How long a step may take while somebody generates; 0: whatever its budget takes.
  std::chrono::nanoseconds step_time{0};
  std::int64_t max_context_tokens = 1048576;  // prompt and output of one sequence
  std::int64_t max_queued_requests = 1024;
  std::int64_t max_queued_tokens = 16777216;  // prompt tokens of all waiting requests
  std::int64_t stream_buffer_tokens = 1024;   // held for one reader, per request
  std::chrono::nanoseconds slow_reader = std::chrono::seconds(30);
  std::chrono::nanoseconds max_queue_time = std::chrono::minutes(5);
  // Host memory that requests which are put aside may come to take; 0: none are.
  std::int64_t aside_bytes = std::int64_t{1} << 30;
  std::int64_t prefix_cache_bytes = 0;          // host memory; 0: no prefix cache
  std::int64_t prefix_interval_tokens = 16384;  // see keep_points.h
};

class Scheduler {
 public:
  // All references outlive the scheduler.
  Scheduler(Engine& engine, const SchedulerOptions& options, const Clock& clock,
            SchedulerObserver& observer);
  ~Scheduler();  // as Shutdown
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  struct Submission {
    RequestId id;
    std::shared_ptr<TokenStream> stream;  // shared: reader and step thread end apart
  };

  // Queues the request. INVALID_ARGUMENT when it could never run (too long for
  // max_context_tokens, or for the whole pool of pages or slots); RESOURCE_EXHAUSTED
  // when the queue is full; DEADLINE_EXCEEDED when it is already late; UNAVAILABLE
  // after InterruptAll or Shutdown. Messages name the value and the limit.
  absl::StatusOr<Submission> Submit(Request request);

  // The request ends with `status` on the next step, its memory is free after it. A
  // no-op for a request that has ended.
  void Cancel(RequestId id,
              absl::Status status = absl::CancelledError("the request was cancelled"));

  // As Cancel, but the request, if it keeps its sequence, leaves all that is needed to go
  // on with the very next token, even within its prompt.
  void Interrupt(RequestId id, absl::Status status);
  // Everything, with UNAVAILABLE: the server is shutting down. What is submitted later is
  // refused with the same, so that nothing runs any more while all there is is parked.
  void InterruptAll();

  // Calls `done` on the step thread with what waits and runs, in order of ids. After
  // Shutdown, at once and with nothing.
  using InfoCallback = std::function<void(std::vector<RequestInfo>)>;
  void ListRequests(RequestFilter filter, InfoCallback done);
  // Ends the request with `status`, as Cancel does; calls `done` on the step thread
  // (after Shutdown, at once) with whether there was one.
  void CancelIfThere(RequestId id, absl::Status status, std::function<void(bool)> done);

  // Calls `done` on the step thread with the prefix's image, which is copied out if it is
  // on the device; the prefix stays where it is. Null for one of no tokens, when
  // the device has failed, and after Shutdown. Copying is spread over steps, so that
  // streams do not wait for it.
  using ImageCallback = std::function<void(std::shared_ptr<const PrefixImage>)>;
  void GetImage(std::shared_ptr<KeptPrefix> prefix, ImageCallback done);
  // Copies it out for good, if it is on the device; the next request that goes on from it
  // brings it back.
  void MoveToHost(std::shared_ptr<KeptPrefix> prefix);

  // Starts the step thread.
  void Start();

  // Interrupts every request and stops the step thread; later submissions get
  // UNAVAILABLE. Idempotent.
  void Shutdown();

  // One step on the calling thread; false when there was nothing to run. Tests only,
  // beside the step thread itself.
  bool Step();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace goldfinch
