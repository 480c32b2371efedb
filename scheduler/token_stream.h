// The bounded buffer between the step thread, which writes a request's events and never
// waits, and whoever reads them.
//
// Invariant: events come out in the order they went in, and the final status, set
// exactly once, after all of them. `capacity` bounds the token events held; the writer
// asks HasRoom() before a step and leaves a request out of it that has none, so the
// bound costs a slow reader its own speed and nobody else's.
//
// Threads: Push, End and HasRoom by the step thread; Take and SetReadyCallback by one
// reader; Cancelled/Cancel by any. The callback runs on the writing thread, holding no
// lock of the stream: it must return quickly and may call Take.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/sync/mutex.h"
#include "scheduler/request.h"

namespace goldfinch {

class TokenStream {
 public:
  // What one Take returned. `end` is set with, or after, the last events.
  struct Batch {
    std::vector<StreamEvent> events;
    std::optional<absl::Status> end;
  };

  explicit TokenStream(std::int64_t capacity);
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;

  // Appends; never blocks and never drops. Ignored after End.
  void Push(StreamEvent event);

  // Sets the request's one status; later calls are ignored.
  void End(absl::Status status);

  // True when `count` more events fit.
  bool HasRoom(std::int64_t count) const;

  // Moves out everything held. Empty without `end` when there is nothing yet.
  Batch Take();

  // `ready` is called after Push or End whenever there was nothing to take before. When
  // something is already there it is called at once, on the calling thread. An empty
  // function detaches the reader: after the call returns, `ready` is not running and
  // will not be called again.
  void SetReadyCallback(std::function<void()> ready);

  // Blocks until there is something to take or `deadline` passes, then takes it. For
  // tests and synchronous readers.
  Batch WaitAndTake(std::chrono::steady_clock::time_point deadline);

  // When the oldest event that is still held was pushed; empty when none is held.
  std::optional<std::chrono::steady_clock::time_point> waiting_since() const;

 private:
  const std::int64_t capacity_;
  mutable Mutex mu_;
  CondVar changed_;
  std::vector<StreamEvent> events_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace goldfinch
