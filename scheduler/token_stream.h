// The bounded buffer between the step thread, which writes a request's events and never
// waits, and whoever reads them.
//
// Invariant: events come out in the order they went in, and the final status, set
// exactly once, after all of them. `capacity` bounds the token events held; the writer
// asks HasRoom() before a step and leaves a request out of it that has none, so the
// bound costs a slow reader its own speed and nobody else's. A writer that was told so
// is woken by the Take that makes room.
//
// Threads: Push, End, HasRoom and Fits by the step thread; Take, WaitAndTake and
// SetReadyCallback by one reader. Callbacks hold no lock of the stream. `ready` runs on
// the writing thread: it must return quickly and may call any of the reader's methods.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "engine/sync/mutex.h"
#include "scheduler/clock.h"
#include "scheduler/request.h"

namespace goldfinch {

class TokenStream {
 public:
  // What one Take returned. `end` is set with, or after, the last events, and once.
  struct Batch {
    std::vector<StreamEvent> events;
    std::optional<absl::Status> end;
  };

  // `on_room`, when given, is called on the reader's thread after a Take that follows
  // a HasRoom() that was false: it lets the writer sleep until then.
  explicit TokenStream(std::int64_t capacity, std::function<void()> on_room = nullptr);
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;

  // Appends; never blocks and never drops. Ignored after End.
  void Push(StreamEvent event, TimePoint now);

  // Sets the request's one status (code and message); later calls are ignored.
  void End(const absl::Status& status);

  // True when `count` more token events fit; always when none is held.
  bool HasRoom(std::int64_t count) const;

  // True when `count` more fit, even if none is held. Nobody is woken for their sake.
  bool Fits(std::int64_t count) const;

  // Moves out everything held. Empty without `end` when there is nothing yet.
  Batch Take();

  // `ready` is called after Push or End whenever there was nothing to take before. When
  // something is already there it is called at once, on the calling thread. An empty
  // function detaches the reader: after the call returns, `ready` is not running (on
  // another thread) and will not be called again; so hold no lock here that it takes.
  void SetReadyCallback(std::function<void()> ready);

  // The reader is there, but busy with what comes before this stream: what is held waits
  // from now on.
  void NoteReading(TimePoint now);

  // Blocks until there is something to take or `deadline` passes, then takes it. For
  // tests and synchronous readers.
  Batch WaitAndTake(TimePoint deadline);

  // Since when the oldest event that is still held waits: when it was pushed, or the last
  // NoteReading after that. Empty when none is held.
  std::optional<TimePoint> waiting_since() const;

 private:
  using Callback = std::shared_ptr<const std::function<void()>>;

  bool HoldsSomething() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Batch TakeHeld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool CalledElsewhere() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The callback to Run() once mu_ is released; noted as running from now on.
  Callback BeginReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run(const Callback& ready) ABSL_LOCKS_EXCLUDED(mu_);

  const std::int64_t capacity_;
  const std::function<void()> on_room_;

  mutable Mutex mu_;
  CondVar changed_;
  std::vector<StreamEvent> events_ ABSL_GUARDED_BY(mu_);
  std::int64_t tokens_held_ ABSL_GUARDED_BY(mu_) = 0;
  TimePoint oldest_push_ ABSL_GUARDED_BY(mu_);            // see waiting_since
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);  // until it is taken
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  mutable bool room_wanted_ ABSL_GUARDED_BY(mu_) = false;
  Callback ready_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread::id> calling_ ABSL_GUARDED_BY(mu_);  // threads inside `ready`
};

}  // namespace goldfinch
